//! References, from the encoder to the target's memory.

use super::*;
use crate::codec::dedup::{DedupSetting, Secret, fingerprint};
use crate::migration::DedupContext;
use crate::pipeline::BasePages;
use crate::pipeline::target::dedup::DedupReader;

const SESSION: u128 = 5;
const NONCE: u128 = 77;

/// A source with the fingerprints of a target with base pages.
struct Bench {
    dedup: Arc<DedupContext>,
    base_pages: Arc<Memory>,
    target: Arc<Memory>,
    placer: Placer,
    encoder: PageEncoder,
}

impl Bench {
    /// Pages of zeros have no fingerprint.
    fn new(base_pages: Vec<u8>, setting: CompressSetting) -> Self {
        let dedup = Arc::new(DedupContext {
            secret: Secret::new(SESSION, NONCE),
            nonce: NONCE,
            fingerprints: crate::codec::dedup::FingerprintIndex::new(PAGES),
        });
        for (number, page) in (0..).zip(base_pages.chunks(PAGE_BYTES)) {
            if !is_zero(page) {
                let fingerprint = fingerprint(NONCE, page);
                assert!(dedup.fingerprints.insert(number, &[fingerprint]));
            }
        }
        let base_pages = Memory::new(base_pages);
        let target = Memory::new(vec![0; PAGES as usize * PAGE_BYTES]);
        let memory = Arc::clone(&base_pages) as Arc<dyn ReadPages>;
        let reader = DedupReader::new(
            Secret::new(SESSION, NONCE),
            Arc::new(BasePages::new(Some(memory), NONCE)),
        );
        let placer = Placer::new(target.clone(), Some(reader));
        let dedup_encoder = DedupEncoder::new(Arc::clone(&dedup), DedupSetting::On);
        Self {
            encoder: encoder(setting, Encodings::readable()).with_dedup(Some(dedup_encoder)),
            dedup,
            base_pages,
            target,
            placer,
        }
    }

    /// Carries pages over; gives what the frame held and what was missing.
    fn carry(&mut self, source: &Arc<Memory>, mut batch: Batch) -> (SentFrame, Vec<PageRange>) {
        batch.may_refer = true;
        let clock = SystemClock::default();
        let mut buffer = FrameBuffer::new(send_buffer());
        let encoded = self.encoder.encode(&batch, &**source, &clock, &mut buffer);
        let frame = encoded.unwrap();
        let body = PagesBody::decode(buffer.body()).unwrap();
        let sent: u64 = body.runs().map(|run| run.range.count.0).sum();
        assert_eq!(frame.pages(), sent + frame.unchanged);
        let mut missing = Vec::new();
        self.placer.place(&body, &clock, &mut missing).unwrap();
        (frame, missing)
    }

    fn arrived(&self, source: &Memory, range: PageRange) -> bool {
        let (here, there) = (
            source.content.lock().unwrap(),
            self.target.content.lock().unwrap(),
        );
        here[source.at(range)] == there[source.at(range)]
    }
}

fn none() -> CompressSetting {
    "none".parse().unwrap()
}

/// A guest that comes back: what changed goes whole, the rest in references of many pages.
#[test]
fn only_what_changed_crosses() {
    let source = Memory::new(memory_of(&[2, 3]));
    let mut bench = Bench::new(memory_of(&[2, 3]), none());
    source.content.lock().unwrap()[40 * PAGE_BYTES] ^= 1;
    let (frame, missing) = bench.carry(&source, batch(1, &[(0, 200)]));
    assert_eq!((frame.reference, frame.raw), (199, 1));
    // 0 to 31, 32 to 39; 41 to 72, ... to 199.
    assert_eq!(frame.encoded.reference, 24 * (2 + 5));
    assert!(missing.is_empty());
    assert!(bench.arrived(&source, PageRange::new(0, 200)));
}

