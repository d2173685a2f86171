//! The demo's second process: takes the guest, lets it go on, and proves its memory.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use pagelift_control::job::json;
use pagelift_engine::guest::{self, GuestError, TargetGuest};

use pagelift_engine::migration::GuestLocation;
use pagelift_engine::units::{ByteCount, PAGE_BYTES, Rate};
use pagelift_engine::{Ended, Incoming};
use pagelift_transports::Endpoint;
use rustix::process::{Signal, set_parent_process_death_signal};

use super::guest::{DemoMemory, Guest};
use super::{DeviceState, TargetMessage, proof};
use crate::watch::watch;

/// How long the guest runs on before its memory is checked.
const RUN_ON: Duration = Duration::from_millis(300);

/// Where it waits for the guest.
const LOOPBACK: &str = "tcp://127.0.0.1:0";

/// Options of the hidden `pagelift demo-target`.
#[derive(Args, Clone, Debug)]
pub struct TargetOptions {
    /// Memory of the guest
    #[arg(long)]
    memory: ByteCount,
}

/// Takes a guest over loopback; the outcome is a message on stdout.
///
/// # Errors
/// When the other process is gone.
pub fn run(options: &TargetOptions) -> Result<()> {
    // Nobody else would end this process if the demo is killed.
    set_parent_process_death_signal(Some(Signal::KILL)).context("prctl(PR_SET_PDEATHSIG)")?;
    let message = take_guest(options).unwrap_or_else(|error| TargetMessage::Failed {
        message: format!("{error:#}"),
    });
    send(&message)
}

fn send(message: &TargetMessage) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(message)?)?;
    Ok(stdout.flush()?)
}

fn take_guest(options: &TargetOptions) -> Result<TargetMessage> {
    let memory = Arc::new(DemoMemory::new(options.memory.0 / PAGE_BYTES as u64)?);
    let view = memory.view();
    let listener = LOOPBACK.parse::<Endpoint>()?.listen()?;
    send(&TargetMessage::Listening {
        address: listener.address(),
    })?;

    let half = TargetHalf {
        memory,
        guest: None,
    };
    let job = Incoming::new(listener, view.clone(), half).start()?;
    let memory_peak_bytes = watch(&job, |_| ());
    let Ended {
        result,
        guest: half,
    } = job.wait();
    let received = result?;
    let (mut guest, state) = half.guest.ok_or_else(|| anyhow!("no guest arrived"))?;
    std::thread::sleep(RUN_ON);
    guest.stop();
    let counts = guest.counts();
    proof::check(&*view, &state.script, &counts)?;
    Ok(TargetMessage::Proven {
        arrived_with: state.counts,
        counts,
        memory_peak_bytes,
        stages: json::target_stages(&received.status.stages),
    })
}

/// The guest as the engine sees it.
struct TargetHalf {
    memory: Arc<DemoMemory>,
    guest: Option<(Guest, DeviceState)>,
}

impl TargetGuest for TargetHalf {
    fn load_devices(&mut self, state: &mut dyn Read) -> guest::Result<()> {
        let state: DeviceState = serde_json::from_reader(state)
            .map_err(|error| GuestError::new("unreadable device state", error))?;
        let rate = Rate(state.dirty_bytes_per_s);
        let guest = Guest::new(Arc::clone(&self.memory), state.script, rate, &state.counts);
        self.guest = Some((guest, state));
        Ok(())
    }

    fn run(&mut self) -> guest::Result<()> {
        match &mut self.guest {
            Some((guest, _)) => guest.run(),
            None => return Err(GuestError("it has no device state".into())),
        }
        Ok(())
    }

    fn finish(&mut self, place: GuestLocation) {
        if place == GuestLocation::Source {
            self.guest = None;
        }
    }
}
