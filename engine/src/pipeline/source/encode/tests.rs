//! What is encoded here and placed there is the same, whatever the content and the setting.

use std::sync::Mutex;

use super::*;
use crate::codec::CompressSetting;
use crate::codec::select::{CpuLimit, SendSample};
use crate::memory::{GuestMemory, Layout, PageBitmap, Region};
use crate::pipeline::clock::SystemClock;
use crate::pipeline::target::placer::Placer;
use crate::transport::send_buffer;
use crate::units::{ByteCount, PageCount, PageRange};
use crate::wire::{MAX_FRAME_PAGES, PagesBody};
use proptest::prelude::*;

mod dedup;

const PAGES: u64 = 300;

/// Memory of one region.
struct Memory {
    layout: Layout,
    content: Mutex<Vec<u8>>,
}

impl Memory {
    fn new(content: Vec<u8>) -> Arc<Self> {
        let region = Region {
            name: "ram".into(),
            pages: PageCount((content.len() / PAGE_BYTES) as u64),
            backing_page: ByteCount(4096),
        };
        Arc::new(Self {
            layout: Layout::new(vec![region]).unwrap(),
            content: Mutex::new(content),
        })
    }

    fn at(&self, range: PageRange) -> std::ops::Range<usize> {
        let start = range.first.0 as usize * PAGE_BYTES;
        start..start + range.len_bytes()
    }
}

impl ReadPages for Memory {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn read(&self, range: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        out.copy_from_slice(&self.content.lock().unwrap()[self.at(range)]);
        Ok(())
    }

    fn populated(&self, _: &mut PageBitmap) -> Result<(), MemoryError> {
        Ok(())
    }
}

impl GuestMemory for Memory {
    fn write(&self, first: PageIndex, data: &[u8]) -> Result<(), MemoryError> {
        let range = PageRange::new(first.0, (data.len() / PAGE_BYTES) as u64);
        self.content.lock().unwrap()[self.at(range)].copy_from_slice(data);
        Ok(())
    }

    fn write_zeros(&self, range: PageRange) -> Result<(), MemoryError> {
        self.content.lock().unwrap()[self.at(range)].fill(0);
        Ok(())
    }
}

