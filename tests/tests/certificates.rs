//! A QEMU guest that moves over TLS with certificates, as libvirt and QEMU lay them out.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use pagelift_tests::contract::{check_completed, check_failed};
use pagelift_tests::{Bed, Programs, Qemu, Run, Snapshot, Ticks, Workload, guest_images, require};

const MIB: u64 = 1 << 20;

fn openssl(dir: &Path, words: &[&str]) -> Result<()> {
    let made = Command::new("openssl")
        .args(words)
        .current_dir(dir)
        .output()?;
    let said = String::from_utf8_lossy(&made.stderr);
    ensure!(made.status.success(), "openssl {words:?}: {said}");
    Ok(())
}

/// An authority of this name, and a certificate for each side, in `dir`.
fn certificates(dir: &Path, name: &str) -> Result<()> {
    fs::create_dir(dir)?;
    let subject = format!("/CN={name}");
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    let own = ["req", "-x509", "-days", "2", "-subj", &subject];
    let files = ["-keyout", "ca-key.pem", "-out", "ca-cert.pem"];
    openssl(dir, &[&own[..], &key, &files].concat())?;
    for (side, usage) in [("server", "serverAuth"), ("client", "clientAuth")] {
        let name = |part: &str| format!("{side}-{part}.pem");
        let (key_file, request, made) = (name("key"), name("request"), name("cert"));
        let files = [
            "req",
            "-subj",
            "/CN=a host of a test",
            "-keyout",
            &key_file,
            "-out",
            &request,
        ];
        openssl(dir, &[&files[..], &key].concat())?;
        fs::set_permissions(dir.join(&key_file), Permissions::from_mode(0o600))?;
        let extensions = format!("subjectAltName=DNS:{side}.example\nextendedKeyUsage={usage}\n");
        fs::write(dir.join("extensions"), extensions)?;
        openssl(
            dir,
            &[
                "x509",
                "-req",
                "-days",
                "2",
                "-in",
                &request,
                "-out",
                &made,
                "-CA",
                "ca-cert.pem",
                "-CAkey",
                "ca-key.pem",
                "-CAcreateserial",
                "-extfile",
                "extensions",
            ],
        )?;
    }
    Ok(())
}

#[test]
fn a_guest_moves_between_hosts_that_one_authority_vouches_for() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let dir = bed.dir().join("pki");
    certificates(&dir, "an authority")?;
    let others = bed.dir().join("others");
    certificates(&others, "another one")?;
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

    let options = [
        "--tls-dir".as_ref(),
        dir.as_os_str(),
        "--tls-peer".as_ref(),
        "client.example".as_ref(),
    ];
    let (receive, uri) = programs.receive_with(&bed, &target, &options)?;
    let send = |dir: &Path, name: &str| {
        let mut send = programs.command(&bed, "pagelift-send");
        send.arg("--qmp")
            .arg(source.qmp_path())
            .arg("--tls-dir")
            .arg(dir);
        send.args(["--tls-hostname", name, "--to", &uri]);
        send.args(["--json", "--verify", "--downtime", "5s"]);
        Run::start(&bed, "send", send)?.wait()
    };
    let before = Snapshot::of(&source)?;
    for (dir, name, words) in [
        (&others, "server.example", "no authority"),
        (&dir, "elsewhere.example", "elsewhere.example"),
    ] {
        let refused = send(dir, name)?;
        assert_eq!(refused.code(), 1, "{refused:?}");
        let report = refused.json()?;
        let (_, message) = check_failed(&report, "failed");
        assert!(message.contains(words), "{message}");
        before.assert_same(&source)?;
    }
    let sent = send(&dir, "server.example")?;
    assert_eq!(sent.code(), 0, "{sent:?}; {}", receive.stderr());
    check_completed(&sent.json()?, workload.memory_mib * MIB);
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
