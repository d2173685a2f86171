//! The parts that all states of a source share, and their undoing.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use pagelift_agent_protocol::RollbackStep;
use serde_json::{Value, json};

use super::SourceFailure;
use crate::driver::Side;
use crate::driver::qemu::disks::Buffered;
use crate::driver::qemu::inspect::run_state;
use crate::driver::qemu::migration::{self, QemuMigrationError, STEP_LIMIT};
use crate::driver::qemu::other_hands;
use crate::driver::qemu::run_state::goes_on;
use crate::driver::qemu::settings::MigrationSettings;
use crate::qmp::{Events, Qmp, Timestamp};

/// A source from `plan` on.
#[derive(Debug)]
pub(super) struct SourceSession {
    pub(super) qmp: Qmp,
    pub(super) events: Events,
    /// Known from just before our migration begins until they are put back.
    pub(super) settings: Option<MigrationSettings>,
    /// Disks that go through the page cache, while the guest is here.
    pub(super) disks: Option<Buffered>,
    pub(super) was_running: bool,
    /// Our end of the stream, while the migration can be undone.
    pub(super) stream: Option<UnixStream>,
    pub(super) stopped: Option<Stopped>,
    /// When QEMU's migration was asked for; `None` before.
    pub(super) asked: Option<Instant>,
}

/// When QEMU stopped the guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopped {
    /// By QEMU's clock, which somebody may set at any time.
    pub(super) at: Option<Timestamp>,
    /// When the event was seen here.
    seen: Instant,
}

impl Drop for SourceSession {
    fn drop(&mut self) {
        // Nobody is left to be told; the monitor shows what the guest does.
        let _untold = self.undo();
    }
}

impl SourceSession {
    /// Changes disks as planned.
    pub(super) fn change(&self) -> Result<(), QemuMigrationError> {
        if let Some(disks) = &self.disks {
            disks.begin()?;
        }
        Ok(())
    }

    /// Looks up the settings that our migration needs changed. What others run by now, and no
    /// guest can be moved under, ends it.
    pub(super) fn arm(&mut self) -> Result<(), QemuMigrationError> {
        let jobs = other_hands::block_jobs(&self.qmp)?;
        if !jobs.is_empty() {
            return Err(QemuMigrationError::BlockJobs(jobs.join(", ")));
        }
        self.settings = Some(MigrationSettings::plan(&self.qmp, Side::Source)?);
        Ok(())
    }

    pub(super) fn begin(&mut self) -> Result<UnixStream, QemuMigrationError> {
        // Copying RAM took its time; the user may have paused or resumed the guest meanwhile.
        self.was_running = goes_on(&run_state(&self.qmp)?);
        if self.settings.is_none() {
            self.arm()?;
        }
        if let Some(settings) = self.settings.take() {
            // Refused while another migration runs; then nothing is to be put back.
            settings.apply(&self.qmp)?;
            self.settings = Some(settings);
        }
        let (ours, uri) = migration::open_stream(&self.qmp)?;
        // QEMU reads answers at once; were it stuck, the commit would otherwise wait for ever.
        ours.set_write_timeout(Some(STEP_LIMIT))?;
        let second = ours.try_clone()?;
        self.events.skip_to_now();
        self.asked = Some(Instant::now());
        if let Err(error) = self.qmp.execute("migrate", json!({ "uri": uri })) {
            // After a timeout the migration may have begun all the same.
            if error.refusal().is_none() {
                self.stream = Some(ours);
            }
            migration::forget_stream(&self.qmp);
            return Err(error.into());
        }
        self.stream = Some(ours);
        Ok(second)
    }

    pub(super) fn wait_paused(&mut self, limit: Duration) -> Result<(), QemuMigrationError> {
        let stopped = &mut self.stopped;
        let note = |name: &str, at| {
            if name == "STOP" {
                let seen = Instant::now();
                *stopped = Some(Stopped { at, seen });
            }
        };
        migration::wait_status(&self.qmp, &mut self.events, "pre-switchover", limit, note)?;
        Ok(())
    }

