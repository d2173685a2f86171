//! `pagelift-receive`: a guest comes to a QEMU that waits for it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use pagelift_control::driver::qemu::direct::DirectTarget;
use pagelift_control::failpoints;
use pagelift_control::job::json as job;
use pagelift_control::qmp::Address;
use pagelift_engine::Incoming;
use pagelift_engine::memory::{FileMemory, MemoryError, ReadPages};
use pagelift_engine::migration::{GuestLocation, IN_DOUBT, MigrationError};
use pagelift_engine::pipeline::{Controls, KeptPages, Received, Settings, process_cpu};
use pagelift_engine::sys::random_number;
use pagelift_engine::units::{ByteCount, PageCount};
use pagelift_transports::Endpoint;
use serde_json::{Value, json};

use crate::advice::Side;
use crate::exit::{self, ExitCode};
use crate::logging::LogOptions;
use crate::progress::Progress;
use crate::report::{Extra, Output};
use crate::watch::watch;

/// Waits for a guest and lets it go on in a QEMU that was started with `-incoming defer`.
#[derive(Debug, Parser)]
#[command(name = "pagelift-receive", version)]
pub struct ReceiveCommand {
    /// QEMU's monitor: the path of a -qmp unix socket that nobody else uses
    #[arg(long, value_name = "PATH")]
    qmp: Address,
    /// Where to wait for the source: tcp://HOST:PORT; port 0 picks one, which is printed
    #[arg(long, value_name = "URI")]
    listen: Endpoint,
    /// A file with pages that the guest may have: its memory as it was left here by its last
    /// visit, or an image; what is in it need not be sent. Can be given several times
    #[arg(long, value_name = "PATH")]
    have: Vec<PathBuf>,
    /// What to print
    #[command(flatten)]
    output: Output,
    /// What to log
    #[command(flatten)]
    log: LogOptions,
}

impl ReceiveCommand {
    /// Takes a guest. What goes wrong is reported.
    pub fn run(self) -> ExitCode {
        self.log.start();
        let output = self.output.clone();
        let ended = self.receive();
        ended.unwrap_or_else(|error| output.not_begun(&error))
    }

    /// # Errors
    /// When what the migration needs beside the guest could not be set up: nothing was begun.
    fn receive(self) -> Result<ExitCode> {
        let cancel = exit::cancel_on_signal()?;
        failpoints::check_environment()?;
        let kept = match KeptPages::open(&self.have, random_number()?) {
            Ok(kept) => kept,
            Err(error) => return Ok(self.unusable(error)),
        };
        let listener = match self.listen.listen() {
            Ok(listener) => listener,
            Err(source) => {
                let what = "cannot listen";
                return Ok(self
                    .output
                    .not_started(MigrationError::Link { what, source }, Side::Target));
            }
        };
        let prepared = match DirectTarget::prepare(&self.qmp) {
            Ok(prepared) => prepared,
            Err(error) => {
                let error = MigrationError::Guest(error.to_string());
                return Ok(self.output.not_started(error, Side::Target));
            }
        };
        let memory = prepared.memory;
        if let Err(error) = self.check_have(&memory) {
            return Ok(self.unusable(error));
        }
        let (size, here) = (memory.layout().pages().bytes(), kept.pages());
        let incoming = Incoming::new(listener, memory, prepared.guest)
            .controls(Controls::new(Settings::default(), cancel))
            .facts(prepared.facts)
            .base(kept);
        let mut progress = Progress::new(self.output.quiet);
        progress.say(&format!(
            "waiting on {} for a guest of {size} of RAM; at most {} of memory for the migration",
            incoming.address(),
            incoming.memory_budget(),
        ));
        if here > PageCount(0) {
            progress.say(&format!("{} of pages are here already", here.bytes()));
        }
        let (mut source_lost, mut began) = (false, None);
        let job = incoming.start()?;
        let peak = watch(&job, |status| {
            if status.received > ByteCount(0) {
                began.get_or_insert_with(Instant::now);
            }
            if status.source_lost && !std::mem::replace(&mut source_lost, true) {
                progress.say(&format!(
                    "the source is lost during the hand-over; waiting up to {} s for it to ask \
                     again",
                    IN_DOUBT.as_secs()
                ));
            }
            source_lost = status.source_lost;
            progress.update_target(status);
        });
        progress.finish();
        Ok(match job.wait().result {
            Ok(received) => {
                let object = received_json(&received, peak);
                let total = began.map_or(Duration::ZERO, |began| began.elapsed());
                self.output.received(&received.status, total, &object)
            }
            Err(failure) => self
                .output
                .failed(&failure, Side::Target, &Extra::default()),
        })
    }

    /// The guest's memory is cleared before it comes: it has nothing to give.
    fn check_have(&self, memory: &FileMemory) -> Result<(), MemoryError> {
        for path in &self.have {
            if std::fs::metadata(path).is_ok_and(|file| memory.is_in(&file)) {
                return Err(MemoryError::Io {
                    action: "use",
                    region: path.display().to_string(),
                    offset: 0,
                    source: std::io::Error::other(
                        "it is the memory of the QEMU that waits here; keep the old file under \
                         another name, let QEMU have a new one, and name the old one",
                    ),
                });
            }
        }
        Ok(())
    }

    /// A file cannot be used; nothing was started.
    fn unusable(&self, error: MemoryError) -> ExitCode {
        self.output.not_started(error.into(), Side::Target)
    }
}

/// The target's report.
fn received_json(received: &Received, memory_peak_bytes: u64) -> Value {
    json!({
        "outcome": "completed",
        "vm_location": GuestLocation::Target.name(),
        "wire_bytes": received.status.received.0,
        "stages": job::target_stages(&received.status.stages),
        "cpu_s": { "target": process_cpu().as_secs_f64() },
        "memory_bytes": { "peak": memory_peak_bytes },
        "verified": received.verified,
        "error": null,
    })
}
