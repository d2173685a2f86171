//! One data channel of the source: take a batch, read, encode, send.

use std::io;
use std::sync::Arc;

use super::cpu_limiter::CpuLimiter;
use super::deltas::Deltas;
use super::encode::{DedupEncoder, Packer, PageEncoder, PlacedRun};
use super::send_samples::{FrameTime, Progress, SendSamples};
use crate::codec::dedup::DedupSetting;
use crate::codec::select::CpuLimit;
use crate::codec::{Codec, CompressSetting};
use crate::memory::ReadPages;
use crate::migration::{Batch, HEARTBEAT, MigrationError, SentFrame, Source, StageTime, Work};
use crate::pipeline::Step;
use crate::pipeline::disconnect_grace::DisconnectGrace;
use crate::pipeline::shared::Shared;
use crate::transport::{BindingProof, SendHalf};
use crate::units::{ByteCount, Instant};
use crate::wire::{FrameBuffer, FrameType, FrameWriter, Join, MAX_FRAME_PAGES, Message};

/// How the pages of a migration are packed.
#[derive(Clone, Debug, Default)]
pub struct Packing {
    /// How pages are compressed.
    pub compress: CompressSetting,
    /// Sends pages that change again as what changed in them.
    pub deltas: Option<Arc<Deltas>>,
    /// How much of the processors all channels together may use.
    pub cpu: CpuLimit,
    /// How many channels there are.
    pub channels: u16,
    /// Whether pages that the target has go as references, if it takes any.
    pub dedup: DedupSetting,
}

/// The sending half of a data channel.
pub struct SourceChannel {
    shared: Arc<Shared<Source>>,
    memory: Arc<dyn ReadPages>,
    number: u16,
    writer: FrameWriter<Box<dyn SendHalf>>,
    encoder: PageEncoder,
    batch: Batch,
    /// Whether raw pages go past the target's processors where they can.
    is_one_sided: bool,
    /// Whether the target has done what it does before the first page.
    is_ready: bool,
    /// Pages of the batch that do.
    placed: Vec<PlacedRun>,
    /// Body of a message, allocated once.
    body: Vec<u8>,
    cpu_limiter: CpuLimiter,
    samples: SendSamples,
    /// Since when there is nothing to send.
    idle_since: Option<Instant>,
    disconnect_grace: DisconnectGrace,
}

