//! One move: a fresh guest, measured from outside, and checked.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result};
use pagelift_bench::machine::{self, own_cpu_seconds};
use pagelift_bench::memory::touch;
use pagelift_bench::qemu::event_time_s;
use pagelift_tests::{Bed, Images, NetPair, PATIENCE, Qemu, Side, Ticks, Workload, program};
use serde_json::Value;

use crate::engines::{Attempt, Ends, Limits};
use crate::options::Options;
use crate::result::{Case, Move, WorkFigures};
use crate::slowdown::{Span, Work};

/// How long a guest is watched at full speed before its move; with phases, at least a whole cycle.
const WARM_UP: Duration = Duration::from_secs(3);

/// How long it is watched after it has arrived, so that first writes to fresh memory count too.
const SETTLING: Duration = Duration::from_secs(2);

/// What all moves have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bench<'a> {
    /// The command line.
    pub(crate) options: &'a Options,
    /// What the guests boot from.
    pub(crate) images: &'a Images,
}

impl Bench<'_> {
    /// Moves a fresh guest; with pagelift, and where the scenario wants that, an idle one before.
    pub(crate) fn run(&self, case: Case) -> Result<Move> {
        let workload = self.options.workload(&case.scenario);
        let one_pass_s = match case.scenario.one_pass && case.method.is_pagelift() {
            true => {
                let idle = Workload {
                    rate_bytes_per_s: 0,
                    ..self.options.workload(&case.scenario)
                };
                let pass = self.clean(case, &idle, "idle-")?;
                let time = pass.total_s.with_context(|| {
                    format!("even the idle guest does not move: {:?}", pass.failure)
                })?;
                Some(time)
            }
            false => None,
        };
        let moved = self.clean(case, &workload, "")?;
        Ok(Move {
            one_pass_s,
            ..moved
        })
    }

    /// One move in a place of its own, which must be left clean.
    fn clean(&self, case: Case, workload: &Workload, kind: &str) -> Result<Move> {
        let bed = Bed::new()?;
        let mut moved = self.moved(&bed, case, workload, kind)?;
        let left = bed.left_behind();
        moved
            .faults
            .extend(left.iter().map(|what| format!("left behind: {what}")));
        Ok(moved)
    }

    fn moved(&self, bed: &Bed, case: Case, workload: &Workload, kind: &str) -> Result<Move> {
        let net = NetPair::new(bed, Some(self.options.link.0.saturating_mul(8)))?;
        let ram_bytes = workload.memory_mib << 20;
        let source_ram = bed.shm_file("source", ram_bytes)?;
        let target_ram = bed.shm_file("target", ram_bytes)?;
        let machine = |side| {
            let machine = Qemu::builder(bed, self.images)
                .workload(workload)
                .accel(&self.options.accel)
                .prefix(net.prefix(side));
            Ok::<_, anyhow::Error>(match case.method.is_pagelift() {
                true => machine.prefix([program("pagelift")?]).prefix(["run", "--"]),
                false => machine,
            })
        };
        let source = machine(Side::Source)?
            .ram_file(source_ram.path())
            .start("source")?;
        source.wait_ready()?;
        source.wait_ticks(2)?;
        let target = machine(Side::Target)?
            .ram_file(target_ram.path())
            .args(["-incoming", "defer"])
            .start("target")?;
        let limits = Limits {
            downtime_ms: self.options.downtime_ms(),
            limit: self.options.limit(),
            cache_bytes: self.options.cache_bytes(workload),
            cache_is_told: self.options.cache_is_told(),
        };
        let (net, source, target) = (&net, &source, &target);
        let ends = Ends {
            bed,
            net,
            source,
            target,
        };
        let trace = bed.dir().join("trace");
        let ready = case.method.engine.prepare(ends, limits, &trace)?;
        touch(usize::try_from(ram_bytes)?);
        let cycle_ms = workload.phases.map_or(0, |p| p.busy_ms + p.quiet_ms);
        // Full speed is that of a machine that does nothing else.
        let (warm, cpu_before) = (Instant::now(), others_cpu_s(ends));
        sleep(WARM_UP.max(Duration::from_millis(cycle_ms)));
        let others_cpus = (others_cpu_s(ends) - cpu_before) / warm.elapsed().as_secs_f64();

        until_busy(workload, source)?;
        let sent_before = net.sent_bytes(Side::Source)?;
        let attempt = ready.go(ends, limits, &trace)?;
        let moved = attempt.failure.is_none();
        let arrival = if moved {
            Some(arrival(ends, &attempt)?)
        } else {
            None
        };
        let wire_bytes = net.sent_bytes(Side::Source)? - sent_before;

        // A guest that stayed is judged for as long as the engine tried.
        let (home, end) = match &arrival {
            Some(arrival) => (target, arrival.at + SETTLING),
            None => (source, Instant::now()),
        };
        while Instant::now() < end {
            sleep(Duration::from_millis(10));
        }
        let mut faults = Vec::new();
        let span = Span {
            warm,
            began: attempt.began.0,
            end,
        };
        let work = account(workload, ends, home, span, &mut faults);
        self.keep(case, kind, &attempt.report, &trace)?;
        Ok(Move {
            scenario: case.scenario.name,
            method: case.method,
            run: case.run,
            total_s: arrival.as_ref().map(|arrival| arrival.total_s),
            blackout_ms: arrival.as_ref().map(|arrival| arrival.blackout_s * 1e3),
            wire_bytes,
            rounds: attempt.rounds,
            throttle_pct_max: attempt.throttle_pct_max,
            work,
            others_cpus: others_cpus.max(0.0),
            failure: attempt.failure,
            faults,
            one_pass_s: None,
            report: attempt.report,
        })
    }

    /// Keeps what an engine left to read, where that is wanted.
    fn keep(&self, case: Case, kind: &str, report: &Value, trace: &Path) -> Result<()> {
        let Some(dir) = &self.options.keep else {
            return Ok(());
        };
        let (scenario, method) = (case.scenario.name, case.method.name);
        let file = |end: &str| dir.join(format!("{kind}{scenario}-{method}-{}.{end}", case.run));
        let written = || format!("cannot write to {}", dir.display());
        fs::create_dir_all(dir).with_context(written)?;
        fs::write(file("json"), report.to_string()).with_context(written)?;
        if trace.exists() {
            fs::copy(trace, file("trace")).with_context(written)?;
        }
        Ok(())
    }
}

