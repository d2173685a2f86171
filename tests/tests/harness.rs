//! The harness without a guest: links, small file systems, and the leak check, which must find
//! what was left.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pagelift_tests::{
    Bed, NetPair, PATIENCE, Qemu, Side, Tmpfs, Workload, free_port, guest_images, process, require,
};

#[test]
fn the_leak_check_names_what_is_left_and_dropping_removes_it() -> Result<()> {
    let bed = Bed::new()?;
    assert_eq!(bed.leftovers(), [""; 0]);
    // Its own parent ends at once: only the mark still tells whose it is.
    let mut shell = bed.command("sh");
    shell
        .args(["-c", "sleep 600 & echo $!"])
        .stdout(Stdio::piped());
    let mut shell = shell.spawn()?;
    let mut orphan = [0; 16];
    let n = shell.stdout.take().context("piped")?.read(&mut orphan)?;
    let orphan: u32 = std::str::from_utf8(&orphan[..n])?.trim().parse()?;
    shell.wait()?;
    let ram = bed.shm_file("ram", 4096)?;
    std::fs::write(bed.runtime_dir().join("socket"), "")?;
    std::fs::write(bed.dir().join("notes"), "the test's own, no leak")?;

    let found = bed.leftovers();
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        found[0].starts_with(&format!("process {orphan} (")),
        "{found:?}"
    );
    assert!(
        found[1].ends_with(&format!("{}-ram", bed.tag())),
        "{found:?}"
    );
    assert!(found[2].ends_with("/run/socket"), "{found:?}");

    let (dir, path) = (bed.dir().to_owned(), ram.path().to_owned());
    // A panic in a test drops the bed just so, with the file's own guard forgotten.
    std::mem::forget(ram);
    drop(bed);
    assert!(!process::is_alive(orphan));
    assert!(!path.exists() && !dir.exists());
    Ok(())
}

#[test]
#[should_panic(expected = "left behind:\n  file ")]
fn finishing_a_bed_that_is_not_clean_is_a_failure() {
    let bed = Bed::new().expect("a directory");
    let _ram = bed.shm_file("ram", 4096).expect("a file");
    bed.finish();
}

#[test]
fn beds_at_once_do_not_take_each_other_for_their_own() -> Result<()> {
    let (one, other) = (Bed::new()?, Bed::new()?);
    let _ram = one.shm_file("ram", 4096)?;
    let mut child = one.command("sleep").arg("600").spawn()?;
    // A parent goes on when its child has let go of its memory (execve(2), vfork(2)), a moment
    // before the child has an environment of its own.
    let deadline = Instant::now() + PATIENCE;
    while process::marked(one.tag()).is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(one.leftovers().len(), 2);
    other.finish();
    assert!(process::is_alive(child.id()));
    drop(one);
    assert!(!child.wait()?.success());
    Ok(())
}

#[test]
fn a_qemu_that_cannot_start_says_why() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let error = Qemu::builder(&bed, &images)
        .workload(&Workload::default())
        .arg("-no-such-option")
        .start("guest")
        .expect_err("QEMU refuses the option");
    assert!(
        format!("{error:#}").contains("-no-such-option"),
        "{error:#}"
    );
    bed.finish();
    Ok(())
}

#[test]
fn a_qemu_behind_a_prefix_dies_with_it() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    // A shell that stays, as a wrapper may.
    let guest = Qemu::builder(&bed, &images)
        .prefix(["sh", "-c", "\"$@\"; exit $?", "prefix"])
        .env("PAGELIFT_TESTS_PROBE", "1")
        .start("guest")?;
    let qemu = guest.qemu_pid()?;
    assert_ne!(qemu, guest.pid());
    let environment = std::fs::read_to_string(format!("/proc/{qemu}/environ"))?;
    assert!(environment.contains("PAGELIFT_TESTS_PROBE=1"));
    guest.kill();
    assert!(!guest.is_running());
    drop(guest);
    bed.finish();
    // It was killed, but is not a child of ours: the kernel takes its time to tear it down.
    let deadline = Instant::now() + PATIENCE;
    while process::is_alive(qemu) {
        assert!(Instant::now() < deadline, "QEMU outlives its wrapper");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[test]
fn a_link_carries_what_it_must_and_no_more() -> Result<()> {
    let bed = Bed::new()?;
    let pair = require!(NetPair::new(&bed, Some(80_000_000)));
    let rate = Command::new("tc")
        .args([
            "-n",
            &pair.namespace(Side::Source),
            "qdisc",
            "show",
            "dev",
            "veth0",
        ])
        .output()?;
    let rate = String::from_utf8(rate.stdout)?;
    assert!(
        rate.contains("tbf") && rate.contains("rate 80Mbit"),
        "{rate}"
    );

    let address = pair.address(Side::Target).to_string();
    let answers = |patience: &str| -> Result<bool> {
        let ping = ["-c", "3", "-i", "0.2", "-W", patience, &address];
        let Ok(output) = pair.command(&bed, Side::Source, "ping").args(ping).output() else {
            return Ok(false);
        };
        Ok(output.status.success())
    };
    if Command::new("ping").arg("-V").output().is_ok() {
        assert!(answers("5")?);
        pair.cut()?;
        assert!(!answers("1")?);
        pair.mend()?;
        assert!(answers("5")?);
    }
    drop(pair);
    bed.finish();
    Ok(())
}

#[test]
fn a_small_file_system_fills_up() -> Result<()> {
    let bed = Bed::new()?;
    let disk = require!(Tmpfs::new(&bed, "disk", 1 << 20));
    let mut file = std::fs::File::create(disk.path().join("file"))?;
    file.write_all(&vec![1; 1 << 20])?;
    let full = file.write_all(&[1; 4096]).expect_err("it is full");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    drop((file, disk));
    bed.finish();
    Ok(())
}

#[test]
fn a_free_port_can_be_listened_on() -> Result<()> {
    let port = free_port()?;
    // It may have been taken since; then it is not ours to complain.
    if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
        assert_eq!(listener.local_addr()?.port(), port);
    }
    Ok(())
}
