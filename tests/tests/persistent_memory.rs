//! Persistent memory is a disk: left alone where both sides have the same file, and else refused, or
//! copied into an empty file on demand.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use pagelift_tests::contract::{check_completed, check_failed};
use pagelift_tests::{
    Bed, Builder, Finished, Images, Programs, Qemu, Snapshot, Ticks, Workload, guest_images,
    require,
};

const MIB: u64 = 1 << 20;
/// Of an NVDIMM, and of a virtio-pmem device.
const SIZE: u64 = 32 * MIB;

fn small() -> Workload {
    Workload {
        memory_mib: 160,
        fill_bytes: 16 * MIB,
        rate_bytes_per_s: 4 * MIB,
        ..Workload::default()
    }
}

/// The files of both kinds of persistent memory.
struct Disks(PathBuf, PathBuf);

impl Disks {
    /// Files in the bed that hold something here and there.
    fn filled(bed: &Bed, name: &str, seed: u64) -> Result<Self> {
        let disks = Self::empty(bed, name)?;
        for path in [&disks.0, &disks.1] {
            let file = File::options().write(true).open(path)?;
            for at in [0, 5 * MIB + 100, 20 * MIB, SIZE - 8] {
                file.write_all_at(&(seed + at).to_le_bytes(), at)?;
            }
        }
        Ok(disks)
    }

    fn empty(bed: &Bed, name: &str) -> Result<Self> {
        let create = |kind: &str| -> Result<PathBuf> {
            let path = bed.dir().join(format!("{name}.{kind}"));
            File::create_new(&path)?.set_len(SIZE)?;
            Ok(path)
        };
        Ok(Self(create("nvdimm")?, create("pmem")?))
    }

    fn content(&self) -> Result<[Vec<u8>; 2]> {
        Ok([fs::read(&self.0)?, fs::read(&self.1)?])
    }

    /// A machine that has them.
    fn machine<'a>(&self, bed: &'a Bed, images: &Images, programs: &Programs) -> Builder<'a> {
        let memory = format!("{}M,slots=2,maxmem=1G", small().memory_mib);
        let object = |id: &str, path: &Path| {
            let path = path.display();
            format!("memory-backend-file,id={id},share=on,size={SIZE},mem-path={path}")
        };
        let machine = Qemu::builder(bed, images).workload(&small());
        programs.wrap(machine).args([
            "-machine",
            "nvdimm=on",
            "-m",
            &memory,
            "-object",
            &(object("nv0", &self.0) + ",pmem=on"),
            "-device",
            "nvdimm,id=dimm0,memdev=nv0",
            "-object",
            &object("pm0", &self.1),
            "-device",
            "virtio-pmem-pci,id=disk0,memdev=pm0",
        ])
    }
}

fn assert_refused(finished: &Finished, words: &[&str]) -> Result<()> {
    assert_eq!(finished.code(), 1, "{finished:?}");
    let report = finished.json()?;
    let (_, message) = check_failed(&report, "failed");
    for word in words {
        assert!(message.contains(word), "no {word:?} in {message}");
    }
    Ok(())
}

#[test]
fn one_file_of_both_sides_is_left_alone_and_another_one_refused() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?.with_token();
    let disks = Disks::filled(&bed, "shared", 1)?;
    let before = disks.content()?;
    let machine = disks.machine(&bed, &images, &programs);
    let source = machine.clone().start("source")?;
    source.wait_ticks(2)?;
    let snapshot = Snapshot::of(&source)?;

    // Another file, whoever says what.
    let others = Disks::filled(&bed, "others", 2)?;
    let theirs = others.content()?;
    let other = others.machine(&bed, &images, &programs);
    let other = other.waiting().start("other")?;
    let copy = ["--persistent-memory", "copy"];
    let shared = ["--persistent-memory", "shared"];
    for options in [&[][..], &shared] {
        let to: Vec<_> = options.iter().map(OsStr::new).collect();
        let (receive, uri) = programs.receive_with(&bed, &other, &to)?;
        let sent = programs.send(&bed, &source, &uri, options)?.wait()?;
        let words = [
            "persistent memory nv0: it is a disk",
            "persistent memory pm0: it is a disk",
            "--persistent-memory copy",
        ];
        assert_refused(&sent, &words)?;
        assert_refused(&receive.wait()?, &words)?;
    }
    // Only one side is told to copy.
    let (receive, uri) = programs.receive(&bed, &other)?;
    let sent = programs.send(&bed, &source, &uri, &copy)?.wait()?;
    assert_refused(&sent, &["persistent memory (bytes)", "copied"])?;
    assert_refused(&receive.wait()?, &["persistent memory (bytes)"])?;
    // A file that holds something is not copied into.
    let mut command = programs.command(&bed, "pagelift-receive");
    command.arg("--qmp").arg(other.qmp_path()).args(copy);
    command.args(["--listen", "tcp://127.0.0.1:0", "--json"]);
    let finished = pagelift_tests::Run::start(&bed, "filled", command)?.wait()?;
    let words = ["persistent memory nv0 is not empty", "pm0 is not empty"];
    assert_refused(&finished, &words)?;
    assert!(
        others.content()? == theirs,
        "the target's disks are as they were"
    );
    assert!(
        disks.content()? == before,
        "the source's disks are as they were"
    );
    snapshot.assert_same(&source)?;
    drop(other);

    let target = machine.waiting().start("target")?;
    let moved = programs.migrate(&bed, &source, &target, &["--verify"])?;
    let report = moved.sent.json()?;
    // The disks are no part of it.
    check_completed(&report, small().memory_mib * MIB);
    assert!(disks.content()? == before, "the disks are left alone");
    target.wait_ticks(3)?;
    assert_eq!(target.verify()?.bad, 0);
    Ticks::check(&small(), &[source.log(), target.log()])?;
    drop((source, target));
    bed.finish();
    Ok(())
}

