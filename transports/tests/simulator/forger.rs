//! Somebody between the two sides, or a side that lies: whole frames are dropped, said twice, swapped,
//! said again later or cut in two, and messages come that nobody sent.
//!
//! The frames that follow are numbered anew where the forger is `careful`: checksums and numbers are for
//! accidents, and everybody can make them. Over a transport that authenticates nothing of this gets
//! in between, and only the lies are told: by a peer that was let in.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pagelift_engine::transport::WriteHalf;
use pagelift_engine::units::PageRange;
use pagelift_engine::wire::{
    Ack, FrameHeader, FrameType, FrameWriter, HEADER_BYTES, Message, PREFACE,
};
use pagelift_transports::sim::SimRng;

use super::memory::Side;
use super::truth::Truth;

/// Frames of a connection that can be said again.
const REMEMBERED: usize = 16;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trick {
    Drop,
    Twice,
    SwapWithNext,
    /// One of the frames before comes once more.
    Replay,
    /// Half of it arrives, and nothing after.
    Cut,
    /// An acknowledgement of so many frames more or less than the last true one of that channel.
    LieAck(u16, i64),
    /// These pages are said to be missing.
    LieMissing(u64, u64),
}

/// A trick, and when: at the `nth` frame of that type which that side sends on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgery {
    pub side: Side,
    pub kind: FrameType,
    pub nth: u32,
    pub trick: Trick,
    pub careful: bool,
}

#[derive(Debug)]
pub struct Forger {
    truth: Arc<Truth>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    waiting: Vec<Forgery>,
    rng: SimRng,
    acked: Vec<(u16, Ack)>,
    /// Bytes of each channel up to the end of each of its frames.
    sent: BTreeMap<u16, Vec<u64>>,
    struck: bool,
    /// A frame is missing, twice there, or at another place, and nothing shows it.
    changed: bool,
    /// What the target has not placed was said to be placed, as it would say it.
    believed: bool,
}

/// One direction of a connection, as far as the forger has seen it.
#[derive(Debug, Default)]
pub struct Stream {
    unread: Vec<u8>,
    greeted: bool,
    past: Vec<Vec<u8>>,
    kinds: Vec<FrameType>,
    swapped: Option<Vec<u8>>,
    /// The data channel that it is of, and its bytes so far.
    channel: Option<u16>,
    bytes: u64,
    /// Number of the next frame, from when one was changed.
    number: Option<u64>,
    cut: bool,
}

impl Forger {
    pub fn new(truth: &Arc<Truth>, planned: &[Forgery], rng: SimRng) -> Arc<Self> {
        Arc::new(Self {
            truth: Arc::clone(truth),
            state: Mutex::new(State {
                waiting: planned.to_vec(),
                rng,
                acked: Vec::new(),
                sent: BTreeMap::new(),
                struck: false,
                changed: false,
                believed: false,
            }),
        })
    }

    /// Whether it never does anything.
    pub fn is_idle(&self) -> bool {
        let state = self.lock();
        state.waiting.is_empty() && !state.struck
    }

    pub fn has_struck(&self) -> bool {
        self.lock().struck
    }

    /// Whether the frames of a connection were changed so that nothing shows it. No checksum that
    /// everybody can make helps against that, but the comparison of all memory does.
    pub fn has_changed(&self) -> bool {
        self.lock().changed
    }

    /// Whether the source may believe that the target has what it has not.
    pub fn was_believed(&self) -> bool {
        let state = self.lock();
        state.believed || state.changed
    }

    /// What goes on instead of `bytes`, and whether the connection ends with it.
    pub fn pass(&self, side: Side, stream: &mut Stream, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::new();
        stream.unread.extend_from_slice(bytes);
        if !stream.greeted && stream.unread.len() >= PREFACE.len() {
            out.extend(stream.unread.drain(..PREFACE.len()));
            stream.greeted = true;
            stream.bytes = PREFACE.len() as u64;
        }
        while stream.greeted
            && let Some(frame) = stream.next_frame()
        {
            self.pass_frame(side, stream, frame, &mut out);
        }
        (out, stream.cut)
    }

