//! Whom a plan meets besides its two sides: persons at the monitors, strangers, forgers.

use std::time::Duration;

use pagelift_engine::wire::FrameType;
use pagelift_transports::sim::SimRng;

use super::draw::moment;
use super::forger::{Forgery, Trick};
use super::memory::Side;
use super::person::Deed;
use super::plan::{Fault, Plan, PlannedFault};
use super::strangers::Visit;
use super::truth::Mishap;

impl Plan {
    /// Each kind in some seeds, and so now and then together.
    pub(super) fn meet_others(&mut self, transfer: Duration) {
        // Numbers of its own, so that all else is as it would be without.
        let mut rng = SimRng::new(self.seed.rotate_left(32) ^ 0x6f74_6865);
        self.authenticated = rng.one_in(2);
        if rng.one_in(3) {
            (0..rng.between(1, 4)).for_each(|_| self.meet_a_person(&mut rng, transfer));
        }
        if rng.one_in(3) {
            for _ in 0..rng.between(1, 4) {
                let visit = rng.pick(&[
                    Visit::Silent,
                    Visit::Garbage,
                    Visit::HalfGreeting,
                    Visit::Join,
                    Visit::Reattach,
                    Visit::Replay,
                    Visit::Crowd,
                ]);
                self.strangers.push((rng.time(transfer * 3), visit));
            }
        }
        if rng.one_in(5) {
            (0..rng.between(1, 2)).for_each(|_| self.meet_a_forger(&mut rng));
        }
        if rng.one_in(20) {
            self.mishaps.push((Mishap::OtherHands, rng.between(1, 400)));
        }
    }

    fn meet_a_person(&mut self, rng: &mut SimRng, transfer: Duration) {
        let deed = match rng.below(10) {
            0..=2 => Deed::Continue(Side::Source),
            3..=5 => Deed::Continue(Side::Target),
            6 => Deed::Stop(rng.time(transfer)),
            7 => Deed::CancelMigration,
            _ => Deed::Settle,
        };
        self.faults.push(PlannedFault {
            moment: moment(rng, transfer, self.network.latency),
            fault: Fault::Person(deed),
            refuse: Duration::ZERO,
        });
    }

    fn meet_a_forger(&mut self, rng: &mut SimRng) {
        let channel = rng.below(u64::from(self.channels)) as u16;
        let first = rng.below(self.pages);
        let lies = [
            Trick::LieAck(channel, rng.pick(&[1, 2, 1000, -1, -3, i64::MAX])),
            Trick::LieAck(rng.below(70) as u16, 1),
            Trick::LieMissing(first, rng.between(1, 3)),
        ];
        let trick = match (self.authenticated, rng.below(3)) {
            (true, _) | (_, 0) => rng.pick(&lies),
            _ => rng.pick(&[
                Trick::Drop,
                Trick::Twice,
                Trick::SwapWithNext,
                Trick::Replay,
                Trick::Cut,
            ]),
        };
        let is_lie = lies.contains(&trick);
        let (side, kind) = rng.pick(match is_lie {
            // What only a target says, on the control connection.
            true => &[
                (Side::Target, FrameType::Accept),
                (Side::Target, FrameType::Ack),
                (Side::Target, FrameType::Ack),
                (Side::Target, FrameType::Pong),
                (Side::Target, FrameType::Complete),
                (Side::Target, FrameType::Ready),
            ][..],
            false => &[
                (Side::Source, FrameType::Pages),
                (Side::Source, FrameType::Pages),
                (Side::Source, FrameType::Pages),
                (Side::Source, FrameType::RoundEnd),
                (Side::Source, FrameType::RoundEnd),
                (Side::Source, FrameType::LastRound),
                (Side::Source, FrameType::State),
                (Side::Source, FrameType::HandOver),
                (Side::Source, FrameType::Hello),
                (Side::Source, FrameType::Join),
                (Side::Target, FrameType::Accept),
                (Side::Target, FrameType::Ack),
                (Side::Target, FrameType::Complete),
                (Side::Target, FrameType::Missing),
                (Side::Target, FrameType::Ready),
                (Side::Target, FrameType::Running),
            ][..],
        });
        self.forgeries.push(Forgery {
            side,
            kind,
            nth: match rng.below(3) {
                0 => 1,
                _ => rng.between(1, 30) as u32,
            },
            trick,
            // Whoever lies knows how to number a frame.
            careful: is_lie || rng.one_in(2),
        });
    }
}