fn settings() -> Vec<CompressSetting> {
    let texts = ["auto", "none", "lz4", "zstd:-50", "zstd:1", "xbzrle"];
    // In a build without zstd some of them are none.
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn encoder(setting: CompressSetting, reads: Encodings) -> PageEncoder {
    let deltas = setting.wants_deltas().then(|| {
        let room = ByteCount(4 << 20);
        Arc::new(Deltas::new(PageCount(PAGES), room).unwrap())
    });
    let packer = Packer::new(setting, 1, CpuLimit::default(), reads);
    PageEncoder::new(deltas, packer, reads)
}

/// One of the kinds of pages there are.
fn page(kind: u8, number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    match kind {
        0 => vec![0; PAGE_BYTES],
        1 => (number / 3 + 1).to_le_bytes().repeat(PAGE_BYTES / 8),
        2 => (0..PAGE_BYTES)
            .map(|at| b"pages that pack "[at % 16] ^ u8::from(random() % 16 == 0))
            .collect(),
        _ => (0..PAGE_BYTES).map(|_| (random() >> 40) as u8).collect(),
    }
}

fn memory_of(kinds: &[u8]) -> Vec<u8> {
    let pages = (0..PAGES).map(|number| page(kinds[number as usize % kinds.len()], number));
    pages.flatten().collect()
}

/// Carries a batch from one memory to the other.
fn carry(
    encoder: &mut PageEncoder,
    placer: &mut Placer,
    batch: &Batch,
    source: &Arc<Memory>,
) -> SentFrame {
    let clock = SystemClock::default();
    let mut buffer = FrameBuffer::new(send_buffer());
    let encoded = encoder.encode(batch, &**source, &clock, &mut buffer);
    let mut frame = encoded.unwrap();
    let body = PagesBody::decode(buffer.body()).unwrap();
    let data: usize = body.runs().map(|run| run.data.len()).sum();
    assert_eq!(frame.encoded.total().0, data as u64);
    let sent: u64 = body.runs().map(|run| run.range.count.0).sum();
    assert_eq!(frame.pages(), sent + frame.unchanged);
    placer.place(&body, &clock, &mut Vec::new()).unwrap();
    encoder.packer().observe(SendSample {
        elapsed: Duration::from_micros(150),
        cpu: Duration::from_micros(140),
        waited: Duration::from_micros(10),
        ..SendSample::default()
    });
    frame.stages = Default::default();
    frame
}

fn batch(round: u32, runs: &[(u64, u64)]) -> Batch {
    let runs = runs
        .iter()
        .map(|(first, count)| PageRange::new(*first, *count));
    Batch {
        round,
        runs: runs.collect(),
        ..Batch::default()
    }
}

#[test]
fn every_kind_of_page_goes_the_way_that_is_meant_for_it() {
    // 256 pages of a round: a quarter each.
    let source = Memory::new(memory_of(&[0, 1, 2, 3]));
    for setting in settings() {
        let target = Memory::new(vec![0xee; source.content.lock().unwrap().len()]);
        let mut placer = Placer::new(target.clone(), None);
        let mut encoder = encoder(setting, Encodings::readable());
        let all = batch(1, &[(0, 100), (100, 1), (101, 155)]);
        let frame = carry(&mut encoder, &mut placer, &all, &source);
        assert_eq!((frame.zero, frame.same_filled), (64, 64), "{setting}");
        let (raw, packed) = (frame.raw, frame.lz4 + frame.zstd);
        match setting.to_string().as_str() {
            "none" | "xbzrle" => assert_eq!((raw, packed), (128, 0), "{setting}"),
            "lz4" => assert_eq!((raw, frame.lz4), (0, 128)),
            "auto" => assert_eq!(raw + packed, 128),
            _ => assert_eq!((raw, frame.zstd), (0, 128), "{setting}"),
        }
        let (here, there) = (
            source.content.lock().unwrap(),
            target.content.lock().unwrap(),
        );
        let end = 256 * PAGE_BYTES;
        assert!(here[..end] == there[..end], "{setting}");
    }
}

#[test]
fn what_the_target_does_not_read_is_not_sent() {
    let source = Memory::new(memory_of(&[1, 2]));
    for setting in settings() {
        if setting.fixed().is_some() {
            continue;
        }
        let mut encoder = encoder(setting, Encodings::BASIC);
        let clock = SystemClock::default();
        let all = batch(1, &[(0, 256)]);
        let mut buffer = FrameBuffer::new(send_buffer());
        let encoded = encoder.encode(&all, &*source, &clock, &mut buffer);
        assert_eq!(encoded.unwrap().raw, 256, "{setting}");
    }
}

#[test]
fn a_block_that_does_not_pack_stays_raw_and_where_it_was() {
    let source = Memory::new(memory_of(&[3]));
    for setting in settings() {
        let mut encoder = encoder(setting, Encodings::readable());
        let clock = SystemClock::default();
        let all = batch(1, &[(7, 128)]);
        let mut buffer = FrameBuffer::new(send_buffer());
        let encoded = encoder.encode(&all, &*source, &clock, &mut buffer);
        assert_eq!(encoded.unwrap().raw, 128, "{setting}");
        let here = source.content.lock().unwrap();
        let sent = &here[source.at(PageRange::new(7, 128))];
        assert!(buffer.body().ends_with(sent));
        assert!(buffer.pages().starts_with(sent));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn memory_arrives_as_it_is(
        kinds in prop::collection::vec(0u8..4, 1..40),
        setting in prop::sample::select(settings()),
        rounds in prop::collection::vec(
            prop::collection::btree_map(0u64..PAGES, 1u64..40, 1..12), 1..5,
        ),
        changes in prop::collection::vec((0u64..PAGES, 0u8..6), 0..200),
    ) {
        let source = Memory::new(memory_of(&kinds));
        let target = Memory::new(vec![0; source.content.lock().unwrap().len()]);
        let mut placer = Placer::new(
            target.clone(),
            None,
        );
        let mut encoder = encoder(setting, Encodings::readable());
        let mut changes = changes.chunks(50);
        for (round, starts) in (1..).zip(&rounds) {
            // Runs that do not overlap, of at most a frame of pages in all.
            let (mut runs, mut end, mut left) = (Vec::new(), 0, MAX_FRAME_PAGES as u64);
            for (start, count) in starts {
                let first = (*start).max(end);
                let count = (*count).min(left).min(PAGES.saturating_sub(first));
                if count > 0 {
                    runs.push((first, count));
                    (end, left) = (first + count, left - count);
                }
            }
            carry(&mut encoder, &mut placer, &batch(round, &runs), &source);
            {
                let (here, there) =
                    (source.content.lock().unwrap(), target.content.lock().unwrap());
                for (first, count) in &runs {
                    let at = source.at(PageRange::new(*first, *count));
                    prop_assert!(here[at.clone()] == there[at], "round {round}");
                }
            }
            let mut here = source.content.lock().unwrap();
            for (number, kind) in changes.next().unwrap_or_default() {
                let at = source.at(PageRange::new(*number, 1));
                match kind {
                    4 => here[at.start + 100] ^= 0x55,
                    5 => here[at.start..at.start + 3000].fill(*number as u8),
                    kind => here[at].copy_from_slice(&page(*kind, number + 1000)),
                }
            }
        }
    }
}
