//! Injects the faults of a plan, at their times.

use std::time::Duration;

use pagelift_engine::pipeline::CancelToken;
use pagelift_engine::units::Instant;
use pagelift_engine::wire::FrameType;
use pagelift_transports::sim::{ConnectionId, Direction, SimNetwork, SimRng};

use super::memory::Side;
use super::person::Deed;
use super::plan::{Fault, Moment, PlannedFault};
use super::truth::Truth;

#[derive(Debug)]
pub struct Faults {
    waiting: Vec<(PlannedFault, Option<Instant>)>,
    rng: SimRng,
    pub cancel_source: CancelToken,
    pub cancel_target: CancelToken,
    /// From when on the network has been well, as far as is known.
    well_since: Instant,
    /// Whether the network has done anything wrong so far.
    network_failed: bool,
    /// Programs that hang, for so long, or are killed, from now on.
    struck: Vec<(Side, Option<Duration>)>,
    /// What persons do now.
    deeds: Vec<Deed>,
}

impl Faults {
    pub fn new(planned: &[PlannedFault], rng: SimRng, now: Instant) -> Self {
        let waiting = planned.iter().map(|fault| match fault.moment {
            Moment::After(time) => (*fault, Some(now.after(time))),
            Moment::Frame(..) => (*fault, None),
        });
        Self {
            waiting: waiting.collect(),
            rng,
            cancel_source: CancelToken::default(),
            cancel_target: CancelToken::default(),
            well_since: now,
            network_failed: false,
            struck: Vec::new(),
            deeds: Vec::new(),
        }
    }

    /// Programs that are to hang or to be killed.
    pub fn take_struck(&mut self) -> Vec<(Side, Option<Duration>)> {
        std::mem::take(&mut self.struck)
    }

    /// What persons are to do.
    pub fn take_deeds(&mut self) -> Vec<Deed> {
        std::mem::take(&mut self.deeds)
    }

    pub fn well_since(&self) -> Instant {
        self.well_since
    }

    pub fn network_failed(&self) -> bool {
        self.network_failed
    }

    /// Frames were written that some fault may wait for.
    pub fn hear(&mut self, now: Instant, news: &[(Side, FrameType)]) {
        for (planned, due) in &mut self.waiting {
            if let Moment::Frame(side, kind, delay) = planned.moment
                && due.is_none()
                && news.contains(&(side, kind))
            {
                *due = Some(now.after(delay));
            }
        }
    }

    pub fn next_event(&self) -> Option<Instant> {
        self.waiting.iter().filter_map(|(_, due)| *due).min()
    }

    /// Injects the faults that are due.
    pub fn strike(&mut self, truth: &Truth, network: &SimNetwork) {
        let now = truth.now();
        while let Some(at) = self
            .waiting
            .iter()
            .position(|(_, due)| due.is_some_and(|due| due <= now))
        {
            let (planned, _) = self.waiting.remove(at);
            truth.note(|| format!("fault: {:?}, refuse {:?}", planned.fault, planned.refuse));
            self.happen(now, planned, network);
        }
    }

    fn happen(&mut self, now: Instant, planned: PlannedFault, network: &SimNetwork) {
        let mut well = now.after(planned.refuse);
        match planned.fault {
            Fault::Cancel(Side::Source) => return self.cancel_source.cancel(),
            Fault::Cancel(Side::Target) => return self.cancel_target.cancel(),
            Fault::Hang(side, time) => return self.struck.push((side, Some(time))),
            Fault::Kill(side) => return self.struck.push((side, None)),
            Fault::Person(deed) => return self.deeds.push(deed),
            Fault::ResetAll => network.open().into_iter().for_each(|id| network.reset(id)),
            Fault::ResetOne => {
                if let Some(id) = self.one_of(network, 1) {
                    network.reset(id);
                }
            }
            Fault::HoldAll(time) => {
                well = well.max(now.after(time));
                for id in 0..network.connections() {
                    network.hold(id, now.after(time));
                }
                network.refuse_until(now.after(time));
            }
            Fault::HoldOne(time) => {
                well = well.max(now.after(time));
                if let Some(id) = self.one_of(network, 1) {
                    network.hold(id, now.after(time));
                }
            }
            Fault::HalfClose => {
                if let Some(id) = self.one_of(network, 0) {
                    let direction = self.direction();
                    network.half_close(id, direction);
                }
            }
            Fault::Corrupt => {
                if let Some(id) = self.one_of(network, 0) {
                    let direction = self.direction();
                    network.corrupt(id, direction);
                }
            }
        }
        if planned.refuse > Duration::ZERO {
            network.refuse_until(now.after(planned.refuse));
        }
        self.network_failed = true;
        self.well_since = self.well_since.max(well);
    }

    fn one_of(&mut self, network: &SimNetwork, from: ConnectionId) -> Option<ConnectionId> {
        let open = network.open();
        let open: Vec<_> = open.into_iter().filter(|id| *id >= from).collect();
        // The control connection is the one that matters most often.
        match open.first() {
            Some(first) if from == 0 && self.rng.one_in(2) => Some(*first),
            Some(_) => Some(self.rng.pick(&open)),
            None => None,
        }
    }

    fn direction(&mut self) -> Direction {
        self.rng.pick(&[Direction::ToTarget, Direction::ToSource])
    }
}
