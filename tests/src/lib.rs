//! What the whole-path tests and the side-by-side benchmarks of pagelift are made of.
//!
//! | module | what it holds |
//! |---|---|
//! | [`bed`] | one test's place: names, directory, marked processes, and the leak check |
//! | [`browser`] | a browser without a window, for pages that programs write |
//! | [`content`] | what the guest's memory must hold, computed without the guest |
//! | [`contract`] | the report that `--json` promises |
//! | [`ctl`] | `pagelift ctl`: asks and changes a migration that runs |
//! | [`guest`] | the guest's kernel and initramfs, and what it does with its memory |
//! | [`hugepages`] | huge pages for a test |
//! | [`moving`] | moving a QEMU guest with the programs under test |
//! | [`net`] | a free port; two network namespaces joined by a link with a rate |
//! | [`process`] | the process table: descendants, CPU time, marks |
//! | [`programs`] | where the programs and the agent that were built are |
//! | [`qemu`] | a QEMU process with its serial console and monitors |
//! | [`qmp`] | a monitor client that shares nothing with the one under test |
//! | [`run`] | a program under test: what it prints, its end |
//! | [`serial`] | console lines with the time at which they came |
//! | [`mod@skip`] | tests that cannot run here say why and are counted |
//! | [`snapshot`] | what a migration that did not happen must leave as it was |
//! | [`supervise`] | a program that leaves nothing behind when a signal ends it |
//! | [`ticks`] | the guest's account of itself, checked across hosts |
//! | [`tmpfs`] | a small file system that fills up |
//!
//! A test begins like this:
//!
//! ```no_run
//! use pagelift_tests::{Bed, Qemu, Ticks, Workload, guest_images, require};
//!
//! # fn migrates() -> anyhow::Result<()> {
//! let images = require!(guest_images());
//! let bed = Bed::new()?;
//! let workload = Workload { rate_bytes_per_s: 20 << 20, ..Workload::default() };
//! let machine = Qemu::builder(&bed, &images).workload(&workload);
//! let source = machine.clone().start("source")?;
//! source.wait_ready()?;
//! let target = machine.waiting().start("target")?;
//! // ... migrate ...
//! target.wait_ticks(10)?;
//! assert_eq!(target.verify()?.bad, 0);
//! Ticks::check(&workload, &[source.log(), target.log()])?;
//! drop((source, target));
//! bed.finish();
//! # Ok(())
//! # }
//! ```
//!
//! Nothing here asserts durations; waits end after [`PATIENCE`], which is far longer than
//! anything takes on a slow machine.

pub mod bed;
pub mod browser;
pub mod cgroup;
pub mod content;
pub mod contract;
pub mod ctl;
pub mod guest;
pub mod hugepages;
pub mod lab;
pub mod moving;
pub mod net;
pub mod process;
pub mod programs;
pub mod qemu;
pub mod qmp;
pub mod run;
pub mod serial;
pub mod skip;
pub mod snapshot;
pub mod supervise;
pub mod ticks;
pub mod tmpfs;

use core::time::Duration;

pub use bed::Bed;
pub use browser::{Browser, Theme};
pub use cgroup::Cgroup;
pub use ctl::Ctl;
pub use guest::{Content, Images, Pattern, Phases, Workload, guest_images};
pub use hugepages::HugePages;
pub use lab::{Lab, LabRun};
pub use moving::{Moved, Programs};
pub use net::{NetPair, Side, free_port};
pub use programs::{agent_library, program};
pub use qemu::{Builder, Qemu, Verified};
pub use qmp::Qmp;
pub use run::{Finished, Run};
pub use serial::SerialLog;
pub use skip::Skip;
pub use snapshot::Snapshot;
pub use supervise::supervised;
pub use ticks::{TickError, Ticks};
pub use tmpfs::Tmpfs;

/// How long a wait lasts before it is taken for a failure.
pub const PATIENCE: Duration = Duration::from_secs(120);