/// Waits until the guest's next busy phase begins, so that all methods meet the same guest.
fn until_busy(workload: &Workload, source: &Qemu) -> Result<()> {
    let Some(phases) = workload.phases else {
        return Ok(());
    };
    let ticks = Ticks::check(workload, &[source.log()])?.ticks;
    let last = ticks.last().context("it ticks")?;
    let cycle_ms = phases.busy_ms + phases.quiet_ms;
    let left = Duration::from_millis(cycle_ms - last.mono_ms % cycle_ms);
    sleep((last.at + left).saturating_duration_since(Instant::now()));
    Ok(())
}

/// CPU seconds that all but this program and the two QEMUs have used so far.
fn others_cpu_s(ends: Ends<'_>) -> f64 {
    let ours = ends.source.cpu_seconds() + ends.target.cpu_seconds() + own_cpu_seconds();
    machine::cpu_seconds() - ours
}

/// A guest on the target.
struct Arrival {
    at: Instant,
    total_s: f64,
    blackout_s: f64,
}

fn arrival(ends: Ends<'_>, attempt: &Attempt) -> Result<Arrival> {
    let resumed_s = event_time_s(&ends.target.wait_event("RESUME", PATIENCE)?)?;
    let stopped_s = ends.source.last_event_s("STOP")?;
    let (began, began_wall) = attempt.began;
    let total_s = resumed_s - began_wall.duration_since(UNIX_EPOCH)?.as_secs_f64();
    Ok(Arrival {
        at: began + Duration::try_from_secs_f64(total_s)?,
        total_s,
        blackout_s: resumed_s - stopped_s,
    })
}

/// Reads and checks the guest's account and has it verify all its memory. What is wrong goes to
/// `faults`.
fn account(
    workload: &Workload,
    ends: Ends<'_>,
    home: &Qemu,
    span: Span,
    faults: &mut Vec<String>,
) -> Option<WorkFigures> {
    let logs = || [ends.source.log(), ends.target.log()];
    let runs = home.wait_ticks(3);
    // The check of all memory keeps the guest from ticking, so the account ends before it.
    let ticks = match runs.and_then(|()| Ok(Ticks::check(workload, &logs())?)) {
        Ok(ticks) => ticks,
        Err(error) => {
            faults.push(format!("{error:#}"));
            return None;
        }
    };
    match home.verify() {
        Ok(verified) if verified.pages == workload.pages() && verified.bad == 0 => {}
        Ok(verified) => faults.push(format!("the guest lost memory: {verified:?}")),
        Err(error) => faults.push(format!("{error:#}")),
    }
    let all = workload.threads as usize;
    let writing = all - workload.computing as usize;
    let of = |threads| Work::of(&ticks.ticks, threads, workload.phases, span);
    let work = of(0..writing)?;
    Some(WorkFigures {
        pages_per_s: work.pages_per_s,
        watched_s: work.watched_s,
        lost_s: work.lost_s,
        computing_lost_s: of(writing..all).map(|work| work.lost_s),
    })
}
