//! The guest: its kernel and initramfs, and what it does with its memory.

use core::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::Result;

use crate::bed::Bed;
use crate::skip::Skip;

/// What a guest is booted from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// The kernel, uncompressed by itself (bzImage).
    pub kernel: PathBuf,
    /// The initramfs with the writer.
    pub initrd: PathBuf,
}

impl Images {
    /// Copies in the bed that every user may read.
    pub fn readable(&self, bed: &Bed) -> Result<Self> {
        let copy = |image: &Path, name: &str| -> Result<PathBuf> {
            let copy = bed.dir().join(name);
            fs::copy(image, &copy)?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o644))?;
            Ok(copy)
        };
        Ok(Self {
            kernel: copy(&self.kernel, "kernel")?,
            initrd: copy(&self.initrd, "initrd")?,
        })
    }
}

/// The images of the test guest, built if they are not in the cache yet.
///
/// Safe to call from many tests and test runs at once. 20 ms when they are there, half a second
/// when they are built. A [`Skip`] says what the machine lacks, QEMU itself included.
pub fn guest_images() -> Result<Images, Skip> {
    static IMAGES: OnceLock<Result<Images, Skip>> = OnceLock::new();
    IMAGES
        .get_or_init(|| {
            require_qemu()?;
            build()
        })
        .clone()
}

/// The oldest QEMU that the tests are written for: direct mode was measured with 10.0.
const QEMU_MAJOR_MIN: u32 = 10;

fn require_qemu() -> Result<(), Skip> {
    let lacking = |what: &str| Skip(format!("{what}; run tests/run as root, or install it"));
    let output = Command::new("qemu-system-x86_64")
        .arg("--version")
        .output()
        .map_err(|_| lacking("qemu-system-x86_64 is missing"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let major: Option<u32> = text
        .strip_prefix("QEMU emulator version ")
        .and_then(|rest| rest.split('.').next()?.parse().ok());
    match major {
        Some(major) if major >= QEMU_MAJOR_MIN => Ok(()),
        _ => Err(lacking("qemu-system-x86_64 is older than 10")),
    }
}

fn build() -> Result<Images, Skip> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/guest/build");
    let output = Command::new(script)
        .output()
        .map_err(|error| Skip(format!("{script} cannot run: {error}")))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let mut lines = stdout.lines().map(PathBuf::from);
    match (output.status.code(), lines.next(), lines.next()) {
        (Some(0), Some(initrd), Some(kernel)) => Ok(Images { kernel, initrd }),
        // The script's own word for "the machine lacks something".
        (Some(3), ..) => Err(Skip(stderr.trim().to_owned())),
        // A guest that does not build is a fault of ours, which must not look like a skip.
        _ => panic!("{script} failed ({}):\n{stderr}", output.status),
    }
}

/// Which page the next write goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pattern {
    /// Nine of ten writes to the first tenth of the working set.
    Hot,
    /// One page after the other, round and round.
    Sequential,
    /// Any page, all alike.
    #[default]
    Uniform,
    /// Zipf's law with exponent 1; the popular pages lie scattered.
    Zipf,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hot => "hot",
            Self::Sequential => "sequential",
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
        })
    }
}

/// What the guest's pages hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Content {
    /// Nothing that a codec can shrink, each page its own.
    #[default]
    Random,
    /// Of every 64 bytes the second half is the same everywhere: codecs halve it. Writes of less
    /// than 64 bytes are random.
    Half,
    /// What the load of QEMU's guestperf leaves: 0xfe everywhere, and each write XORs a whole page
    /// with the same random page. All pages together hold two contents, and every second write
    /// to a page undoes the one before.
    Guestperf,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Random => "random",
            Self::Half => "half",
            Self::Guestperf => "guestperf",
        })
    }
}

/// Times with and without writes that follow each other, by the guest's monotonic clock: the first
/// busy time began when that clock was 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phases {
    /// Length of a time with writes, in milliseconds; above 0.
    pub busy_ms: u64,
    /// Length of a time without, in milliseconds; above 0.
    pub quiet_ms: u64,
}

impl Phases {
    /// Milliseconds of `from_ms..to_ms` by the guest's clock that are busy.
    pub fn busy_within_ms(&self, from_ms: u64, to_ms: u64) -> u64 {
        let cycle_ms = self.busy_ms + self.quiet_ms;
        let since_start =
            |ms: u64| ms / cycle_ms * self.busy_ms + (ms % cycle_ms).min(self.busy_ms);
        since_start(to_ms) - since_start(from_ms)
    }
}

