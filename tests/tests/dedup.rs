//! Guests that come to a host which has some of their pages already.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use pagelift_tests::bed::ShmDir;
use pagelift_tests::contract::{check_completed, check_failed, number};
use pagelift_tests::{
    Bed, Images, Moved, PATIENCE, Programs, Qemu, Run, Ticks, Workload, guest_images, process,
    require,
};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// Carries as much as a link of 1 Gbit/s, so that bytes are worth something.
const LINK: [&str; 2] = ["--bandwidth", "1Gbit/s"];

fn workload() -> Workload {
    Workload {
        memory_mib: 256,
        fill_bytes: 128 * MIB,
        working_bytes: Some(4 * MIB),
        rate_bytes_per_s: 2 * MIB,
        ..Workload::default()
    }
}

/// A guest that has moved from one host to another, and a QEMU at the first one that waits for
/// it, beside the memory that the guest left there.
struct Visit {
    programs: Programs,
    first: Value,
    home: Qemu,
    away: Qemu,
    back: Qemu,
    kept: std::path::PathBuf,
    dirs: [ShmDir; 2],
}

impl Visit {
    fn begin(bed: &Bed, images: &Images) -> Result<Self> {
        let programs = Programs::built()?;
        let dirs = [bed.shm_dir("home")?, bed.shm_dir("away")?];
        let machine = Qemu::builder(bed, images).workload(&workload());
        let in_dir = |dir: &ShmDir| programs.wrap_keeping(machine.clone(), dir.path());
        let waiting = |dir| in_dir(dir).waiting();
        let home = in_dir(&dirs[0]).start("home")?;
        let away = waiting(&dirs[1]).start("away")?;
        home.wait_ready()?;
        home.wait_ticks(3)?;
        let moved = programs.migrate(bed, &home, &away, &LINK)?;
        let first = checked(&moved)?;
        away.wait_ticks(10)?;
        // QEMU goes, its memory stays, under a name that leaves room for the next one.
        home.execute("quit", serde_json::json!({}))?;
        home.wait_exit(PATIENCE)?;
        let kept = dirs[0].path().join("last-visit");
        fs::rename(dirs[0].path().join("pc.ram"), &kept).context("the memory stays")?;
        let back = waiting(&dirs[0]).start("back")?;
        Ok(Self {
            programs,
            first,
            home,
            away,
            back,
            kept,
            dirs,
        })
    }

    fn have(path: &Path) -> [&OsStr; 2] {
        [OsStr::new("--have"), path.as_os_str()]
    }

    /// The guest is home again, whole, and has not missed a tick.
    fn end(self) -> Result<()> {
        self.back.wait_ticks(10)?;
        let verified = self.back.verify()?;
        assert_eq!((verified.pages, verified.bad), (workload().pages(), 0));
        let logs = [self.home.log(), self.away.log(), self.back.log()];
        let ticks = Ticks::check(&workload(), &logs)?;
        assert!((0..3).all(|host| ticks.count_on(host) >= 3));
        drop((self.home, self.away, self.back, self.dirs));
        Ok(())
    }
}

fn checked(moved: &Moved) -> Result<Value> {
    let report = moved.sent.json()?;
    check_completed(&report, workload().memory_mib * MIB);
    assert_eq!(moved.received.code(), 0, "{moved:?}");
    Ok(report)
}

#[test]
fn a_guest_that_comes_back_sends_only_what_changed() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let visit = Visit::begin(&bed, &images)?;
    let have = Visit::have(&visit.kept);
    let moved = visit
        .programs
        .migrate_with(&bed, &visit.away, &visit.back, &LINK, &have)?;
    let (first, second) = (&visit.first, checked(&moved)?);
    let bytes = |report| number(report, "/wire_bytes");
    let of_memory = bytes(&second) / (workload().memory_mib * MIB) as f64;
    println!(
        "first visit {:.1} MB in {:.0} ms, back {:.1} MB in {:.0} ms: {:.1} % of the memory; {} {}",
        bytes(first) / 1e6,
        number(first, "/total_ms"),
        bytes(&second) / 1e6,
        number(&second, "/total_ms"),
        of_memory * 100.0,
        second["pages"],
        second["references"],
    );
    // What cannot be shrunk had to cross the first time.
    assert!(bytes(first) >= workload().fill_bytes as f64);
    // 4 MiB are written, and what the kernel writes; pages that go before the fingerprints have
    // come are a few milliseconds' worth, or more on a machine that is busy.
    assert!(bytes(&second) < bytes(first) / 4.0, "{second}");
    assert!(of_memory < 0.15, "{second}");
    let kept = number(&second, "/pages/reference") * 4096.0;
    assert!(kept >= workload().fill_bytes as f64 * 0.75, "{second}");
    assert_eq!(number(&second, "/references/missing_pages"), 0.0);
    visit.end()?;
    bed.finish();
    Ok(())
}

