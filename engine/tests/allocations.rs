//! After set-up, no frame allocates: not on its way out of a source's channel, nor on its way
//! into a target's memory.
//!
//! Every allocation of the program is counted by the thread that makes it. A channel of each
//! side runs against a connection in memory; once a round of all kinds of pages has gone
//! through, further ones must not allocate.

#![allow(unsafe_code, reason = "an allocator that counts is one")]

use std::alloc::{GlobalAlloc, Layout as Block, System};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::sync::{Arc, Mutex};

use pagelift_engine::codec::CompressSetting;
use pagelift_engine::codec::dedup::DedupSetting;
use pagelift_engine::converge::{Decision, Observation, Policy};
use pagelift_engine::memory::{GuestMemory, Layout, MemoryError, PageBitmap, ReadPages};
use pagelift_engine::migration::{
    DowntimeLimit, Source, SourceConfig, SourceStep, Target, TargetConfig,
};
use pagelift_engine::pipeline::{
    BasePages, Deltas, Packing, Shared, SourceChannel, Step, SystemClock, TargetChannel,
};
use pagelift_engine::transport::WriteHalf;
use pagelift_engine::units::{ByteCount, PAGE_BYTES, PageCount, PageIndex, PageRange};
use pagelift_engine::wire::{Encodings, FrameReader, Message, ReadOutcome, SessionId};

mod support;
use support::layout;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is left to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, block: Block) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are those that are asked for here.
        unsafe { System.alloc(block) }
    }

    unsafe fn dealloc(&self, at: *mut u8, block: Block) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, block) }
    }

    unsafe fn realloc(&self, at: *mut u8, block: Block, bytes: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as above.
        unsafe { System.realloc(at, block, bytes) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const PAGES: u64 = 2000;

/// Memory that is written by nobody while it is read.
struct Memory {
    layout: Layout,
    content: Mutex<Vec<u8>>,
}

impl Memory {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            layout: layout(&[PAGES]),
            content: Mutex::new(vec![0; PAGES as usize * PAGE_BYTES]),
        })
    }

    fn at(range: PageRange) -> std::ops::Range<usize> {
        let start = range.first.0 as usize * PAGE_BYTES;
        start..start + range.len_bytes()
    }

    /// A fifth each: zero, one word, text, noise, and one byte changed since the last round.
    fn change(&self, round: u64) {
        let mut content = self.content.lock().unwrap();
        let mut state = round | 1;
        for (number, page) in (0..).zip(content.chunks_mut(PAGE_BYTES)) {
            match number % 5 {
                0 => page.fill(0),
                1 => page.fill(number as u8 | 1),
                2 => {
                    for (at, byte) in page.iter_mut().enumerate() {
                        *byte = b"pages that pack "[at % 16] ^ (at * 7 % 11 == 0) as u8;
                    }
                    page[..8].copy_from_slice(&(round + number).to_le_bytes());
                }
                3 => page.fill_with(|| {
                    state = state
                        .wrapping_mul(0x5851_f42d_4c95_7f2d)
                        .wrapping_add(number);
                    (state >> 56) as u8
                }),
                _ => {
                    page[10] = 1;
                    page[number as usize] = round as u8 | 1;
                }
            }
        }
    }
}

impl ReadPages for Memory {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn read(&self, range: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        out.copy_from_slice(&self.content.lock().unwrap()[Self::at(range)]);
        Ok(())
    }

    fn populated(&self, _: &mut PageBitmap) -> Result<(), MemoryError> {
        Ok(())
    }
}

impl GuestMemory for Memory {
    fn write(&self, first: PageIndex, data: &[u8]) -> Result<(), MemoryError> {
        let range = PageRange::new(first.0, (data.len() / PAGE_BYTES) as u64);
        self.content.lock().unwrap()[Self::at(range)].copy_from_slice(data);
        Ok(())
    }

    fn write_zeros(&self, range: PageRange) -> Result<(), MemoryError> {
        self.content.lock().unwrap()[Self::at(range)].fill(0);
        Ok(())
    }
}

/// Bytes on their way within this program. Room for all that is ever under way is made at once.
#[derive(Clone)]
struct Pipe(Arc<Mutex<VecDeque<u8>>>);