#[test]
fn persistent_memory_is_copied_into_empty_files_on_demand() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let (here, there) = (
        Disks::filled(&bed, "here", 1)?,
        Disks::empty(&bed, "there")?,
    );
    let before = here.content()?;
    let source = here.machine(&bed, &images, &programs).start("source")?;
    source.wait_ticks(2)?;
    let target = there.machine(&bed, &images, &programs);
    let target = target.waiting().start("target")?;
    let copy = ["--persistent-memory", "copy"];
    let send = [copy[0], copy[1], "--verify"];
    let receive = copy.map(OsStr::new);
    let moved = programs.migrate_with(&bed, &source, &target, &send, &receive)?;
    let moved = moved.sent.json()?;
    check_completed(&moved, small().memory_mib * MIB + 2 * SIZE);
    target.wait_ticks(3)?;
    assert_eq!(target.verify()?.bad, 0);
    assert!(there.content()? == before, "the disks have arrived");
    assert!(here.content()? == before);
    Ticks::check(&small(), &[source.log(), target.log()])?;
    drop((source, target));
    bed.finish();
    Ok(())
}

/// A guest that can only read its NVDIMM, beside a disk of memory that it can write.
#[test]
fn what_a_guest_can_only_read_is_never_copied() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?.with_token();
    let (here, there) = (
        Disks::filled(&bed, "here", 1)?,
        Disks::empty(&bed, "there")?,
    );
    let before = here.content()?;
    let machine = |read_only: &Path, written: &Path| {
        let object = |id: &str, path: &Path, more: &str| {
            let path = path.display();
            format!("memory-backend-file,id={id},size={SIZE},mem-path={path}{more}")
        };
        let memory = format!("{}M,slots=2,maxmem=1G", small().memory_mib);
        let machine = Qemu::builder(&bed, &images).workload(&small());
        programs.wrap(machine).args([
            "-machine",
            "nvdimm=on",
            "-m",
            &memory,
            "-object",
            &object("nv0", read_only, ",readonly=on"),
            "-device",
            "nvdimm,id=dimm0,memdev=nv0,unarmed=on",
            "-object",
            &object("pm0", written, ",share=on"),
            "-device",
            "virtio-pmem-pci,id=disk0,memdev=pm0",
        ])
    };
    let source = machine(&here.0, &here.1).start("source")?;
    source.wait_ticks(2)?;
    let copy = ["--persistent-memory", "copy"];

    let other = machine(&there.0, &there.1).waiting().start("other")?;
    let (receive, uri) = programs.receive_with(&bed, &other, &copy.map(OsStr::new))?;
    let sent = programs.send(&bed, &source, &uri, &copy)?.wait()?;
    let words = [
        "persistent memory nv0: it is a disk",
        "unless it is read-only",
    ];
    assert_refused(&sent, &words)?;
    assert_refused(&receive.wait()?, &words)?;
    drop(other);

    let target = machine(&here.0, &there.1).waiting().start("target")?;
    let send = [copy[0], copy[1], "--verify", "--downtime=2s"];
    let moved = programs.migrate_with(&bed, &source, &target, &send, &copy.map(OsStr::new))?;
    check_completed(&moved.sent.json()?, small().memory_mib * MIB + SIZE);
    target.wait_ticks(2)?;
    assert_eq!(target.verify()?.bad, 0);
    assert!(
        here.content()? == before,
        "the source's disks are as they were"
    );
    assert!(fs::read(&there.1)? == before[1], "the other has arrived");
    drop((source, target));
    bed.finish();
    Ok(())
}
