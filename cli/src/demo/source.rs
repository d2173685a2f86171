//! The demo's first process: runs the guest, moves it, and reports.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use pagelift_control::driver::Side;
use pagelift_control::job::JobStatus;
use pagelift_engine::converge::{SwitchoverCosts, ThrottleShare};
use pagelift_engine::guest::{self, GuestError, SourceGuest, Throttler};
use pagelift_engine::migration::{GuestLocation, Report};
use pagelift_engine::pipeline::{CancelToken, process_cpu};
use pagelift_engine::{Ended, Outgoing};
use pagelift_transports::Endpoint;
use serde_json::json;

use super::calibrate::Calibrated;
use super::guest::{DemoMemory, Guest};
use super::pattern::Script;
use super::process::TargetProcess;
use super::{DemoOptions, DeviceState, TargetMessage};
use crate::exit::ExitCode;
use crate::html::Move;
use crate::print;
use crate::progress::Progress;
use crate::report::Extra;
use crate::watch::watch;

/// How long the guest runs before it is moved.
const WARM_UP: Duration = Duration::from_millis(300);

/// Moves a guest to a second process and reports on stdout.
///
/// # Errors
/// When the demo could not be set up, or the proof failed: no report is printed then.
pub fn run(options: &DemoOptions, script: Script, cancel: CancelToken) -> Result<ExitCode> {
    let recording = options.page.begin()?;
    let memory = Arc::new(DemoMemory::new(script.pages)?);
    memory.fill(&script);
    let mut target = TargetProcess::start(options)?;
    let address: Endpoint = match target.receive()? {
        TargetMessage::Listening { address } => address.parse()?,
        other => bail!("the target process began with {other:?}"),
    };

    let mut guest = Guest::new(
        Arc::clone(&memory),
        script,
        options.dirty_rate,
        &vec![0; script.vcpus as usize],
    );
    guest.run();
    std::thread::sleep(WARM_UP);
    let calibrated = Calibrated::new(&mut guest, &memory, script, options.dirty_rate);
    let half = SourceHalf {
        guest,
        script,
        dirty_bytes_per_s: options.dirty_rate.0,
        calibrated,
        throttled: ThrottleShare::NONE,
        stopped_with: None,
    };

    let controls = options.convergence.controls(options.link, cancel);
    let shown = JobStatus::new(controls.clone());
    let control = options.convergence.serve(&shown)?;
    let outgoing = Outgoing::new(address.connect()?, memory.ram()?, half)
        .controls(controls.clone())
        .verify(!options.no_verify);
    let outgoing = options.convergence.set_up(outgoing, recording.as_ref())?;
    let budget = outgoing.memory_budget();
    print::note(format_args!(
        "guest: {} in {} vCPUs, {:.0} % filled, writing {} ({:?}, {} bytes a write)\n\
         pagelift: {} channels, at most {budget} of memory of its own on each side",
        options.memory,
        options.vcpus,
        options.fill * 100.0,
        options.dirty_rate,
        options.pattern,
        options.write_size,
        options.convergence.channels,
    ));
    let mut progress = Progress::new(options.output.quiet);
    let (began, cpu_before) = (Instant::now(), process_cpu());
    let (told, recorded) = (shown.clone(), recording.clone());
    let job = outgoing
        .on_status(move |status| {
            told.update(status);
            recorded.iter().for_each(|recording| recording.saw(status));
        })
        .start()?;
    shown.set_deltas(job.deltas());
    let mut extra = Extra {
        session: job.id(),
        memory_budget_bytes: budget.0,
        ..Extra::default()
    };
    extra.memory_peak_bytes = watch(&job, |status| {
        progress.update(status);
        extra.status = Some(*status);
    });
    drop(control);
    progress.finish();
    extra.delta_cache = job.deltas().map(|deltas| deltas.stats());
    let Ended {
        result,
        guest: mut half,
    } = job.wait();
    extra.elapsed = began.elapsed();
    extra.source_cpu = process_cpu().saturating_sub(cpu_before);
    extra.freed_after = controls.cancel_token().freed_after();
    if let Ok(report) = &result {
        let writes = sum(&half.guest.counts());
        extra.guest_slowdown = Some(half.guest.lost_time(writes) + report.downtime.total());
    }
    if let Some(recording) = recording {
        options.page.write(&Move {
            title: "pagelift demo",
            outcome: result.as_ref(),
            extra: &extra,
            recorded: &recording.recorded(),
        });
    }
    match result {
        Ok(report) => finish(options, &half, &mut target, &report, &extra),
        Err(failure) => {
            if failure.guest == GuestLocation::Source {
                half.guest.stop();
            }
            Ok(options.output.failed(&failure, Side::Source, &extra))
        }
    }
}

