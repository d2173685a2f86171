//! Every target for a bounded time, with inputs mutated from the corpus that is kept.
//!
//! The inputs are the same in every run, in the same order; how far a run gets depends on the
//! machine. `PAGELIFT_FUZZ_SECONDS` (default 2) is the time for each target,
//! `PAGELIFT_FUZZ_SEED` (default 1) chooses other inputs.

use pagelift_fuzz_targets::TARGETS;
use std::fs;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longest input that is made.
const MAX_BYTES: usize = 8 << 10;

/// Bytes at borders of what they may mean.
const EDGES: [u8; 9] = [0, 1, 2, 0x10, 0x20, 0x7f, 0x80, 0x81, 0xff];

/// A small generator (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end.max(1)
    }

    fn byte(&mut self) -> u8 {
        match self.below(2) {
            0 => EDGES[self.below(EDGES.len())],
            _ => self.below(256) as u8,
        }
    }
}

/// Changes `input` in one way; `other` is a piece to be mixed in.
fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let end = (at + 1 + random.below(16)).min(input.len());
    match random.below(8) {
        0 | 1 if at < input.len() => input[at] = random.byte(),
        2 if at < input.len() => input[at] ^= 1 << random.below(8),
        3 if at < input.len() => input[at] = input[at].wrapping_add(random.byte()),
        4 => _ = input.drain(at.min(end)..end),
        5 => {
            let new: Vec<u8> = (0..1 + random.below(16)).map(|_| random.byte()).collect();
            input.splice(at..at, new);
        }
        6 => {
            let start = random.below(other.len());
            let stop = start + random.below(other.len() - start + 1);
            input.splice(at..end.max(at), other[start..stop].iter().copied());
        }
        _ => input.truncate(at.max(input.len() / 2)),
    }
    input.truncate(MAX_BYTES);
}

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../corpus")
        .join(name);
    let mut files: Vec<PathBuf> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

fn smoke(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let time = Duration::from_secs(setting("PAGELIFT_FUZZ_SECONDS", 2));
    let seed = setting("PAGELIFT_FUZZ_SEED", 1);
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "the corpus of {name} is empty");
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let run = |input: &[u8]| {
        if let Err(panic) = catch_unwind(|| (target.run)(input)) {
            eprintln!("{name}: broken by the input {input:02x?}");
            std::panic::resume_unwind(panic);
        }
    };
    corpus.iter().for_each(|input| run(input));
    let start = Instant::now();
    let mut inputs = corpus.len();
    // At least some, however slow the machine is or little the time.
    while inputs < 1000 || start.elapsed() < time {
        for _ in 0..100 {
            let mut input = corpus[random.below(corpus.len())].clone();
            for _ in 0..1 + random.below(8) {
                let other = &corpus[random.below(corpus.len())];
                mutate(&mut input, other, &mut random);
            }
            run(&input);
        }
        inputs += 100;
    }
    println!(
        "{name}: {inputs} inputs in {:?}, seed {seed}",
        start.elapsed()
    );
}

/// One test for each target, so that they have names and run side by side.
macro_rules! smoke_tests {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                smoke(stringify!($name));
            }
        )*

        #[test]
        fn every_target_has_a_test_and_a_fuzzer() {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
            let fuzz = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
            let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
            for name in names {
                let fuzzer = format!("fuzz_targets/{name}.rs");
                assert!(manifest.contains(&format!("path = \"{fuzzer}\"")), "{name}");
                assert!(fuzz.join(fuzzer).exists(), "{name}");
            }
        }
    };
}

smoke_tests! {
    agent_message,
    block_decode,
    block_encode,
    fingerprint_index,
    control_request,
    frame_reader,
    hello,
    key_records,
    lz4_decode,
    message,
    monitor_line,
    option_value,
    pages_body,
    ramblock_listing,
    return_path,
    rpc_stream,
    trace,
    xbzrle_decode,
    xbzrle_encode,
    domain_xml,
    migration_cookie,
    migration_params,
}
