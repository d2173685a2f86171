//! A QEMU guest that moves over TLS, with the token that `pagelift-receive` has printed.

use anyhow::{Context, Result};
use pagelift_tests::contract::{check_completed, check_failed};
use pagelift_tests::{Bed, Programs, Qemu, Run, Snapshot, Ticks, Workload, guest_images, require};

const MIB: u64 = 1 << 20;

#[test]
fn a_guest_moves_with_the_command_that_the_target_has_printed() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let workload = Workload {
        memory_mib: 160,
        fill_bytes: 32 * MIB,
        rate_bytes_per_s: 4 * MIB,
        ..Workload::default()
    };
    let machine = programs.wrap(Qemu::builder(&bed, &images).workload(&workload));
    let (source, target) = machine.start_pair()?;
    source.wait_ticks(2)?;

    let (mut receive, uri) = programs.receive_with(&bed, &target, &["--new-token".as_ref()])?;
    let invitation = receive.wait_stderr(|text| {
        let (_, rest) = text.split_once("PAGELIFT_TOKEN=")?;
        Some(rest.split_once('\n')?.0.to_owned())
    })?;
    let (token, command) = invitation.split_once(' ').context("a command")?;
    assert_eq!(command, format!("pagelift-send --qmp PATH --to {uri}"));

    let send = |token: Option<&str>| -> Result<Run> {
        let mut send = programs.command(&bed, "pagelift-send");
        send.arg("--qmp").arg(source.qmp_path());
        send.args(["--to", &uri, "--json", "--verify"]);
        token.map(|token| send.env("PAGELIFT_TOKEN", token));
        Run::start(&bed, "send", send)
    };
    let before = Snapshot::of(&source)?;
    let wrong = "0123456789abcdef".repeat(2);
    let cases = [
        (None, "speaks TLS"),
        (Some(wrong.as_str()), "refuses the token"),
    ];
    for (token, words) in cases {
        let refused = send(token)?.wait()?;
        assert_eq!(refused.code(), 1, "{refused:?}");
        let report = refused.json()?;
        let (_, message) = check_failed(&report, "failed");
        assert!(message.contains(words), "{message}");
        before.assert_same(&source)?;
    }
    let no_token = send(Some("secret"))?.wait()?;
    assert!(
        no_token.stderr.contains("hexadecimal digits"),
        "{no_token:?}"
    );

    let sent = send(Some(token))?.wait()?;
    assert_eq!(sent.code(), 0, "{sent:?}; {}", receive.stderr());
    check_completed(&sent.json()?, workload.memory_mib * MIB);
    assert!(!sent.stderr.contains(token), "{sent:?}");
    let received = receive.wait()?;
    assert_eq!(received.code(), 0, "{received:?}");
    assert_eq!(target.run_state()?, "running");
    target.wait_ticks(3)?;
    assert_eq!(target.verify()?.bad, 0);
    Ticks::check(&workload, &[source.log(), target.log()])?;
    drop((source, target));
    bed.finish();
    Ok(())
}
