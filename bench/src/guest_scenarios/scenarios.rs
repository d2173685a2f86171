//! The guests: what each of them does with its memory.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use pagelift_tests::{Content, Pattern, Phases, Workload};

const MIB: u64 = 1 << 20;

/// As fast as it goes.
const MAX: u64 = u64::MAX;

/// One busy guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scenario {
    /// Its name on the command line and in tables.
    pub(crate) name: &'static str,
    /// What it is for, for people.
    pub(crate) about: &'static str,
    cpus: u32,
    /// Of the CPUs, so many compute and write nothing, each for this part of its time, in per cent.
    pub(crate) computing: u32,
    demand_pct: u32,
    memory_mib: u64,
    fill_mib: u64,
    working_mib: u64,
    rate_bytes_per_s: u64,
    compute: bool,
    width_bytes: u32,
    pattern: Pattern,
    content: Content,
    phases: Option<Phases>,
    /// Whether pagelift moves the same guest, idle, first: how long one pass over its memory takes.
    pub(crate) one_pass: bool,
}

/// What most guests have in common: one whose writes all over 128 MiB are more than a link of
/// 1 Gbit/s carries, in 256 MiB that hold something.
const BUSY: Scenario = Scenario {
    name: "",
    about: "",
    cpus: 1,
    computing: 0,
    demand_pct: 100,
    memory_mib: 512,
    fill_mib: 256,
    working_mib: 128,
    rate_bytes_per_s: 200 * MIB,
    compute: false,
    width_bytes: 4096,
    pattern: Pattern::Uniform,
    content: Content::Random,
    phases: None,
    one_pass: false,
};

/// All of them.
pub(crate) const SCENARIOS: [Scenario; 14] = [
    Scenario {
        name: "sparse",
        about: "one word of a random page",
        width_bytes: 8,
        ..BUSY
    },
    Scenario {
        name: "full",
        about: "whole random pages, incompressible",
        ..BUSY
    },
    Scenario {
        name: "bound",
        about: "the same by a guest that computes all the while, and slows down with its CPU",
        compute: true,
        ..BUSY
    },
    Scenario {
        name: "sequential",
        about: "512 bytes of one page after the other",
        width_bytes: 512,
        pattern: Pattern::Sequential,
        ..BUSY
    },
    Scenario {
        name: "zipf",
        about: "1 KiB of a page that Zipf's law chooses",
        working_mib: 256,
        width_bytes: 1024,
        pattern: Pattern::Zipf,
        ..BUSY
    },
    Scenario {
        name: "phases",
        about: "whole random pages for 4 s, nothing for 4 s, and so on",
        phases: Some(Phases {
            busy_ms: 4000,
            quiet_ms: 4000,
        }),
        ..BUSY
    },
    Scenario {
        name: "guestperf",
        about: "the load of QEMU's guestperf: XORs all pages in order, as fast as it goes",
        working_mib: 256,
        rate_bytes_per_s: MAX,
        pattern: Pattern::Sequential,
        content: Content::Guestperf,
        ..BUSY
    },
    Scenario {
        name: "unique",
        about: "the same order and speed, each page with a content of its own",
        working_mib: 256,
        rate_bytes_per_s: MAX,
        pattern: Pattern::Sequential,
        ..BUSY
    },
    Scenario {
        name: "words",
        about: "1 GiB, one word of a random page of 512 MiB; beside it the time of one pass",
        memory_mib: 1024,
        fill_mib: 512,
        working_mib: 512,
        width_bytes: 8,
        one_pass: true,
        ..BUSY
    },
    Scenario {
        name: "one-of-two",
        about: "one CPU writes whole random pages as fast as it can, the other computes half of \
                its time",
        cpus: 2,
        computing: 1,
        demand_pct: 50,
        fill_mib: 256,
        working_mib: 256,
        rate_bytes_per_s: MAX,
        ..BUSY
    },
    Scenario {
        name: "bound-of-two",
        about: "one CPU writes whole random pages and computes in between, which takes all of it, \
                the other computes half of its time",
        cpus: 2,
        computing: 1,
        demand_pct: 50,
        compute: true,
        fill_mib: 128,
        ..BUSY
    },
    Scenario {
        name: "one-of-four",
        about: "one CPU writes whole random pages as fast as it can, three compute a fifth of \
                their time",
        cpus: 4,
        computing: 3,
        demand_pct: 20,
        fill_mib: 384,
        working_mib: 384,
        rate_bytes_per_s: MAX,
        ..BUSY
    },
    Scenario {
        name: "two-of-four",
        about: "two CPUs write whole random pages, two compute a fifth of their time",
        cpus: 4,
        computing: 2,
        demand_pct: 20,
        working_mib: 256,
        rate_bytes_per_s: 800 * MIB,
        ..BUSY
    },
    Scenario {
        name: "four-of-four",
        about: "four CPUs write whole random pages",
        cpus: 4,
        rate_bytes_per_s: 800 * MIB,
        ..BUSY
    },
];

impl Scenario {
    /// Reads a name.
    pub(crate) fn parser() -> impl TypedValueParser<Value = Self> {
        PossibleValuesParser::new(SCENARIOS.map(|scenario| scenario.name)).map(|name| {
            let mut scenarios = SCENARIOS.into_iter();
            scenarios
                .find(|scenario| scenario.name == name)
                .expect("the parser lets only these pass")
        })
    }

    /// What the guest is told to do.
    pub(crate) fn workload(&self) -> Workload {
        Workload {
            memory_mib: self.memory_mib,
            cpus: self.cpus,
            threads: self.cpus,
            computing: self.computing,
            demand_pct: self.demand_pct,
            // The throttle can only tell work apart that stays where it is.
            pinned: self.cpus > 1,
            fill_bytes: self.fill_mib * MIB,
            content: self.content,
            working_bytes: Some(self.working_mib * MIB),
            rate_bytes_per_s: self.rate_bytes_per_s,
            compute: self.compute,
            width_bytes: self.width_bytes,
            pattern: self.pattern,
            phases: self.phases,
            // All of it is verified after the move; until then that shall cost little.
            check_pages: 64,
            ..Workload::default()
        }
    }
}
