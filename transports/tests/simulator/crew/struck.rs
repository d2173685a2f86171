//! Programs that hang, are killed, or end, and guests that go on by other hands.

use pagelift_engine::migration::{Failure, MigrationError, Report};
use pagelift_engine::units::Instant;

use super::{Crew, Slot, Worker, lock};
use crate::simulator::memory::Side;
use crate::simulator::truth::Truth;

impl Crew {
    /// A guest that goes on by what `act` does writes from now on.
    pub(super) fn begin_anew(&self, act: impl FnOnce(&Truth)) {
        let (truth, now) = (&self.truth, self.truth.now());
        let before = [truth.source_runs(), truth.target_runs()];
        act(truth);
        let runs = [truth.source_runs(), truth.target_runs()];
        let writers = [&self.source_writer, &self.target_writer];
        for (side, writer) in writers.into_iter().enumerate() {
            if runs[side] && !before[side] {
                lock(writer).sleep_until(now);
            }
        }
    }

    /// Which programs are there no more, source first.
    pub(super) fn gone(&self) -> [bool; 2] {
        let (ended, killed) = (self.ended.get(), self.killed.get());
        [Side::Source, Side::Target].map(|side| ended[side as usize] || killed == Some(side))
    }

    /// Programs that were struck since the last step hang, or are gone.
    pub fn strike_programs(&self, has_ended: [bool; 2]) {
        let now = self.truth.now();
        self.ended.set(has_ended);
        for (side, time) in self.faults.borrow_mut().take_struck() {
            if has_ended[side as usize] {
                continue;
            }
            match time {
                Some(time) => {
                    self.hung.set(true);
                    let mut until = self.hang_until.get();
                    until[side as usize] = now.after(time);
                    self.hang_until.set(until);
                }
                None if self.killed.get().is_none() => self.kill(side),
                None => {}
            }
        }
    }

    /// The kernel closes what the program had open.
    fn kill(&self, side: Side) {
        self.killed.set(Some(side));
        (0..self.network.connections()).for_each(|id| self.network.reset(id));
        let is_its = |slot: &Slot| match slot.worker {
            Some(Worker::Source(_)) => side == Side::Source,
            _ => side == Side::Target,
        };
        self.slots.borrow_mut().retain(|slot| !is_its(slot));
        match side {
            Side::Source => {
                if self.truth.source_is_killed() {
                    lock(&self.source_writer).sleep_until(self.truth.now());
                }
            }
            Side::Target => {
                self.truth.target_is_killed();
                self.network.refuse_until(Instant(u64::MAX));
            }
        }
    }

    /// The source's program has ended. Where it could not tell what its agent has recorded, the agent
    /// finds that out now.
    pub fn source_left(&self, result: &Result<Report, Failure>) {
        let is_open = matches!(result, Err(failure) if matches!(failure.error, MigrationError::PromiseUnknown(_)));
        if is_open && self.truth.source_is_killed() {
            lock(&self.source_writer).sleep_until(self.truth.now());
        }
    }

    /// Until when the program of that side does nothing; `None` if it goes on.
    pub fn hangs_until(&self, side: Side) -> Option<Instant> {
        let until = self.hang_until.get()[side as usize];
        (until > self.truth.now()).then_some(until)
    }
}