/// Until the receiving program has looked at the file, as far as its use of the processor tells.
fn wait_until_idle(run: &Run) {
    let mut before = f64::NAN;
    for _ in 0..PATIENCE.as_secs() * 2 {
        std::thread::sleep(Duration::from_millis(500));
        let now = process::cpu_seconds(run.pid());
        if now == before {
            return;
        }
        before = now;
    }
}

/// Half of the file goes, and the rest is overwritten, after its pages were offered.
#[test]
fn a_file_that_changes_meanwhile_costs_nothing_but_bytes() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let visit = Visit::begin(&bed, &images)?;
    let have = Visit::have(&visit.kept);
    let (receive, uri) = visit.programs.receive_with(&bed, &visit.back, &have)?;
    wait_until_idle(&receive);
    let file = File::options().write(true).open(&visit.kept)?;
    file.set_len(workload().memory_mib * MIB / 2)?;
    for page in (0..workload().memory_mib * MIB / 2).step_by(64 << 10) {
        std::os::unix::fs::FileExt::write_at(&file, b"something else", page)?;
    }
    let options = ["--dedup", "on", "--verify", LINK[0], LINK[1]];
    let send = visit.programs.send(&bed, &visit.away, &uri, &options)?;
    let moved = Moved {
        sent: send.wait()?,
        received: receive.wait()?,
    };
    let report = checked(&moved)?;
    assert_eq!(report["verified"], true);
    println!("{} {}", report["pages"], report["references"]);
    assert!(
        number(&report, "/references/missing_pages") > 0.0,
        "{report}"
    );
    visit.end()?;
    bed.finish();
    Ok(())
}

#[test]
fn a_file_that_cannot_be_used_is_named_before_anything_starts() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let dir = bed.shm_dir("ram")?;
    let machine = Qemu::builder(&bed, &images).workload(&Workload::default());
    let machine = programs.wrap_keeping(machine, dir.path());
    let target = machine.waiting().start("target")?;
    let short = bed.dir().join("short");
    fs::write(&short, b"short")?;
    for (file, word) in [
        (bed.dir().join("none"), "No such file"),
        (bed.dir().to_owned(), "not a regular file"),
        (short, "it has 5 bytes"),
        (
            dir.path().join("pc.ram"),
            "is the memory of the QEMU that waits here",
        ),
    ] {
        let mut command = programs.command(&bed, "pagelift-receive");
        command
            .arg("--qmp")
            .arg(target.qmp_path())
            .args(["--listen", "tcp://127.0.0.1:0", "--json"])
            .args(Visit::have(&file));
        let finished = Run::start(&bed, "receive", command)?.wait()?;
        assert_eq!(finished.code(), 1, "{finished:?}");
        let report = finished.json()?;
        let (code, message) = check_failed(&report, "failed");
        assert_eq!(code, "memory");
        assert!(message.contains(word), "{message}");
        assert!(message.contains(&file.display().to_string()), "{message}");
    }
    // The file is there: a second guest must not get it.
    let mut command = programs.command(&bed, "pagelift");
    command.args(["run", "--ram-dir"]).arg(dir.path()).args([
        "--",
        "qemu-system-x86_64",
        "-display",
        "none",
    ]);
    let finished = Run::start(&bed, "run", command)?.wait()?;
    assert_ne!(finished.code(), 0);
    assert!(finished.stderr.contains("is there already"), "{finished:?}");
    assert_eq!(target.run_state()?, "inmigrate");
    drop((target, dir));
    bed.finish();
    Ok(())
}
