use std::io::Read;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use pagelift_engine::memory::{Layout, Region};
use pagelift_engine::transport::{SendHalf, SendStats, send_buffer};
use pagelift_engine::units::{ByteCount, PAGE_BYTES};

use super::*;
use crate::rdma::exposure::chunk_around;
use crate::rdma::keys::RecordReader;

/// A target without a device: answers as one does, and keeps what it was told.
#[derive(Clone)]
struct Target(Arc<Mutex<Told>>);

struct Told {
    layout: Layout,
    records: Vec<Record>,
    answers: VecDeque<u8>,
}

impl Target {
    /// One whose guest has regions of so many pages.
    fn of(regions: &[u64]) -> Self {
        let region = |pages: &u64| Region {
            name: format!("of {pages} pages"),
            pages: PageCount(*pages),
            backing_page: ByteCount(PAGE_BYTES as u64),
        };
        Self(Arc::new(Mutex::new(Told {
            layout: Layout::new(regions.iter().map(region).collect()).unwrap(),
            records: Vec::new(),
            answers: VecDeque::new(),
        })))
    }

    fn windows(&self) -> Windows {
        let stream = KeyStream {
            tx: Box::new(self.clone()),
            rx: RecordReader::new(Box::new(self.clone())),
        };
        Windows::new(stream, false)
    }

    /// What it was told since it was asked last.
    fn told(&self) -> Vec<Record> {
        std::mem::take(&mut self.0.lock().unwrap().records)
    }
}

impl SendHalf for Target {
    fn lend(&mut self) -> io::Result<BytesMut> {
        Ok(send_buffer())
    }

    fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        let record = RecordReader::new(Box::new(io::Cursor::new(bytes))).read()?;
        let mut told = self.0.lock().unwrap();
        if let Record::Wanted(page) = record {
            let window = Record::Window(Window {
                pages: chunk_around(&told.layout, page).unwrap(),
                address: 0,
                key: 0,
            });
            told.answers.extend(window.encode());
        }
        told.records.push(record);
        Ok(())
    }

    fn give_back(&mut self, _: Bytes) {}

    fn stats(&mut self) -> SendStats {
        SendStats::default()
    }
}

impl Read for Target {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.lock().unwrap().answers.read(out)
    }
}

fn open(windows: &mut Windows, runs: &[PageRange]) -> bool {
    windows.open(runs, &Wake::new().unwrap(), |_| true).unwrap()
}

#[test]
fn a_chunk_that_is_cut_by_a_region_is_asked_for_by_what_is_missing() {
    let target = Target::of(&[300, 5, 700]);
    let mut windows = target.windows();
    let across = [PageRange::new(290, 30)];
    // Each answer ends with its region.
    for (missing, is_open) in [(290, false), (300, false), (305, true)] {
        assert_eq!(open(&mut windows, &across), is_open);
        assert_eq!(target.told(), [Record::Wanted(missing)]);
    }
    assert!(open(&mut windows, &across));
    assert_eq!(target.told(), []);
}

#[test]
fn no_window_is_asked_for_twice_and_each_is_given_back_once() {
    let target = Target::of(&[300, 100 * CHUNK_PAGES]);
    let mut windows = target.windows();
    let mut held: Vec<u64> = Vec::new();
    for chunk in (0..90).chain(0..90) {
        let pages = [PageRange::new(chunk * CHUNK_PAGES + 40, CHUNK_PAGES)];
        open(&mut windows, &pages);
        for record in target.told() {
            match record {
                Record::Wanted(page) => {
                    let layout = &target.0.lock().unwrap().layout;
                    let first = chunk_around(layout, page).unwrap().first.0;
                    assert!(!held.contains(&first), "{first} is asked for again");
                    held.push(first);
                }
                Record::Done(first) => {
                    let at = held.iter().position(|window| *window == first).unwrap();
                    held.remove(at);
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(held.len() <= MAX_CHUNKS);
    }
}