#[test]
fn pages_are_found_at_other_places() {
    let source = Memory::new(memory_of(&[3]));
    // An image, from page 100 of the guest on.
    let image = source.content.lock().unwrap()[100 * PAGE_BYTES..150 * PAGE_BYTES].to_vec();
    let mut bench = Bench::new(image, none());
    let (frame, _) = bench.carry(&source, batch(1, &[(0, 99)]));
    assert_eq!(frame.reference, 0);
    let (frame, missing) = bench.carry(&source, batch(1, &[(99, 60)]));
    assert_eq!((frame.reference, frame.raw), (50, 10));
    assert!(missing.is_empty());
    assert!(bench.arrived(&source, PageRange::new(99, 60)));
}

#[test]
fn a_file_that_changed_is_noticed_and_its_pages_go_whole() {
    for setting in settings() {
        let source = Memory::new(memory_of(&[2, 3]));
        let mut bench = Bench::new(memory_of(&[2, 3]), setting);
        bench.base_pages.content.lock().unwrap()[33 * PAGE_BYTES + 5] ^= 1;
        let (frame, missing) = bench.carry(&source, batch(1, &[(0, 100)]));
        assert_eq!(frame.reference, 100, "{setting}");
        assert_eq!(missing, [PageRange::new(32, 32)], "{setting}");
        let again = Batch {
            whole: (32..64).map(PageIndex).collect(),
            ..batch(2, &[(32, 32)])
        };
        let (frame, missing) = bench.carry(&source, again);
        assert_eq!((frame.reference, missing.len()), (0, 0), "{setting}");
        assert!(bench.arrived(&source, PageRange::new(0, 100)), "{setting}");
    }
}

#[test]
fn fingerprints_that_lie_cost_pages_and_no_content() {
    let source = Memory::new(memory_of(&[3]));
    let mut bench = Bench::new(vec![1; PAGES as usize * PAGE_BYTES], none());
    for (number, page) in (0..).zip(source.content.lock().unwrap().chunks(PAGE_BYTES)) {
        let fingerprints = [fingerprint(NONCE, page)];
        assert!(bench.dedup.fingerprints.insert(number, &fingerprints));
    }
    let (frame, missing) = bench.carry(&source, batch(1, &[(0, 64)]));
    assert_eq!(frame.reference, 64);
    assert_eq!(missing, [PageRange::new(0, 32), PageRange::new(32, 32)]);
    let untouched = bench.target.content.lock().unwrap();
    assert!(is_zero(&untouched[..64 * PAGE_BYTES]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn memory_arrives_as_it_is_whatever_the_base_pages_are(
        kinds in prop::collection::vec(0u8..4, 1..20),
        base_kinds in prop::collection::vec(0u8..4, 1..20),
        shift in 0usize..PAGES as usize,
        changed in prop::collection::vec(0u64..PAGES, 0..20),
        setting in prop::sample::select(settings()),
        rounds in prop::collection::vec((0u64..PAGES, 1u64..200, 0u64..PAGES), 1..8),
    ) {
        let source = Memory::new(memory_of(&kinds));
        let mut base_pages = memory_of(&base_kinds);
        base_pages.rotate_left(shift * PAGE_BYTES);
        let mut bench = Bench::new(base_pages, setting);
        for page in changed {
            bench.base_pages.content.lock().unwrap()[page as usize * PAGE_BYTES + 9] ^= 1;
        }
        let mut round = 0;
        for (first, count, written) in rounds {
            source.content.lock().unwrap()[written as usize * PAGE_BYTES + 50] ^= 8;
            let count = count.min(PAGES - first);
            round += 1;
            let runs = match (first..first + count).contains(&written) {
                true => vec![(first, count)],
                false if written < first => vec![(written, 1), (first, count)],
                false => vec![(first, count), (written, 1)],
            };
            let (_, missing) = bench.carry(&source, batch(round, &runs));
            if !missing.is_empty() {
                round += 1;
                let again = Batch {
                    whole: missing.iter().flat_map(|run| run.indices()).map(PageIndex).collect(),
                    runs: missing,
                    ..batch(round, &[])
                };
                let (_, still) = bench.carry(&source, again);
                prop_assert!(still.is_empty());
            }
            prop_assert!(bench.arrived(&source, PageRange::new(first, count)));
            prop_assert!(bench.arrived(&source, PageRange::new(written, 1)));
        }
    }
}