impl Pipe {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(VecDeque::with_capacity(4 << 20))))
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        slices.iter().map(|slice| self.write(slice)).sum()
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Pipe {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.0.lock().unwrap().read(out)? {
            0 if !out.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

/// Never stops the guest.
#[derive(Debug)]
struct Never;

impl Policy for Never {
    fn decide(&mut self, _: &Observation) -> Decision {
        Decision::Continue
    }

    fn downtime_limit(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

/// Both sides, one data channel, and control messages that go over by hand.
struct Pair {
    source: Arc<Shared<Source>>,
    target: Arc<Shared<Target>>,
    sending: SourceChannel,
    receiving: TargetChannel,
    /// What the target says.
    answers: RefCell<FrameReader<Pipe>>,
    here: Arc<Memory>,
    there: Arc<Memory>,
}

fn clock() -> Arc<SystemClock> {
    Arc::new(SystemClock::default())
}

impl Pair {
    fn new(compress: CompressSetting) -> Self {
        let (session, now) = (
            SessionId(7),
            pagelift_engine::pipeline::Clock::now(&*clock()),
        );
        let config = SourceConfig {
            session,
            channels: 1,
            frame_pages: 128,
            downtime_limit: DowntimeLimit::Auto,
            verify: false,
            dedup: Some(PAGES),
            layout: layout(&[PAGES]),
            files: Vec::new(),
            persistent: Vec::new(),
            properties: Vec::new(),
            needs: Encodings::needed_by(compress),
            policy: Box::new(Never),
        };
        let source = Arc::new(Shared::new(Source::new(config, now), clock()));
        let base_pages = Arc::new(BasePages::new(None, 7));
        let config = TargetConfig {
            layout: layout(&[PAGES]),
            files: Vec::new(),
            persistent: Vec::new(),
            properties: Vec::new(),
            reads: Encodings::readable(),
            dedup: Some(base_pages.terms()),
        };
        let target = Arc::new(Shared::new(Target::new(config, now), clock()));
        let answers = Pipe::new();
        target
            .control()
            .connect(Box::new(WriteHalf::new(answers.clone())));

        let hello = source.with(Source::poll_message).unwrap();
        target.with(|target| {
            target.handle_message(now, hello).unwrap();
            target.poll(now);
            target.prepared(now);
            target.join(0).unwrap();
        });
        let (here, there) = (Memory::new(), Memory::new());
        let line = Pipe::new();
        let mut reader = FrameReader::new(Box::new(line.clone()) as Box<dyn Read + Send>);
        let pair = |deltas| Packing {
            compress,
            deltas,
            channels: 1,
            dedup: DedupSetting::On,
            ..Packing::default()
        };
        let deltas = compress
            .wants_deltas()
            .then(|| Arc::new(Deltas::new(PageCount(PAGES), ByteCount(32 << 20)).unwrap()));
        let answers = RefCell::new(FrameReader::new(answers));
        target.flush_messages().unwrap();
        listen(&answers, &source);
        let sending = SourceChannel::open(
            Arc::clone(&source),
            Arc::clone(&here) as Arc<dyn ReadPages>,
            0,
            Box::new(WriteHalf::new(line)),
            &pair(deltas),
            None,
        )
        .unwrap();
        assert!(
            matches!(reader.read(), Ok(ReadOutcome::Frame(_))),
            "the join"
        );
        let receiving = TargetChannel::new(
            Arc::clone(&target),
            Arc::clone(&there) as Arc<dyn GuestMemory>,
            base_pages,
            0,
            reader,
        );
        source.with(|source| {
            assert!(matches!(source.poll(now), SourceStep::Arm));
        });
        Self {
            source,
            target,
            sending,
            receiving,
            answers,
            here,
            there,
        }
    }

    /// Sends a round of all pages, and counts what its frames allocate: on the source's side
    /// and on the target's.
    fn round(&mut self, number: u64) -> (u64, u64) {
        self.here.change(number);
        let mut dirty = PageBitmap::new(PageCount(PAGES));
        dirty.insert(PageRange::new(0, PAGES));
        let now = self.source.now();
        self.source.with(|source| {
            if number == 1 {
                source.armed(now, &dirty);
            } else {
                assert!(matches!(source.poll(now), SourceStep::Harvest));
                source.harvested(now, &dirty).unwrap();
            }
        });
        let (mut source, mut target) = (0, 0);
        loop {
            let before = ALLOCATIONS.get();
            let sent = self.sending.step().unwrap();
            source += ALLOCATIONS.get() - before;
            let before = ALLOCATIONS.get();
            while self.receiving.step().unwrap() == Step::Worked {}
            target += ALLOCATIONS.get() - before;
            listen(&self.answers, &self.source);
            if sent != Step::Worked {
                break;
            }
        }
        let (here, there) = (self.here.content.lock(), self.there.content.lock());
        assert!(*here.unwrap() == *there.unwrap(), "round {number}");
        (source, target)
    }
}

/// Hands the source what the target has said.
fn listen(answers: &RefCell<FrameReader<Pipe>>, source: &Shared<Source>) {
    let mut answers = answers.borrow_mut();
    while let Ok(ReadOutcome::Frame(header)) = answers.read() {
        let message = Message::decode(header.kind, answers.body()).unwrap();
        let now = source.now();
        source
            .with(|source| source.handle_message(now, message))
            .unwrap();
    }
}

#[test]
fn no_frame_allocates_once_all_kinds_have_gone_through() {
    for setting in [
        "none", "xbzrle", "lz4", "zstd:1", "zstd:-20", "zstd:7", "auto",
    ] {
        let Ok(compress) = setting.parse() else {
            eprintln!("SKIP: {setting} in a build without zstd");
            continue;
        };
        let mut pair = Pair::new(compress);
        let set_up: Vec<_> = (1..=8).map(|round| pair.round(round)).collect();
        for round in 9..=20 {
            let counts = pair.round(round);
            assert_eq!(counts, (0, 0), "{setting}, round {round}, after {set_up:?}");
        }
        drop(pair.target);
    }
}
