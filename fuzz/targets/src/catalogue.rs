//! The catalogue of a target's pages, filled by frames of any content.

use pagelift_engine::codec::reference::Catalogue;
use pagelift_engine::wire::{FrameType, Message};
use std::collections::HashMap;

/// Room for so many pages.
const PAGES: u64 = 100;

/// Bodies of catalogue frames, each after its length (one byte): what is found must have been
/// told, and nothing that lies outside is taken.
pub fn catalogue(data: &[u8]) {
    let (catalogue, mut told) = (Catalogue::new(PAGES), HashMap::new());
    let mut rest = data;
    while let [length, tail @ ..] = rest {
        let (body, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        rest = tail;
        let Ok(Message::Catalogue(chunk)) = Message::decode(FrameType::Catalogue, body) else {
            continue;
        };
        let end = chunk.first + chunk.fingerprints.len() as u64;
        let taken = catalogue.insert(chunk.first, &chunk.fingerprints);
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
        assert_eq!(catalogue.find(*page, *fingerprint), Some(*page));
        if let Some(elsewhere) = catalogue.find(u64::MAX, *fingerprint) {
            assert_eq!(told.get(&elsewhere), Some(fingerprint));
        }
    }
}