/// Checks the target's proof, does the source's part of it, and prints the report.
fn finish(
    options: &DemoOptions,
    half: &SourceHalf,
    target: &mut TargetProcess,
    report: &Report,
    extra: &Extra,
) -> Result<ExitCode> {
    let (arrived_with, counts, target_peak, target_stages) = match target.receive()? {
        TargetMessage::Proven {
            arrived_with,
            counts,
            memory_peak_bytes,
            stages,
        } => (arrived_with, counts, memory_peak_bytes, stages),
        TargetMessage::Failed { message } => bail!("on the target: {message}"),
        other @ TargetMessage::Listening { .. } => bail!("the target process said {other:?}"),
    };
    if half.stopped_with.as_ref() != Some(&arrived_with) || half.guest.counts() != arrived_with {
        bail!("the source's vCPUs ran after the hand-over, or did not go on where they stopped");
    }
    let moved: u64 = sum(&arrived_with);
    let after: u64 = sum(&counts) - moved;
    let code = options.output.completed(report, extra, |object| {
        object["target_stages"] = target_stages;
        object["proof"] = json!({
            "writes_on_source": moved,
            "writes_on_target": after,
            "lost": 0,
            "target_memory_peak_bytes": target_peak,
        });
    });
    if !options.output.json {
        print::result(format_args!(
            "proof: {moved} writes on the source and {after} on the target, none lost; the \
             source's vCPUs stand still"
        ));
    }
    Ok(code)
}

fn sum(counts: &[u64]) -> u64 {
    counts.iter().sum()
}

/// The guest as the engine sees it.
struct SourceHalf {
    guest: Guest,
    script: Script,
    dirty_bytes_per_s: u64,
    calibrated: Calibrated,
    throttled: ThrottleShare,
    /// Writes of each vCPU when it was stopped for the hand-over.
    stopped_with: Option<Vec<u64>>,
}

impl Throttler for SourceHalf {
    fn throttle(&mut self, share: ThrottleShare) -> guest::Result<()> {
        self.guest.throttle(share);
        self.throttled = share;
        Ok(())
    }
}

impl SourceGuest for SourceHalf {
    fn pause(&mut self) -> guest::Result<()> {
        self.guest.stop();
        self.stopped_with = Some(self.guest.counts());
        Ok(())
    }

    fn save_devices(&mut self, out: &mut dyn Write) -> guest::Result<()> {
        let state = DeviceState {
            script: self.script,
            dirty_bytes_per_s: self.dirty_bytes_per_s,
            counts: self.guest.counts(),
        };
        let saved = serde_json::to_writer(out, &state);
        saved.map_err(|error| GuestError::new("saving device state", error))
    }

    fn relinquish(&mut self) -> guest::Result<()> {
        Ok(())
    }

    fn resume(&mut self) -> guest::Result<()> {
        self.stopped_with = None;
        self.guest.throttle(ThrottleShare::NONE);
        self.guest.run();
        Ok(())
    }

    fn switchover_costs(&mut self) -> SwitchoverCosts {
        self.calibrated.switchover_costs(self.throttled)
    }

    fn throttler(&mut self) -> Option<&mut dyn Throttler> {
        Some(self)
    }

    fn finish(&mut self, _: GuestLocation) {
        self.guest.throttle(ThrottleShare::NONE);
    }
}
