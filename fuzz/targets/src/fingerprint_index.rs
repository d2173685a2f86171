//! The index of the fingerprints of a target's base pages, filled by frames of any content.

use pagelift_engine::codec::dedup::FingerprintIndex;
use pagelift_engine::wire::{FrameType, Message};
use std::collections::HashMap;

/// Room for so many pages.
const PAGES: u64 = 100;

/// Bodies of `Fingerprints` frames, each after its length (one byte): what is found must have been
/// told, and nothing that lies outside is taken.
pub fn fingerprint_index(data: &[u8]) {
    let (fingerprint_index, mut told) = (FingerprintIndex::new(PAGES), HashMap::new());
    let mut rest = data;
    while let [length, tail @ ..] = rest {
        let (body, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        rest = tail;
        let Ok(Message::Fingerprints(chunk)) = Message::decode(FrameType::Fingerprints, body)
        else {
            continue;
        };
        let end = chunk.first + chunk.fingerprints.len() as u64;
        let taken = fingerprint_index.insert(chunk.first, &chunk.fingerprints);
        assert_eq!(taken, end <= PAGES);
        if taken {
            let pages = (chunk.first..).zip(&chunk.fingerprints);
            told.extend(
                pages
                    .filter(|(_, fingerprint)| **fingerprint != 0)
                    .map(|(page, fingerprint)| (page, *fingerprint)),
            );
        }
    }
    for (page, fingerprint) in &told {
        assert_eq!(fingerprint_index.find(*page, *fingerprint), Some(*page));
        if let Some(elsewhere) = fingerprint_index.find(u64::MAX, *fingerprint) {
            assert_eq!(told.get(&elsewhere), Some(fingerprint));
        }
    }
}