impl std::fmt::Debug for SourceChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceChannel")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl SourceChannel {
    /// Opens channel `number` on `tx` by joining the migration, with `proof` that it belongs to it. The
    /// target has agreed to it.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn open(
        shared: Arc<Shared<Source>>,
        memory: Arc<dyn ReadPages>,
        number: u16,
        tx: Box<dyn SendHalf>,
        packing: &Packing,
        proof: Option<BindingProof>,
    ) -> Result<Self, MigrationError> {
        // Nothing is cheaper than a page that nobody packs and nobody copies. But a codec that somebody
        // has named is used.
        let wants_raw = matches!(
            packing.compress,
            CompressSetting::Auto | CompressSetting::Fixed(Codec::Raw)
        );
        let is_one_sided = wants_raw && tx.is_one_sided();
        let deltas = packing.deltas.clone().filter(|_| !is_one_sided);
        let mut writer = FrameWriter::new(tx);
        let session = shared.look(Source::session);
        let join = Message::Join(Join {
            session,
            channel: number,
            proof,
        });
        writer.write(join.kind(), &join.encode()).map_err(lost)?;
        let reads = shared.look(Source::target_reads);
        let (workers, limit) = (packing.channels.max(1), packing.cpu);
        let packer = Packer::new(packing.compress, workers, limit, reads);
        let dedup = shared.look(Source::dedup);
        let dedup_encoder = dedup.map(|own| DedupEncoder::new(own, packing.dedup));
        let encoder = PageEncoder::new(deltas, packer, reads);
        Ok(Self {
            shared,
            memory,
            number,
            writer,
            encoder: encoder.with_dedup(dedup_encoder),
            batch: Batch::default(),
            is_one_sided,
            is_ready: false,
            placed: Vec::with_capacity(if is_one_sided { MAX_FRAME_PAGES } else { 0 }),
            body: Vec::new(),
            cpu_limiter: CpuLimiter::new(limit, workers),
            samples: SendSamples::new(),
            idle_since: None,
            disconnect_grace: DisconnectGrace::default(),
        })
    }

    /// The machine that the channel serves.
    pub fn shared(&self) -> &Arc<Shared<Source>> {
        &self.shared
    }

    /// Sends one frame, if there is one to send. Waits only for the connection.
    ///
    /// # Errors
    /// When memory cannot be read or the connection is lost.
    pub fn step(&mut self) -> Result<Step, MigrationError> {
        let is_over = self.shared.look(Source::is_over);
        if let Some(step) = self.disconnect_grace.step(self.shared.now(), is_over) {
            return step;
        }
        self.work().or_else(|error| match error {
            MigrationError::Link { .. } => Ok(self.disconnect_grace.lost(self.shared.now(), error)),
            other => Err(other),
        })
    }

    fn work(&mut self) -> Result<Step, MigrationError> {
        let number = self.number;
        let now = self.shared.now();
        let is_over = self.shared.look(Source::is_over);
        if let Some(until) = self.cpu_limiter.until(now).filter(|_| !is_over) {
            return Ok(Step::Wait(until));
        }
        if self.is_one_sided && !std::mem::replace(&mut self.is_ready, true) {
            // All memory of the target may have to be pinned, which takes long for a large guest. No page
            // is under way meanwhile.
            self.writer.can_place(&[]).map_err(lost)?;
        }
        let rested = self.cpu_limiter.end(now);
        self.samples.rest(rested);
        // Others wait only for the end of a round.
        let work = self.shared.try_with(|source| {
            let work = source.next_work(now, number, &mut self.batch);
            let round_ended = matches!(work, Work::RoundEnd(_));
            (work, round_ended)
        });
        let mut frame = match work {
            Work::Pages => self.send_pages()?,
            Work::RoundEnd(round) => {
                let message = Message::RoundEnd { round };
                message.encode_into(&mut self.body);
                let bytes = self
                    .writer
                    .write(message.kind(), &self.body)
                    .map_err(lost)?;
                SentFrame {
                    bytes: ByteCount(bytes),
                    ..SentFrame::default()
                }
            }
            Work::Wait => {
                self.idle_since.get_or_insert(now);
                return Ok(Step::Wait(self.shared.now().after(HEARTBEAT / 4)));
            }
            Work::Close => return Ok(Step::Done),
        };
        let idle = self.idle_since.take().map(|since| now.since(since));
        frame.stages.read.waiting += idle.unwrap_or_default();
        frame.stages.encode.waiting += rested;
        self.shared
            .try_with(|source| (source.sent(number, frame), false));
        Ok(Step::Worked)
    }

    /// Reads, encodes and sends the batch.
    fn send_pages(&mut self) -> Result<SentFrame, MigrationError> {
        let shared = Arc::clone(&self.shared);
        let clock = shared.clock();
        // Until the barrier is passed pages may go as frames: the target keeps these back.
        let places = self.is_one_sided
            && shared.look(Source::earlier_rounds_placed)
            && self.writer.can_place(&self.batch.runs).map_err(lost)?;
        let (begun_at, begun) = (clock.now(), clock.thread_cpu());
        let mut buffer = self.writer.begin().map_err(lost)?;
        let mut pages = None;
        let encoded = match places {
            true => {
                let pages = pages.insert(self.writer.begin().map_err(lost)?);
                self.encoder.encode_placing(
                    &self.batch,
                    &*self.memory,
                    clock,
                    pages,
                    &mut buffer,
                    &mut self.placed,
                )?
            }
            false => self
                .encoder
                .encode(&self.batch, &*self.memory, clock, &mut buffer)?,
        };
        let (encoded_at, encoded_cpu) = (clock.now(), clock.thread_cpu());
        let bytes = self.send_frame(pages, buffer).map_err(lost)?;
        let mut frame = SentFrame {
            bytes: ByteCount(bytes),
            ..encoded
        };
        let (done, cpu) = (clock.now(), clock.thread_cpu());
        let took = done.since(encoded_at);
        let send_cpu = cpu.saturating_sub(encoded_cpu).min(took);
        frame.stages.send = StageTime {
            busy: send_cpu,
            waiting: took - send_cpu,
        };
        let encode_cpu = encoded_cpu.saturating_sub(begun);
        self.encoder.sent(encode_cpu + took);
        let all_cpu = cpu.saturating_sub(begun);
        if self.cpu_limiter.is_limited() {
            self.cpu_limiter.worked(done, all_cpu);
        }
        let time = FrameTime {
            all: done.since(begun_at),
            cpu: all_cpu,
            waited: took - send_cpu,
        };
        let sample = self.samples.add(
            done,
            time,
            clock,
            || self.writer.stats(),
            || {
                shared.look(|source| Progress {
                    sent: source.sent_bytes(),
                    target: source.target_waited(self.number),
                })
            },
        );
        if let Some((sample, target_full)) = sample {
            frame.stages.target_full = target_full;
            self.encoder.packer().observe(sample);
        }
        Ok(frame)
    }
}

impl SourceChannel {
    /// Has the transport place what is to be placed of `pages`, and sends the frame that says so. Returns
    /// the bytes that both took on the wire.
    fn send_frame(&mut self, pages: Option<FrameBuffer>, frame: FrameBuffer) -> io::Result<u64> {
        let mut placed_bytes = 0;
        if let Some(pages) = pages {
            self.writer.place(pages, &self.placed)?;
            placed_bytes = self.placed.iter().map(|(range, _)| range.bytes().0).sum();
        }
        Ok(placed_bytes + self.writer.send(FrameType::Pages, frame)?)
    }
}

fn lost(source: io::Error) -> MigrationError {
    MigrationError::Link {
        what: "a data connection was lost",
        source,
    }
}
