//! Daemons that are killed at any moment of a migration: afterwards one host has the guest, and it runs.
//!
//! A few strikes a run, from a seed; `PAGELIFT_STRIKES=50` for as many as wanted.

mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pagelift_tests::{PATIENCE, require};
use support::{Daemon, guest_xml, qemu, virsh};

/// Strikes of a run, unless it is told.
const STRIKES: u64 = 4;
/// A migration of the small guest takes less, on a machine that is not busy.
const SPAN_MS: u64 = 700;

fn daemon(number: u8) -> Daemon {
    Daemon::start(&format!(
        "[host]\nname = \"host{number}\"\nuuid = \"{number}1111111-1111-4111-8111-111111111111\"\n\
         [migration]\naddress = \"127.0.0.1\"\nlisten = \"127.0.0.1\"\n\
         uri = \"qemu+unix:///system?socket=@DIR@/run/pageliftd-sock\"\n"
    ))
}

fn uri(daemon: &Daemon) -> String {
    format!("qemu+unix:///system?socket={}", daemon.socket().display())
}

fn state(daemon: &Daemon) -> String {
    let output = daemon.virsh(&["domstate", "g1"]);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn migrate(from: &Daemon, to: &Daemon, p2p: bool) -> Child {
    let mut command = Command::new("timeout");
    command.args(["60", "virsh", "-c", &uri(from), "migrate", "--live"]);
    if p2p {
        command.arg("--p2p");
    }
    command
        .args(["g1", &uri(to)])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A stream of numbers from a seed (xorshift64*).
fn random(state: &mut u64, below: u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
}

#[test]
fn one_host_has_the_guest_whenever_a_daemon_is_killed() {
    require!(virsh());
    require!(qemu());
    let told = std::env::var("PAGELIFT_STRIKES").ok();
    let strikes = told.and_then(|n| n.parse().ok()).unwrap_or(STRIKES);
    let seed = std::env::var("PAGELIFT_SEED")
        .ok()
        .and_then(|n| n.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id())) | 1;
    println!("seed {seed}");
    let mut numbers = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (mut a, mut b) = (daemon(1), daemon(2));
    let file = a.file("g1.xml", &guest_xml("g1", 1));
    a.virsh_ok(&["create", &file]);
    let mut on_a = true;
    for strike in 0..strikes {
        let (p2p, source_dies) = (random(&mut numbers, 2) == 0, random(&mut numbers, 2) == 0);
        let after = Duration::from_millis(random(&mut numbers, SPAN_MS));
        let (source, target) = if on_a {
            (&mut a, &mut b)
        } else {
            (&mut b, &mut a)
        };
        let mut client = migrate(source, target, p2p);
        std::thread::sleep(after);
        if source_dies {
            source.crash();
        } else {
            target.crash();
        }
        client.wait().unwrap();
        let what = format!("strike {strike}: p2p {p2p}, source {source_dies}, after {after:?}");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let states = (state(&a), state(&b));
            let qemus = (a.qemus().len(), b.qemus().len());
            match (states.0.as_str(), states.1.as_str(), qemus) {
                ("running", "", (1, 0)) => on_a = true,
                ("", "running", (0, 1)) => on_a = false,
                _ => {
                    let (a, b) = (a.log(), b.log());
                    assert!(
                        Instant::now() < deadline,
                        "{what}: {states:?} {qemus:?}\n{a}\n{b}"
                    );
                    std::thread::sleep(Duration::from_millis(50));
                    continue;
                }
            }
            println!(
                "{what}: the guest is on the {} host",
                if on_a { "first" } else { "second" }
            );
            break;
        }
        // And it is bound to nothing.
        let has = if on_a { &a } else { &b };
        let info = has.virsh_ok(&["domjobinfo", "g1"]);
        assert!(info.contains("None"), "{what}: {info}");
    }
}
