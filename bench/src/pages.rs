//! Pages like those of a running guest, to measure codecs with.
//!
//! Text and code are read from the machine this runs on, as a guest's page cache would hold
//! them; where it has none they are generated, and are then more regular than real ones. Ratios
//! therefore differ between machines: compare only what was measured on one. The rest depends
//! on the seed alone.
//!
//! Cost: files are read until there is enough; generating runs at some hundred MiB/s.

mod change;

use std::fs;
use std::path::{Path, PathBuf};

pub use change::Change;

/// Bytes of a page.
const PAGE_BYTES: usize = 4096;

/// What the pages hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// Nothing but zeros.
    Zero,
    /// Licences, documentation and scripts.
    Text,
    /// Programs and shared libraries.
    Code,
    /// Objects of a program: pointers, small numbers, short strings, gaps.
    Heap,
    /// What was compressed or encrypted already.
    Random,
    /// Runs of 1 to 64 pages of each of the others: a tenth zero, the rest in even parts.
    Mixed,
}

impl Content {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::Zero,
        Self::Text,
        Self::Code,
        Self::Heap,
        Self::Random,
        Self::Mixed,
    ];

    /// The kind in a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Text => "text",
            Self::Code => "code",
            Self::Heap => "heap",
            Self::Random => "random",
            Self::Mixed => "mixed",
        }
    }

    /// `count` pages of this kind.
    pub fn pages(self, count: usize, seed: u64) -> Vec<u8> {
        let len = count * PAGE_BYTES;
        let mut random = Random::new(seed);
        match self {
            Self::Zero => vec![0; len],
            Self::Text => text(len, &mut random),
            Self::Code => code(len, &mut random),
            Self::Heap => heap(len, &mut random),
            Self::Random => random.bytes(len),
            Self::Mixed => mixed(count, 1, seed),
        }
    }
}

/// A small generator (xorshift64*): the same seed gives the same bytes everywhere.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, which is small.
    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 33) % end
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

fn text(len: usize, random: &mut Random) -> Vec<u8> {
    let roots = [
        "/usr/share/common-licenses",
        "/usr/share/doc",
        "/usr/share/perl",
        "/usr/include",
        "/usr/lib/python3",
    ];
    let plain = |head: &[u8]| head.is_ascii() && !head.is_empty();
    let mut bytes = files(&roots, len, plain);
    while bytes.len() < len {
        bytes.extend_from_slice(WORDS[random.below(WORDS.len() as u64) as usize].as_bytes());
        bytes.push(if random.below(12) == 0 { b'\n' } else { b' ' });
    }
    bytes.truncate(len);
    bytes
}

fn code(len: usize, random: &mut Random) -> Vec<u8> {
    let roots = ["/usr/bin", "/usr/lib"];
    let mut bytes = files(&roots, len, |head| head.starts_with(b"\x7fELF"));
    while bytes.len() < len {
        // Opcodes from a small set, registers and offsets from larger ones.
        let opcode = [0x48, 0x8b, 0x89, 0xe8, 0x0f, 0x83, 0xc7, 0x85][random.below(8) as usize];
        bytes.push(opcode);
        bytes.push(random.below(64) as u8);
        if random.below(3) == 0 {
            bytes.extend_from_slice(&(random.below(4096) as u32).to_le_bytes());
        }
    }
    bytes.truncate(len);
    bytes
}

