//! Guests and moves of many shapes: machines, memory backends, CPUs, channels, users.

use std::ffi::OsStr;

use anyhow::Result;
use pagelift_tests::contract::{check_completed, number};
use pagelift_tests::{
    Bed, HugePages, Images, Pattern, Programs, Qemu, Ticks, Workload, guest_images, require,
};
use rustix::process::geteuid;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// A guest that writes a little everywhere.
fn small() -> Workload {
    Workload {
        memory_mib: 192,
        fill_bytes: 48 * MIB,
        rate_bytes_per_s: 8 * MIB,
        ..Workload::default()
    }
}

/// One move between two QEMUs that are alike.
struct Shape<'a> {
    bed: &'a Bed,
    images: &'a Images,
    programs: Programs,
    workload: Workload,
    /// Arguments of both QEMUs.
    qemu: &'a [&'a str],
    /// Options of `pagelift-send`.
    send: &'a [&'a str],
}

impl<'a> Shape<'a> {
    fn new(bed: &'a Bed, images: &'a Images) -> Result<Self> {
        Ok(Self {
            bed,
            images,
            programs: Programs::built()?,
            workload: small(),
            qemu: &[],
            send: &[],
        })
    }

    fn start(&self, name: &str, args: &[&str]) -> Result<Qemu> {
        let machine = Qemu::builder(self.bed, self.images).workload(&self.workload);
        let machine = self.programs.wrap(machine);
        let args = self.qemu.iter().chain(args);
        args.fold(machine, |machine, arg| machine.arg(OsStr::new(arg)))
            .start(name)
    }

    /// Moves it, checks its account, and gives the source's report.
    fn moves(&self) -> Result<Value> {
        let source = self.start("source", &[])?;
        let target = self.start("target", &["-incoming", "defer"])?;
        source.wait_ticks(3)?;
        let moved = self
            .programs
            .migrate(self.bed, &source, &target, self.send)?;
        target.wait_ticks(3)?;
        let verified = target.verify()?;
        assert_eq!((verified.pages, verified.bad), (self.workload.pages(), 0));
        let ticks = Ticks::check(&self.workload, &[source.log(), target.log()])?;
        assert!(ticks.count_on(0) >= 3 && ticks.count_on(1) >= 3);
        assert_eq!(source.run_state()?, "postmigrate");
        assert_eq!(moved.received.code(), 0, "{moved:?}");
        let report = moved.sent.json()?;
        check_completed(&report, self.workload.memory_mib * MIB);
        Ok(report)
    }
}

#[test]
fn a_guest_of_two_cpus_and_four_writers() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let mut shape = Shape::new(&bed, &images)?;
    shape.workload = Workload {
        cpus: 2,
        threads: 4,
        pattern: Pattern::Hot,
        ..small()
    };
    shape.moves()?;
    bed.finish();
    Ok(())
}

#[test]
fn a_q35_machine() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let mut shape = Shape::new(&bed, &images)?;
    shape.qemu = &["-machine", "q35"];
    shape.moves()?;
    bed.finish();
    Ok(())
}

/// Two nodes of different kinds: `pagelift run` makes both shareable.
#[test]
fn memory_in_two_numa_nodes_of_different_backends() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let mut shape = Shape::new(&bed, &images)?;
    shape.workload.cpus = 2;
    shape.qemu = &[
        "-object",
        "memory-backend-ram,id=m0,size=128M",
        "-object",
        "memory-backend-memfd,id=m1,size=64M",
        "-numa",
        "node,nodeid=0,cpus=0,memdev=m0",
        "-numa",
        "node,nodeid=1,cpus=1,memdev=m1",
    ];
    shape.moves()?;
    bed.finish();
    Ok(())
}

