//! The results as Markdown tables.

use std::fmt::Write;
use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

use pagelift_bench::figures::{middle, spread};
use pagelift_tests::{Content, Workload};

use crate::methods::Method;
use crate::options::Options;
use crate::result::Move;
use crate::scenarios::Scenario;

const MIB: f64 = (1 << 20) as f64;

/// The machine and what holds for all tables.
pub(crate) fn conditions(options: &Options) -> String {
    let first_line = |text: String| text.lines().next().unwrap_or_default().trim().to_owned();
    let qemu = Command::new("qemu-system-x86_64")
        .arg("--version")
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let read = |path: &str| first_line(fs::read_to_string(path).unwrap_or_default());
    let load = read("/proc/loadavg");
    format!(
        "{} ({}), Linux {}, {} cores, load {} at the start; link {} each way, downtime of at most \
         {} ms allowed, given up after {} s; {} run(s).\n",
        first_line(qemu.unwrap_or_default()),
        options.accel,
        read("/proc/sys/kernel/osrelease"),
        available_parallelism().map_or(0, usize::from),
        load.split(' ').next().unwrap_or_default(),
        options.link,
        options.downtime_ms(),
        options.limit().as_secs(),
        options.runs,
    )
}

/// The table of one guest.
pub(crate) fn table(options: &Options, scenario: &Scenario, moves: &[Move]) -> String {
    let mut text = format!(
        "\n**{}**: {}. {}\n\n",
        scenario.name,
        scenario.about,
        guest(options, &options.workload(scenario))
    );
    text.push_str(
        "| setting | time s | downtime ms | wire MiB | rounds | throttle % | slowdown s | others |",
    );
    let head = if scenario.one_pass {
        (" one pass s | times that |", "---|---|")
    } else if scenario.computing > 0 {
        (" of those that compute s |", "---|")
    } else {
        ("", "")
    };
    let _ = writeln!(text, "{} memory |", head.0);
    let _ = writeln!(text, "|---|---|---|---|---|---|---|---|{}---|", head.1);
    let mut notes = String::new();
    for method in &options.methods {
        let rows = Rows(moves.iter().filter(|m| m.method == *method).collect());
        text.push_str(&rows.line(options, scenario, method));
        notes.push_str(&rows.notes(method));
    }
    let speeds: Vec<f64> = moves
        .iter()
        .filter_map(|m| Some(m.work?.pages_per_s * 4096.0 / MIB))
        .collect();
    if !speeds.is_empty() {
        let speed = spread(&speeds, 0);
        let _ = write!(
            text,
            "\nAt full speed it wrote {speed} MiB of pages a second.\n"
        );
    }
    if let Some(line) = verdict(moves) {
        let _ = write!(text, "\n{line}\n");
    }
    if !notes.is_empty() {
        let _ = write!(text, "\n{notes}");
    }
    text
}

fn guest(options: &Options, workload: &Workload) -> String {
    let mib = |bytes: u64| bytes >> 20;
    let rate = match workload.rate_bytes_per_s {
        u64::MAX => "as many as it can".to_owned(),
        rate => format!("{} MiB of them a second", mib(rate)),
    };
    let content = match workload.content {
        Content::Random => ", incompressible",
        Content::Half => ", half of it compressible",
        Content::Guestperf => "",
    };
    format!(
        "Guest of {} MiB, {} CPU(s), {} MiB filled{content}; writes {} bytes to pages of {} MiB, \
         {rate}; cache of old contents {} MiB.",
        workload.memory_mib,
        workload.cpus,
        mib(workload.fill_bytes),
        workload.width_bytes,
        mib(workload.working_bytes.unwrap_or(workload.fill_bytes)),
        mib(options.cache_bytes(workload)),
    )
}

/// All moves of one guest by one method.
struct Rows<'a>(Vec<&'a Move>);

