//! One data channel of the target: receive a frame, check it, place its pages, acknowledge.

use std::io::Read;
use std::sync::Arc;

use super::Step;
use super::control::lost;
use super::kept::KeptPages;
use super::last_word::LastWord;
use super::shared::Shared;
use crate::codec::reference::Secret;
use crate::codec::xbzrle;
use crate::memory::{ReadPages, WritePages};
use crate::migration::{HEARTBEAT, MigrationError, Target};
use crate::units::{ByteCount, PAGE_BYTES, PageRange};
use crate::wire::{
    Encoding, FrameError, FrameHeader, FrameReader, FrameType, HEADER_BYTES, MAX_FRAME_PAGES,
    MAX_REFERENCE_PAGES, Message, PageRun, PagesBody, Place, ReadOutcome, Reference,
};

/// The receiving half of a data channel that has joined.
pub struct TargetChannel {
    shared: Arc<Shared<Target>>,
    memory: Arc<dyn WritePages>,
    /// The same memory, to apply deltas to.
    content: Arc<dyn ReadPages>,
    page: Box<[u8; PAGE_BYTES]>,
    references: Option<Referred>,
    /// Pages of a frame that could not be made.
    missing: Vec<PageRange>,
    number: u16,
    reader: FrameReader<Box<dyn Read + Send>>,
    last_word: LastWord,
}

/// What references are checked with.
struct Referred {
    secret: Secret,
    kept: Arc<KeptPages>,
    pages: Box<[u8]>,
}

impl std::fmt::Debug for TargetChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TargetChannel")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl TargetChannel {
    /// Reads channel `number` from `reader`, whose first frame was its `Join`. References, if
    /// any were agreed on, are to `kept` or to the guest's own pages.
    pub fn new(
        shared: Arc<Shared<Target>>,
        memory: Arc<dyn WritePages>,
        content: Arc<dyn ReadPages>,
        kept: Arc<KeptPages>,
        number: u16,
        reader: FrameReader<Box<dyn Read + Send>>,
    ) -> Self {
        let secret = shared.look(Target::reference_secret);
        let references = secret.map(|secret| Referred {
            secret,
            kept,
            pages: vec![0; MAX_REFERENCE_PAGES * PAGE_BYTES].into(),
        });
        Self {
            references,
            missing: Vec::with_capacity(MAX_FRAME_PAGES),
            shared,
            memory,
            content,
            page: Box::new([0; PAGE_BYTES]),
            number,
            reader,
            last_word: LastWord::default(),
        }
    }

    /// The machine that the channel serves.
    pub fn shared(&self) -> &Arc<Shared<Target>> {
        &self.shared
    }

    /// Whether the channel may read: not while it waits at a round's barrier.
    pub fn may_read(&self) -> bool {
        self.shared.look(|target| target.may_read(self.number))
    }

    /// Receives and places one frame. Waits only as long as the connection's read does.
    ///
    /// # Errors
    /// When the connection is lost, memory cannot be written, or the source broke the protocol.
    pub fn step(&mut self) -> Result<Step, MigrationError> {
        if self.shared.look(Target::is_over) {
            return Ok(Step::Done);
        }
        if let Some(step) = self.last_word.step(self.shared.now(), false) {
            return step;
        }
        if !self.may_read() {
            return Ok(Step::Wait(self.shared.now().after(HEARTBEAT / 4)));
        }
        let header = match self.reader.read() {
            Ok(ReadOutcome::Frame(header)) => header,
            Ok(ReadOutcome::Pending) => return Ok(Step::Quiet),
            // After the last round the source may drop its data connections at any time.
            Err(_) if self.shared.look(Target::has_all_pages) => {
                return Ok(Step::Done);
            }
            Err(error @ (FrameError::Closed | FrameError::Io(_))) => {
                return Ok(self.last_word.lost(self.shared.now(), error.into()));
            }
            Err(error) => return Err(error.into()),
        };
        let bytes = ByteCount((HEADER_BYTES + header.length) as u64);
        let acknowledge = match header.kind {
            FrameType::Pages => self.place(bytes)?,
            _ => self.end_round(&header, bytes)?,
        };
        if acknowledge {
            self.shared.flush_messages().map_err(lost)?;
        }
        Ok(Step::Worked)
    }

    fn place(&mut self, bytes: ByteCount) -> Result<bool, MigrationError> {
        let body = PagesBody::decode(self.reader.body())?;
        self.shared
            .look(|target| target.admit(self.number, &body))?;
        self.missing.clear();
        for run in body.runs() {
            match run.encoding {
                Encoding::Zero => self.memory.write_zeros(run.range)?,
                Encoding::Raw => self.memory.write(run.range.first, run.data)?,
                Encoding::Delta if !self.shared.look(|target| target.is_whole(run.range)) => {
                    self.missing.push(run.range);
                }
                Encoding::Delta => {
                    // The round's barrier: the page is as the round before left it.
                    self.content.read(run.range, &mut self.page[..])?;
                    xbzrle::decode(run.data, &mut self.page[..])
                        .map_err(|error| MigrationError::PeerMisbehaved(error.to_string()))?;
                    self.memory.write(run.range.first, &self.page[..])?;
                }
                Encoding::Reference => {
                    let references = self.references.as_mut();
                    let found = references.map(|own| own.find(&run, &*self.content));
                    match found.transpose()?.flatten() {
                        Some(pages) => self.memory.write(run.range.first, pages)?,
                        None => self.missing.push(run.range),
                    }
                }
            }
        }
        let now = self.shared.now();
        // Nobody waits for a frame; this thread sends the acknowledgement itself.
        Ok(self.shared.try_with(|target| {
            target.made(&body, &self.missing, now);
            let acknowledged = target.placed(self.number, bytes, now);
            (acknowledged || !self.missing.is_empty(), false)
        }))
    }

    fn end_round(
        &mut self,
        header: &FrameHeader,
        bytes: ByteCount,
    ) -> Result<bool, MigrationError> {
        let message = Message::decode(header.kind, self.reader.body())?;
        let Message::RoundEnd { round } = message else {
            let what = format!("{:?} on a data connection", header.kind);
            return Err(MigrationError::PeerMisbehaved(what));
        };
        let now = self.shared.now();
        self.shared
            .with(|target| target.round_end(self.number, round, bytes, now))?;
        Ok(true)
    }
}

impl Referred {
    /// The content of a run that was sent as a reference; `None` if it is not where the
    /// reference says.
    fn find(
        &mut self,
        run: &PageRun<'_>,
        guest: &dyn ReadPages,
    ) -> Result<Option<&[u8]>, MigrationError> {
        let reference = Reference::decode(run.data)?;
        let pages = &mut self.pages[..run.range.len_bytes()];
        let is_there = match reference.place {
            Place::Guest(first) => {
                let place = PageRange {
                    first,
                    count: run.range.count,
                };
                let is_inside = guest.layout().contains(place);
                if is_inside {
                    // Another channel may write there meanwhile; the identity tells.
                    guest.read(place, pages)?;
                }
                is_inside
            }
            Place::Kept(first) => self.kept.read(first, pages),
        };
        Ok((is_there && self.secret.identity(pages) == reference.identity).then_some(pages))
    }
}