    fn pass_frame(&self, side: Side, stream: &mut Stream, frame: Vec<u8>, out: &mut Vec<u8>) {
        let Some(kind) = FrameType::from_wire(u16::from_le_bytes([frame[0], frame[1]])) else {
            return stream.emit(frame, out);
        };
        stream.kinds.push(kind);
        let nth = stream.kinds.iter().filter(|seen| **seen == kind).count() as u32;
        let mut state = self.lock();
        if let Ok(Message::Ack(ack)) = Message::decode(kind, &frame[HEADER_BYTES..]) {
            state.acked.retain(|(channel, _)| *channel != ack.channel);
            state.acked.push((ack.channel, ack));
        }
        if side == Side::Source {
            stream.bytes += frame.len() as u64;
            if let Ok(Message::Join(join)) = Message::decode(kind, &frame[HEADER_BYTES..]) {
                stream.channel = Some(join.channel);
                stream.bytes = 0;
            } else if let Some(channel) = stream.channel {
                state.sent.entry(channel).or_default().push(stream.bytes);
            }
        }
        let is_due =
            |forgery: &Forgery| (forgery.side, forgery.kind) == (side, kind) && forgery.nth == nth;
        let due = state.waiting.iter().position(is_due);
        let forgery = due.map(|at| state.waiting.remove(at));
        if let Some(forgery) = forgery {
            state.struck = true;
            self.truth.note(|| format!("forged: {forgery:?}"));
            if forgery.careful {
                let lies = matches!(forgery.trick, Trick::LieAck(..) | Trick::LieMissing(..));
                state.changed |= !lies;
                stream.number.get_or_insert_with(|| number_of(&frame));
            }
        }
        stream.past.push(frame.clone());
        if stream.past.len() > REMEMBERED {
            stream.past.remove(0);
        }
        let swapped = stream.swapped.take();
        match forgery.map(|forgery| forgery.trick) {
            None => stream.emit(frame, out),
            Some(Trick::Drop) => {}
            Some(Trick::Twice) => {
                stream.emit(frame.clone(), out);
                stream.emit(frame, out);
            }
            Some(Trick::SwapWithNext) => stream.swapped = Some(frame),
            Some(Trick::Replay) => {
                stream.emit(frame, out);
                let old = state.rng.below(stream.past.len() as u64) as usize;
                stream.emit(stream.past[old].clone(), out);
            }
            Some(Trick::Cut) => {
                out.extend_from_slice(&frame[..frame.len() / 2]);
                stream.cut = true;
            }
            Some(Trick::LieAck(channel, more)) => {
                stream.emit(frame, out);
                let last = state.acked.iter().find(|(known, _)| *known == channel);
                let last = last.map_or(0, |(_, ack)| ack.frames);
                let frames = last.saturating_add_signed(more);
                let sent = state.sent.get(&channel).map_or(&[][..], Vec::as_slice);
                let known = usize::try_from(frames.wrapping_sub(1)).ok();
                let known = known.and_then(|at| sent.get(at).copied());
                state.believed |= known.is_some();
                let ack = Ack {
                    channel,
                    frames,
                    bytes: known.unwrap_or(1000),
                };
                stream.emit(made(&Message::Ack(ack)), out);
            }
            Some(Trick::LieMissing(first, count)) => {
                stream.emit(frame, out);
                let pages = vec![PageRange::new(first, count)];
                stream.emit(made(&Message::Missing(pages)), out);
            }
        }
        if let Some(frame) = swapped {
            stream.emit(frame, out);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    fn next_frame(&mut self) -> Option<Vec<u8>> {
        let head = self.unread.first_chunk::<HEADER_BYTES>()?;
        let body = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        (self.unread.len() >= HEADER_BYTES + body)
            .then(|| self.unread.drain(..HEADER_BYTES + body).collect())
    }

    fn emit(&mut self, mut frame: Vec<u8>, out: &mut Vec<u8>) {
        if self.cut {
            return;
        }
        if let Some(number) = &mut self.number {
            renumber(&mut frame, *number);
            *number += 1;
        }
        out.append(&mut frame);
    }
}

fn number_of(frame: &[u8]) -> u64 {
    frame[8..]
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn renumber(frame: &mut [u8], sequence: u64) {
    let word =
        |at: usize| u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let kind = u16::from_le_bytes([frame[0], frame[1]]);
    let Some(kind) = FrameType::from_wire(kind) else {
        return;
    };
    let header = FrameHeader {
        kind,
        length: word(4) as usize,
        sequence,
        body_crc: word(16),
    };
    frame[..HEADER_BYTES].copy_from_slice(&header.encode());
}

/// The frame of a message.
pub fn made(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = FrameWriter::new(WriteHalf::new(&mut bytes));
    writer
        .write(message.kind(), &message.encode())
        .expect("memory takes everything");
    drop(writer);
    bytes.split_off(PREFACE.len())
}