/// What the guest does with its memory: the writer's parameters, see `tests/guest/writer.c`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Guest memory, in MiB. The kernel and its initramfs need about 80 of them.
    pub memory_mib: u64,
    /// Virtual CPUs, 1 to 16.
    pub cpus: u32,
    /// Writing threads, 1 to 16.
    pub threads: u32,
    /// Memory filled, in bytes.
    pub fill_bytes: u64,
    /// With what.
    pub content: Content,
    /// The part of it that is written to, in bytes; all of it if `None`.
    pub working_bytes: Option<u64>,
    /// Pages written per second, counted as bytes of whole pages; 0 is an idle guest and
    /// `u64::MAX` one that writes as fast as it can.
    pub rate_bytes_per_s: u64,
    /// Whether it computes between its writes, so much that `rate_bytes_per_s` takes all of its
    /// CPU: what keeps it from running then slows it down by as much.
    pub compute: bool,
    /// Bytes changed by one write, a power of two from 8 to 4096.
    pub width_bytes: u32,
    /// Where the writes go.
    pub pattern: Pattern,
    /// When it writes at all; always if `None`.
    pub phases: Option<Phases>,
    /// From one line of account to the next, in milliseconds.
    pub tick_ms: u64,
    /// Pages that the guest verifies in each tick, in turn (4 us each under emulation).
    pub check_pages: u64,
    /// Of the threads, the last so many compute and write nothing.
    pub computing: u32,
    /// Part of a CPU that each of these takes, in per cent, 1 to 100.
    pub demand_pct: u32,
    /// Whether each thread stays on a CPU of its own.
    pub pinned: bool,
    /// Seed of the content and of the order of writes.
    pub seed: u64,
}

impl Default for Workload {
    /// A guest of 256 MiB with one CPU, 64 MiB of it filled, idle, ticking every 100 ms.
    fn default() -> Self {
        Self {
            memory_mib: 256,
            cpus: 1,
            threads: 1,
            fill_bytes: 64 << 20,
            content: Content::Random,
            working_bytes: None,
            rate_bytes_per_s: 0,
            compute: false,
            width_bytes: 8,
            pattern: Pattern::Uniform,
            phases: None,
            tick_ms: 100,
            check_pages: 512,
            computing: 0,
            demand_pct: 100,
            pinned: false,
            seed: 1,
        }
    }
}

impl Workload {
    /// Pages that the guest fills and accounts for.
    pub fn pages(&self) -> u64 {
        self.fill_bytes / 4096
    }

    /// Ticks after which every page has been verified once.
    pub fn ticks_per_round(&self) -> u64 {
        let per_thread = (self.check_pages / u64::from(self.threads)).max(1);
        self.pages()
            .div_ceil(u64::from(self.threads))
            .div_ceil(per_thread)
    }

    /// The kernel command line. Without `no_timer_check` a kernel that is emulated on a busy machine may
    /// find its timer too slow, and panics.
    pub fn kernel_args(&self) -> String {
        let mut line = format!(
            "console=ttyS0 panic=-1 quiet no_timer_check pl.fill={} pl.rate={} pl.compute={} \
             pl.width={} pl.pattern={} pl.content={} pl.tick_ms={} pl.threads={} pl.check={} pl.seed={}",
            self.fill_bytes,
            self.rate_bytes_per_s,
            u8::from(self.compute),
            self.width_bytes,
            self.pattern,
            self.content,
            self.tick_ms,
            self.threads,
            self.check_pages,
            self.seed,
        );
        if self.computing > 0 {
            let (threads, demand) = (self.computing, self.demand_pct);
            line.push_str(&format!(" pl.computing={threads} pl.demand={demand}"));
        }
        if self.pinned {
            line.push_str(" pl.pinned=1");
        }
        if let Some(bytes) = self.working_bytes {
            line.push_str(&format!(" pl.working={bytes}"));
        }
        if let Some(Phases { busy_ms, quiet_ms }) = self.phases {
            line.push_str(&format!(" pl.busy_ms={busy_ms} pl.quiet_ms={quiet_ms}"));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_is_counted_over_any_span() {
        let phases = Phases {
            busy_ms: 30,
            quiet_ms: 20,
        };
        let busy = |from, to| phases.busy_within_ms(from, to);
        assert_eq!(busy(0, 30), 30);
        assert_eq!(busy(30, 50), 0);
        assert_eq!(busy(10, 60), 30);
        assert_eq!(busy(45, 145), 60);
        assert_eq!(busy(7, 7), 0);
        let by_ms: u64 = (0..500).map(|ms| busy(ms, ms + 1)).sum();
        assert_eq!(by_ms, busy(0, 500));
    }
}