/// Files that the user has named, one of them not shared before `pagelift run`.
#[test]
fn memory_in_two_files() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let shape = Shape::new(&bed, &images)?;
    let mut hosts = Vec::new();
    let mut files = Vec::new();
    for (name, incoming) in [("source", false), ("target", true)] {
        let mut args = Vec::new();
        for (node, share) in [(0, "on"), (1, "off")] {
            let file = bed.shm_file(&format!("{name}-{node}"), 96 * MIB)?;
            args.extend([
                "-object".to_owned(),
                format!(
                    "memory-backend-file,id=m{node},size=96M,mem-path={},share={share}",
                    file.path().display()
                ),
                "-numa".to_owned(),
                format!("node,nodeid={node},memdev=m{node}"),
            ]);
            files.push(file);
        }
        if incoming {
            args.extend(["-incoming".to_owned(), "defer".to_owned()]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        hosts.push(shape.start(name, &args)?);
    }
    hosts[0].wait_ticks(3)?;
    let (programs, options) = (&shape.programs, ["--verify"]);
    let moved = programs.migrate(&bed, &hosts[0], &hosts[1], &options)?;
    assert_eq!(moved.sent.json()?["verified"], true);
    hosts[1].wait_ticks(3)?;
    assert_eq!(hosts[1].verify()?.bad, 0);
    Ticks::check(&shape.workload, &[hosts[0].log(), hosts[1].log()])?;
    drop((hosts, files));
    bed.finish();
    Ok(())
}

#[test]
fn memory_of_huge_pages() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let mut shape = Shape::new(&bed, &images)?;
    // Two guests, and a few pages for the kernel to round up.
    let _pool = require!(HugePages::reserve(2 * shape.workload.memory_mib * MIB));
    shape.qemu = &[
        "-object",
        "memory-backend-memfd,id=huge,hugetlb=on,size=192M",
        "-machine",
        "memory-backend=huge",
    ];
    // One write dirties a huge page: the guest's few writes are all its memory each round.
    shape.send = &["--verify", "--downtime", "5s"];
    let report = shape.moves()?;
    assert_eq!(report["verified"], true);
    bed.finish();
    Ok(())
}

#[test]
fn one_channel_and_eight() -> Result<()> {
    let images = require!(guest_images());
    for channels in ["1", "8"] {
        let bed = Bed::new()?;
        let mut shape = Shape::new(&bed, &images)?;
        let options = ["--channels", channels, "--verify"];
        shape.send = &options;
        let report = shape.moves()?;
        assert_eq!(report["verified"], true);
        bed.finish();
    }
    Ok(())
}

/// A cap makes the first round long, so that the guest writes meanwhile and more rounds follow.
#[test]
fn a_capped_rate_is_kept() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let mut shape = Shape::new(&bed, &images)?;
    shape.send = &["--bandwidth", "32MiB/s", "--downtime", "150ms"];
    let report = shape.moves()?;
    let rate = number(&report, "/wire_bytes") / number(&report, "/total_ms") * 1e3;
    // No clock on a busy machine makes the mean over the whole migration too high.
    assert!(rate < 40e6, "{rate} bytes/s: {report}");
    assert!(number(&report, "/rounds") > 2.0, "{report}");
    bed.finish();
    Ok(())
}

#[test]
fn a_paused_guest_arrives_paused() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let shape = Shape::new(&bed, &images)?;
    let source = shape.start("source", &[])?;
    let target = shape.start("target", &["-incoming", "defer"])?;
    source.wait_ticks(3)?;
    source.execute("stop", json!({}))?;
    let moved = shape
        .programs
        .migrate(&bed, &source, &target, &["--verify"])?;
    assert_eq!(moved.sent.json()?["verified"], true);
    assert_eq!(target.run_state()?, "paused");
    assert_eq!(source.run_state()?, "postmigrate");
    // Still as it was, and it can be woken.
    target.execute("cont", json!({}))?;
    target.wait_ticks(3)?;
    assert_eq!(target.verify()?.bad, 0);
    Ticks::check(&shape.workload, &[source.log(), target.log()])?;
    drop((source, target));
    bed.finish();
    Ok(())
}

/// QEMU and both programs as a user without any privilege.
#[test]
fn a_user_without_privileges_moves_a_guest() -> Result<()> {
    let images = require!(guest_images());
    if !geteuid().is_root() {
        pagelift_tests::skip!("the other tests run without privileges here already");
    }
    let bed = Bed::new()?;
    let programs = require!(Programs::for_user(&bed, 65534));
    let images = images.readable(&bed)?;
    let shape = Shape {
        programs,
        send: &["--verify"],
        ..Shape::new(&bed, &images)?
    };
    let report = shape.moves()?;
    assert_eq!(report["verified"], true);
    bed.finish();
    Ok(())
}

/// `cache=none`; what is refused without the option is in `refusals.rs`.
#[test]
fn a_disk_that_bypasses_the_page_cache() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let disk = bed.dir().join("disk.img");
    std::fs::File::create(&disk)?.set_len(MIB)?;
    let drive = format!("file={},format=raw,if=virtio,cache=none", disk.display());
    let mut shape = Shape::new(&bed, &images)?;
    let args = ["-drive", drive.as_str()];
    shape.qemu = &args;
    shape.send = &["--buffer-disks"];
    shape.moves()?;
    bed.finish();
    Ok(())
}