impl Rows<'_> {
    fn figure(&self, decimals: usize, of: impl Fn(&Move) -> Option<f64>) -> String {
        let values: Vec<f64> = self.0.iter().filter_map(|moved| of(moved)).collect();
        match values[..] {
            [] => "-".to_owned(),
            [value] => format!("{value:.decimals$}"),
            _ => spread(&values, decimals),
        }
    }

    fn line(&self, options: &Options, scenario: &Scenario, method: &Method) -> String {
        let runs = self.0.len();
        let completed = self.0.iter().filter(|m| m.total_s.is_some()).count();
        let mut time = self.figure(1, |m| m.total_s);
        if completed == 0 {
            time = format!("not in {}", options.limit().as_secs());
        } else if completed < runs {
            let _ = write!(time, ", {completed} of {runs}");
        }
        let one_pass = if scenario.one_pass {
            let ratio = |m: &Move| Some(m.total_s? / m.one_pass_s?);
            format!(
                " {} | {} |",
                self.figure(1, |m| m.one_pass_s),
                self.figure(2, ratio)
            )
        } else if scenario.computing > 0 {
            format!(" {} |", self.figure(1, |m| m.work?.computing_lost_s))
        } else {
            String::new()
        };
        let right = self.0.iter().all(|m| m.faults.is_empty());
        format!(
            "| {} | {time} | {} | {} | {} | {} | {} | {} |{one_pass} {} |\n",
            method.name,
            self.figure(0, |m| m.blackout_ms),
            self.figure(0, |m| Some(m.wire_bytes as f64 / MIB)),
            self.figure(0, |m| m.rounds.map(|rounds| rounds as f64)),
            self.figure(0, |m| Some(m.throttle_pct_max)),
            // Rounded here, so that there is no -0.0.
            self.figure(1, |m| Some((m.work?.lost_s * 10.0).round() / 10.0 + 0.0)),
            self.figure(1, |m| Some(m.others_cpus)),
            if right { "right" } else { "NOT RIGHT" },
        )
    }

    /// Why guests stayed, in the engine's words, and what was not right.
    fn notes(&self, method: &Method) -> String {
        let whys = self
            .0
            .iter()
            .flat_map(|m| m.failure.iter().chain(&m.faults));
        let mut text = String::new();
        for why in whys {
            let _ = writeln!(text, "- {}: {}", method.name, why.replace('\n', " "));
        }
        text
    }
}

/// What a slowdown may be off, in seconds, on a machine that does nothing else: full speed is
/// known from three seconds, to about 2 %, and a long move takes some ten.
const ERROR_S: f64 = 0.3;

/// pagelift's slowdown, without options and by its best setting, against that of QEMU's best
/// setting, of those that moved the guest every time.
fn verdict(moves: &[Move]) -> Option<String> {
    let lost = |method: Method| {
        let rows = || moves.iter().filter(|m| m.method == method);
        let all = rows().all(|m| m.total_s.is_some());
        let lost_s = middle(rows().filter_map(|m| Some(m.work?.lost_s)));
        (all && lost_s.is_finite()).then_some((lost_s, method.name))
    };
    let mut methods: Vec<Method> = Vec::new();
    for moved in moves {
        if !methods.contains(&moved.method) {
            methods.push(moved.method);
        }
    }
    let best = |ours: bool| {
        let methods = methods.iter().filter(|m| m.is_pagelift() == ours);
        methods
            .filter_map(|method| lost(*method))
            .min_by(|a, b| a.0.total_cmp(&b.0))
    };
    let as_users_have_it = methods
        .iter()
        .find(|m| m.is_as_users_have_it())
        .and_then(|method| lost(*method));
    let (ours, theirs) = (best(true), best(false));
    if ours.is_none() && theirs.is_none() {
        return None;
    }
    let words = |best: Option<(f64, &str)>| match best {
        Some((lost_s, name)) => format!("{:.1} s ({name})", lost_s.max(0.0)),
        None => "none of them moves it".to_owned(),
    };
    let both = [true, false].map(|ours| methods.iter().any(|m| m.is_pagelift() == ours));
    if both != [true, true] {
        // There is nothing to compare.
        return None;
    }
    let judged = |ours: Option<(f64, &str)>| match (ours, theirs) {
        (Some(ours), theirs) => judge(ours.0, theirs.map(|theirs| theirs.0)),
        (None, _) => "not moved",
    };
    let mut text = format!(
        "Least slowdown: pagelift {}, QEMU {}: {}.",
        words(ours),
        words(theirs),
        judged(ours)
    );
    if let Some(default) = as_users_have_it {
        let (lost_s, judged) = (default.0.max(0.0), judged(Some(default)));
        let _ = write!(text, " pagelift without options: {lost_s:.1} s: {judged}.");
    }
    Some(text)
}

/// Whether `ours` is at most half of `theirs`, as far as that can be measured.
fn judge(ours: f64, theirs: Option<f64>) -> &'static str {
    match theirs {
        None => "QEMU does not move it",
        Some(theirs) if theirs <= 2.0 * ERROR_S && ours <= ERROR_S => {
            "nothing that could be measured"
        }
        Some(theirs) if ours <= theirs / 2.0 => "at most half",
        Some(theirs) if ours <= theirs / 2.0 + ERROR_S => "half, within the measuring error",
        Some(_) => "MORE THAN HALF",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_is_judged_as_far_as_it_can_be_measured() {
        let none = "nothing that could be measured";
        assert_eq!(judge(0.2, Some(0.0)), none);
        assert_eq!(judge(-0.1, Some(-0.3)), none);
        assert_eq!(judge(0.3, Some(0.5)), none);
        assert_eq!(judge(0.9, Some(1.8)), "at most half");
        assert_eq!(judge(0.7, Some(1.0)), "half, within the measuring error");
        assert_eq!(judge(0.8, Some(0.0)), "MORE THAN HALF");
        assert_eq!(judge(1.0, Some(1.2)), "MORE THAN HALF");
        assert_eq!(judge(9.0, None), "QEMU does not move it");
    }
}
