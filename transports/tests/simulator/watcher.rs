//! What the frames that cross the network say, and the rules they must keep.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pagelift_engine::wire::{FrameType, Message};
use pagelift_transports::sim::ConnectionId;

use super::memory::Side;
use super::truth::Truth;

/// Most frames of a data channel that may be under way.
const WINDOW_FRAMES: u64 = 64;

/// Connections, and bytes of each, that are kept to be said again.
const RECORDED: (usize, usize) = (4, 64 << 10);

/// What was seen so far.
#[derive(Debug)]
pub struct Watcher {
    truth: Arc<Truth>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Frames written, by who wrote them and of which type, in order; taken by the faults.
    news: Vec<(Side, FrameType)>,
    said: BTreeSet<(bool, u16)>,
    channels: BTreeMap<ConnectionId, u16>,
    written: BTreeMap<u16, u64>,
    acked: BTreeMap<u16, u64>,
    most_in_flight: u64,
    /// Round of the pages that were read last from a connection.
    reading: BTreeMap<ConnectionId, u32>,
    newest_round: u32,
    /// The target said that it misses pages, and the source had begun the last round.
    missing_late: bool,
    /// What the source has said first on its first connections.
    recorded: BTreeMap<ConnectionId, Vec<u8>>,
}

impl Watcher {
    pub fn new(truth: &Arc<Truth>) -> Self {
        Self {
            truth: Arc::clone(truth),
            seen: Mutex::default(),
        }
    }

    /// Frames that were written since the last call.
    pub fn take_news(&self) -> Vec<(Side, FrameType)> {
        std::mem::take(&mut self.lock().news)
    }

    /// Whether that side has ever written such a frame.
    pub fn has_said(&self, side: Side, kind: FrameType) -> bool {
        self.lock()
            .said
            .contains(&(side == Side::Source, kind as u16))
    }

    pub fn newest_round(&self) -> u32 {
        self.lock().newest_round
    }

    pub fn was_missing_late(&self) -> bool {
        self.lock().missing_late
    }

    /// The source sends these bytes.
    pub fn record(&self, id: ConnectionId, bytes: &[u8]) {
        let mut seen = self.lock();
        let connections = seen.recorded.len();
        let is_known = seen.recorded.contains_key(&id);
        if is_known || connections < RECORDED.0 {
            let recorded = seen.recorded.entry(id).or_default();
            let room = RECORDED.1.saturating_sub(recorded.len());
            recorded.extend_from_slice(&bytes[..room.min(bytes.len())]);
        }
    }

    /// What the source has said, by connection.
    pub fn take_recorded(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.lock().recorded)
            .into_values()
            .collect()
    }

    pub fn most_in_flight(&self) -> u64 {
        self.lock().most_in_flight
    }

    /// Pages that came over `connection` are being placed.
    pub fn placing(&self, connection: ConnectionId) {
        let mut seen = self.lock();
        let round = seen.reading.get(&connection).copied().unwrap_or(0);
        let newest = seen.newest_round;
        seen.newest_round = newest.max(round);
        drop(seen);
        if round < newest {
            let what = format!("pages of round {round} placed after some of round {newest}");
            self.truth.broken(what);
        }
    }

    pub fn wrote(&self, side: Side, id: ConnectionId, kind: FrameType, body: &[u8]) {
        let mut seen = self.lock();
        seen.said.insert((side == Side::Source, kind as u16));
        if !matches!(kind, FrameType::Pages | FrameType::Ack) {
            seen.news.push((side, kind));
        }
        match kind {
            FrameType::Join => {
                if let Ok(Message::Join(join)) = Message::decode(kind, body) {
                    seen.channels.insert(id, join.channel);
                }
            }
            FrameType::Pages | FrameType::RoundEnd => self.count(&mut seen, id),
            _ => {}
        }
        drop(seen);
        if !matches!(kind, FrameType::Pages | FrameType::Ack) {
            self.truth.note(|| format!("{side:?} -> {kind:?} on {id}"));
        }
    }

    fn count(&self, seen: &mut Seen, id: ConnectionId) {
        let Some(channel) = seen.channels.get(&id).copied() else {
            return self
                .truth
                .broken(format!("pages on {id}, which has not joined"));
        };
        let written = seen.written.entry(channel).or_default();
        *written += 1;
        let in_flight = *written - seen.acked.get(&channel).copied().unwrap_or(0);
        seen.most_in_flight = seen.most_in_flight.max(in_flight);
        if in_flight > WINDOW_FRAMES {
            self.truth
                .broken(format!("{in_flight} frames of channel {channel} under way"));
        }
    }

    pub fn read(&self, side: Side, id: ConnectionId, kind: FrameType, body: &[u8]) {
        let mut seen = self.lock();
        match kind {
            FrameType::Pages => {
                if let Some(round) = body.first_chunk() {
                    seen.reading.insert(id, u32::from_le_bytes(*round));
                }
            }
            FrameType::Missing => {
                let last_round = (true, FrameType::LastRound as u16);
                seen.missing_late |= seen.said.contains(&last_round);
            }
            FrameType::Ack => {
                if let Ok(Message::Ack(ack)) = Message::decode(kind, body) {
                    // Not one that is damaged on its way, or a lie.
                    let written = seen.written.get(&ack.channel).copied().unwrap_or(0);
                    if ack.frames <= written {
                        let acked = seen.acked.entry(ack.channel).or_default();
                        *acked = ack.frames.max(*acked);
                    }
                }
                return;
            }
            _ => {}
        }
        drop(seen);
        if kind != FrameType::Pages {
            self.truth
                .note(|| format!("         {kind:?} on {id} -> {side:?}"));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A channel that goes on beyond its window, and pages that come out of order.
#[test]
fn the_watcher_objects() {
    let truth = Arc::new(Truth::new(
        pagelift_transports::sim::SimClock::default(),
        false,
    ));
    let watcher = Watcher::new(&truth);
    let join = Message::Join(pagelift_engine::wire::Join {
        session: pagelift_engine::wire::SessionId(1),
        channel: 0,
        proof: None,
    });
    watcher.wrote(Side::Source, 1, FrameType::Join, &join.encode());
    for _ in 0..WINDOW_FRAMES {
        watcher.wrote(Side::Source, 1, FrameType::Pages, &[]);
    }
    assert!(truth.take_broken().is_empty());
    watcher.wrote(Side::Source, 1, FrameType::Pages, &[]);
    assert!(truth.take_broken()[0].contains("65 frames of channel 0 under way"));

    watcher.read(Side::Target, 1, FrameType::Pages, &2u32.to_le_bytes());
    watcher.read(Side::Target, 2, FrameType::Pages, &1u32.to_le_bytes());
    watcher.placing(1);
    assert!(truth.take_broken().is_empty());
    watcher.placing(2);
    assert!(truth.take_broken()[0].contains("round 1 placed after some of round 2"));
}