    /// Why QEMU's migration has ended, if it has although nobody told it to. Does not wait.
    pub(super) fn ended(&self) -> Option<QemuMigrationError> {
        // A reader of its own: who waits for a status must see every event.
        let mut events = self.events.clone();
        while let Ok(Some(event)) = events.next_so_far() {
            let status = event.text("status").filter(|_| event.name == "MIGRATION");
            if let Some(status @ ("failed" | "cancelling" | "cancelled")) = status {
                return Some(migration::ended(&self.qmp, status));
            }
        }
        None
    }

    /// How long ago QEMU stopped the guest; `None` when it was paused already.
    pub(super) fn stopped_ago(&self) -> Option<Duration> {
        let (stopped, asked) = (self.stopped?, self.asked?);
        let by_clock = stopped
            .at
            .and_then(|at| SystemTime::now().duration_since(at.system_time()).ok());
        Some(within(by_clock, stopped.seen.elapsed(), asked.elapsed()))
    }

    /// Steps for somebody else to undo with; with `resume`, also a migration that completed.
    pub(super) fn rollback_script(&self, resume: bool) -> Vec<RollbackStep> {
        let mut steps = Vec::new();
        // Before, a migration that runs is somebody else's.
        if let Some(settings) = &self.settings {
            steps.push(RollbackStep::CancelMigration);
            if resume && self.was_running {
                steps.push(RollbackStep::Continue);
            }
            steps.extend(settings.restore_steps());
        }
        steps.extend(self.disks.iter().flat_map(Buffered::end_steps));
        steps
    }

    pub(super) fn fail(mut self, cause: QemuMigrationError) -> SourceFailure {
        let undone = self.undo().map_err(Box::new);
        let cause = Box::new(cause);
        SourceFailure { cause, undone }
    }

    /// Brings guest and settings back to what they were; does nothing the second time.
    pub(super) fn undo(&mut self) -> Result<(), QemuMigrationError> {
        let resumed = match self.stream.take() {
            Some(stream) => self.take_back(&stream),
            None => Ok(()),
        };
        // In either case.
        let restored = self.restore();
        let disks = self.disks.take().map_or(Ok(()), Buffered::end);
        resumed
            .and(restored)
            .and_then(|()| disks.map_err(Into::into))
    }

    fn take_back(&mut self, stream: &UnixStream) -> Result<(), QemuMigrationError> {
        // First: QEMU writes its devices' state with its big lock held, and while nobody reads the
        // stream any more, no command would be answered. The relay that reads the other handle
        // learns that it is over.
        let _already_closed = stream.shutdown(Shutdown::Both);
        self.qmp.execute("migrate_cancel", Value::Null)?;
        if migration::wait_final(&self.qmp, &mut self.events)? == "completed" {
            return Err(QemuMigrationError::AlreadyHandedOver);
        }
        self.resume()
    }

    /// Makes the guest run if it did before. Its migration is known to have ended, without a
    /// hand-over.
    pub(super) fn resume(&self) -> Result<(), QemuMigrationError> {
        if !self.was_running {
            return Ok(());
        }
        if !goes_on(&run_state(&self.qmp)?) {
            migration::resume(&self.qmp)?;
        }
        match run_state(&self.qmp)? {
            state if goes_on(&state) => Ok(()),
            state => Err(QemuMigrationError::StaysStopped(state)),
        }
    }

    pub(super) fn restore(&mut self) -> Result<(), QemuMigrationError> {
        if let Some(settings) = self.settings.take() {
            settings.restore(&self.qmp)?;
        }
        Ok(())
    }
}

/// The time `by_clock`, unless somebody has set the clock meanwhile: it was no less than `least`,
/// the time since the event was seen, and no more than `most`, the time since it was asked for.
fn within(by_clock: Option<Duration>, least: Duration, most: Duration) -> Duration {
    by_clock.unwrap_or(least).clamp(least, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_moves_the_stop_by_no_more_than_it_took() {
        let ms = Duration::from_millis;
        assert_eq!(within(Some(ms(3)), ms(2), ms(5)), ms(3));
        assert_eq!(within(Some(ms(3_600_000)), ms(2), ms(5)), ms(5));
        assert_eq!(within(Some(ms(0)), ms(2), ms(5)), ms(2));
        assert_eq!(
            within(None, ms(2), ms(5)),
            ms(2),
            "set back before the stop"
        );
    }
}
