//! Marks in files: found by whoever has the same file, not a part of memory, and gone afterwards.

mod support;

use std::fs::File;

use pagelift_engine::memory::{FileMemory, GuestMemory, InFiles, Mark, RegionFile};
use pagelift_engine::units::{PAGE_BYTES, PageIndex};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals};
use support::{layout, memfd, pages, populated, read};

const PAGES: u64 = 50;
const WORD: u64 = 0x1234_5678_9abc_def1;

/// Two regions, the second of which begins 3 pages into its file.
fn memory(low: &File, high: &File) -> FileMemory {
    let place = |file: &File, page: u64| RegionFile {
        file: file.try_clone().unwrap(),
        offset: page * PAGE_BYTES as u64,
    };
    let files = vec![place(low, 0), place(high, 3)];
    FileMemory::new(layout(&[PAGES, PAGES - 3]), files).unwrap()
}

fn file() -> File {
    memfd(PAGES, MemfdFlags::empty()).unwrap()
}

fn len_pages(file: &File) -> u64 {
    file.metadata().unwrap().len() / PAGE_BYTES as u64
}

#[test]
fn a_mark_shows_where_the_file_is_and_nowhere_else() {
    let (low, high, other) = (file(), file(), file());
    let marked = memory(&low, &high);
    assert_eq!(marked.files().len(), 2);
    marked.write(PageIndex(0), &pages(&[1; 90])).unwrap();
    let there = populated(&marked);
    let placed = marked.place_mark(1, WORD).unwrap();
    assert_eq!(placed.mark().word, WORD);
    // The other way round, as somebody else may have put it together.
    assert!(memory(&high, &other).shows(placed.mark()).unwrap());
    assert!(!memory(&other, &low).shows(placed.mark()).unwrap());
    let elsewhere = Mark {
        word: WORD + 2,
        ..placed.mark()
    };
    assert!(!memory(&high, &other).shows(elsewhere).unwrap());
    assert_eq!(read(&marked, 0, 90), pages(&[1; 90]), "not in memory");
    assert_eq!(populated(&marked), there);
    let mark = placed.mark();
    placed.take_back().unwrap();
    assert_eq!(len_pages(&high), PAGES);
    assert!(!marked.shows(mark).unwrap());
    assert_eq!(read(&marked, 0, 90), pages(&[1; 90]));
}

#[test]
fn a_mark_that_is_dropped_is_gone() {
    let (low, high) = (file(), file());
    let memory = memory(&low, &high);
    drop(memory.place_mark(0, WORD).unwrap());
    assert_eq!(len_pages(&low), PAGES);
    assert_eq!(populated(&memory), []);
}

#[test]
fn what_others_have_made_of_the_file_meanwhile_is_not_cut_off() {
    let (low, high) = (file(), file());
    let memory = memory(&low, &high);
    let placed = memory.place_mark(0, WORD).unwrap();
    low.set_len(100 * PAGE_BYTES as u64).unwrap();
    let error = placed.take_back().unwrap_err().to_string();
    assert!(error.contains("region0"), "{error}");
    assert_eq!(len_pages(&low), 100);
}

#[test]
fn a_file_that_cannot_grow_is_an_error_with_the_way_out() {
    let low = memfd(PAGES, MemfdFlags::ALLOW_SEALING).unwrap();
    fcntl_add_seals(&low, SealFlags::GROW).unwrap();
    let error = memory(&low, &file()).place_mark(0, WORD);
    let error = error.err().unwrap().to_string();
    assert!(error.contains("mark region0"), "{error}");
    assert!(error.contains("a RAM file on a tmpfs"), "{error}");
    assert_eq!(len_pages(&low), PAGES);
}