/// Objects of 16 to 256 bytes from an arena of 64 MiB, as an allocator lays them out.
fn heap(len: usize, random: &mut Random) -> Vec<u8> {
    let arena = 0x0000_7f3a_4000_0000_u64;
    let mut bytes = Vec::with_capacity(len + 512);
    while bytes.len() < len {
        let words = 1 << (1 + random.below(5));
        // The allocator's header: the size of the object.
        bytes.extend_from_slice(&(words * 8 + 1u64).to_le_bytes());
        let kind = random.below(8);
        for _ in 1..words {
            let word = match kind {
                // Free, or not used yet.
                0 | 1 => 0,
                // A string.
                2 => string_word(random),
                // Numbers: a hash, a double, a sample.
                3 => random.next() & 0x000f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000,
                // A record: pointers near and far, counts, flags.
                _ => match random.below(4) {
                    0 => arena + bytes.len() as u64 + (random.below(1 << 14) & !15),
                    1 => arena + (random.below(64 << 20) & !15),
                    2 => random.below(200),
                    _ => 0,
                },
            };
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    }
    bytes.truncate(len);
    bytes
}

fn string_word(random: &mut Random) -> u64 {
    let word = WORDS[random.below(WORDS.len() as u64) as usize].as_bytes();
    let mut bytes = [0; 8];
    let len = word.len().min(8);
    bytes[..len].copy_from_slice(&word[..len]);
    u64::from_le_bytes(bytes)
}

/// `count` pages in runs of 1 to 64, of which `zero_tenths` of ten are zero, and the rest in even
/// parts text, code, heap and random.
pub fn mixed(count: usize, zero_tenths: u64, seed: u64) -> Vec<u8> {
    let len = count * PAGE_BYTES;
    let mut random = Random::new(seed);
    let parts: Vec<_> = [Content::Text, Content::Code, Content::Heap, Content::Random]
        .map(|content| content.pages(len / PAGE_BYTES, seed + 1))
        .into();
    let zeros = vec![0; 64 * PAGE_BYTES];
    let mut used = [0; 4];
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let run = (1 + random.below(64) as usize) * PAGE_BYTES;
        let run = run.min(len - bytes.len());
        if random.below(10) < zero_tenths {
            bytes.extend_from_slice(&zeros[..run]);
            continue;
        }
        let part = random.below(4) as usize;
        let from = used[part];
        bytes.extend_from_slice(&parts[part][from..from + run]);
        used[part] += run;
    }
    bytes
}

/// Up to `len` bytes of files under `roots` whose first bytes `fit`, in the order of their
/// names, each padded to whole pages with zeros, as in a page cache. No file gives more than
/// 1 MiB, so that none decides alone.
fn files(roots: &[&str], len: usize, fit: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    for root in roots {
        let mut pending = vec![PathBuf::from(root)];
        while let Some(path) = pending.pop() {
            if bytes.len() >= len {
                return bytes;
            }
            if path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                pending.extend(entries(&path));
            } else if let Ok(content) = fs::read(&path)
                && fit(&content[..content.len().min(512)])
            {
                bytes.extend_from_slice(&content[..content.len().min(1 << 20)]);
                bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES), 0);
            }
        }
    }
    bytes
}

/// What is in a directory, the last name first; nothing if it cannot be read.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(directory)
        .map(|read| read.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    entries.sort();
    entries.reverse();
    entries
}

const WORDS: [&str; 32] = [
    "page", "memory", "guest", "the", "of", "and", "driver", "value", "index", "buffer", "name",
    "error", "channel", "state", "version", "return", "config", "system", "kernel", "object",
    "string", "table", "length", "offset", "address", "module", "register", "process", "thread",
    "update", "request", "response",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_gives_as_many_pages_as_asked_for_and_the_same_again() {
        for content in Content::ALL {
            for count in [1, 7, 300] {
                let pages = content.pages(count, 5);
                assert_eq!(pages.len(), count * PAGE_BYTES, "{}", content.name());
                assert!(pages == content.pages(count, 5), "{}", content.name());
            }
        }
    }

    #[test]
    fn only_the_zero_pages_are_all_zero() {
        // Of many files: a single program may be half zeros.
        const PAGES: usize = 4096;
        for content in [Content::Text, Content::Code, Content::Heap, Content::Random] {
            let pages = content.pages(PAGES, 1);
            let zero = pages
                .chunks(PAGE_BYTES)
                .filter(|page| page.iter().all(|byte| *byte == 0));
            assert!(zero.count() < PAGES / 4, "{}", content.name());
        }
    }
}
