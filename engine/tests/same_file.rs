//! A target that is given the RAM file that the guest runs on refuses, and nothing is written to it.

#![allow(unsafe_code, reason = "a guest writes memory behind the engine's back")]

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use pagelift_engine::guest::{self, SourceGuest, TargetGuest};
use pagelift_engine::memory::{FileMemory, GuestMemory, MapPages, ReadPages, SharedMemory};
use pagelift_engine::migration::{Failure, GuestLocation, MigrationError};
use pagelift_engine::units::{PAGE_BYTES, PageIndex};
use pagelift_engine::{GuestRam, Incoming, Outgoing};
use pagelift_transports::{Endpoint, Security, Token};
use support::populated;

const PAGES: u64 = 400;
/// Pages that the guest writes, over and over; the others are never populated.
const WRITTEN: u64 = 300;

struct Half;

impl SourceGuest for Half {
    fn pause(&mut self) -> guest::Result<()> {
        Ok(())
    }

    fn save_devices(&mut self, _: &mut dyn Write) -> guest::Result<()> {
        Ok(())
    }

    fn relinquish(&mut self) -> guest::Result<()> {
        Ok(())
    }

    fn resume(&mut self) -> guest::Result<()> {
        Ok(())
    }
}

impl TargetGuest for Half {
    fn load_devices(&mut self, state: &mut dyn Read) -> guest::Result<()> {
        assert_eq!(state.read_to_end(&mut Vec::new())?, 0);
        Ok(())
    }

    fn run(&mut self) -> guest::Result<()> {
        Ok(())
    }
}

fn create(path: &Path) -> File {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.open(path).unwrap();
    file.set_len(PAGES * PAGE_BYTES as u64).unwrap();
    file
}

/// The word of a page that a guest counts in.
fn word(memory: &SharedMemory, page: u64) -> &AtomicU64 {
    let start = memory
        .region_start(0)
        .wrapping_add(page as usize * PAGE_BYTES);
    // SAFETY: within the memory, aligned, and accessed atomically by this process.
    unsafe { AtomicU64::from_ptr(start.cast()) }
}

/// What each side says of a migration from one file to the other, while a guest writes and checks
/// the source's; it ends if a word is not what the guest has written.
fn migrate(source: &Path, target: &Path) -> (Result<(), Failure>, Result<(), Failure>) {
    let memory = SharedMemory::map(FileMemory::whole(create(source)).unwrap()).unwrap();
    let memory = Arc::new(memory);
    let done = AtomicBool::new(false);
    let count = |memory: &SharedMemory| {
        let begun = word(memory, 0).load(Ordering::Relaxed);
        for round in begun + 1.. {
            for page in 0..WRITTEN {
                let before = word(memory, page).swap(round, Ordering::Relaxed);
                assert_eq!(before, round - 1, "page {page}");
            }
            if done.load(Ordering::Relaxed) {
                break;
            }
        }
    };
    thread::scope(|scope| {
        let vcpu = scope.spawn(|| count(&memory));
        while word(&memory, WRITTEN - 1).load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        let there: Arc<dyn GuestMemory> = Arc::new(FileMemory::whole(create(target)).unwrap());
        let listener = "tcp://127.0.0.1:0".parse::<Endpoint>().unwrap();
        // The target ends its wait for one who is known.
        let known = Security::Token(Token::generate().unwrap());
        let incoming = Incoming::new(listener.listen_with(&known).unwrap(), there, Half);
        let link = incoming.address().parse::<Endpoint>().unwrap();
        let ram = GuestRam::shared(Arc::clone(&memory)).unwrap();
        let target = incoming.start().unwrap();
        let outgoing = Outgoing::new(link.connect_with(&known).unwrap(), ram, Half);
        let outgoing = outgoing.downtime(Duration::from_secs(60));
        let source = outgoing.start().unwrap().wait().result.map(drop);
        let target = target.wait().result.map(drop);
        done.store(true, Ordering::Relaxed);
        vcpu.join().expect("the guest finds what it has written");
        (source, target)
    })
}

fn assert_refused(result: Result<(), Failure>) {
    let failure = result.unwrap_err();
    assert!(
        matches!(failure.error, MigrationError::Refused { .. }),
        "{failure}"
    );
    assert_eq!(failure.guest, GuestLocation::Source);
    let words = failure.to_string();
    assert!(
        words.contains("the very file that the guest runs on"),
        "{words}"
    );
    assert!(words.contains("with a RAM file of its own"), "{words}");
}

#[test]
fn the_same_file_under_two_names_is_refused() {
    if support::userfaultfd().is_none() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    create(&one);
    fs::hard_link(&one, &two).unwrap();
    let (source, target) = migrate(&one, &two);
    assert_refused(target);
    assert_refused(source);
    let left = FileMemory::whole(create(&one)).unwrap();
    assert_eq!(
        populated(&left),
        support::runs(&[(0, WRITTEN)]),
        "as before"
    );
    let (source, target) = migrate(&one, &dir.path().join("three"));
    source.unwrap();
    target.unwrap();
}

#[test]
fn a_target_that_refuses_has_what_it_had() {
    if support::userfaultfd().is_none() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let shorter = dir.path().join("shorter");
    let there = create(&shorter);
    there.set_len((PAGES - 1) * PAGE_BYTES as u64).unwrap();
    let there = FileMemory::whole(there).unwrap();
    there.write(PageIndex(7), &support::pages(&[7, 8])).unwrap();
    let listener = "tcp://127.0.0.1:0".parse::<Endpoint>().unwrap();
    // The target ends its wait for one who is known.
    let known = Security::Token(Token::generate().unwrap());
    let there: Arc<dyn GuestMemory> = Arc::new(there);
    let listening = listener.listen_with(&known).unwrap();
    let incoming = Incoming::new(listening, Arc::clone(&there), Half);
    let link = incoming.address().parse::<Endpoint>().unwrap();
    let here = FileMemory::whole(create(&dir.path().join("here"))).unwrap();
    let ram = GuestRam::shared(Arc::new(SharedMemory::map(here).unwrap())).unwrap();
    let target = incoming.start().unwrap();
    let outgoing = Outgoing::new(link.connect_with(&known).unwrap(), ram, Half);
    let failure = outgoing.start().unwrap().wait().result.unwrap_err();
    assert!(
        matches!(failure.error, MigrationError::Refused { .. }),
        "{failure}"
    );
    assert!(target.wait().result.is_err());
    let left = FileMemory::whole(File::open(&shorter).unwrap()).unwrap();
    assert_eq!(populated(&left), support::runs(&[(7, 2)]));
    assert_eq!(support::read(&left, 7, 2), support::pages(&[7, 8]));
}

/// Files of a folder, seen a second time under other device numbers.
struct Overlay<'a>(&'a Path);

impl<'a> Overlay<'a> {
    fn mount(dir: &'a Path) -> Option<Self> {
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        let at = |name: &str| format!("{}", dir.join(name).display());
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            at("lower"),
            at("upper"),
            at("work")
        );
        let mount = Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", &options, &at("merged")])
            .output();
        if !mount.as_ref().is_ok_and(|mount| mount.status.success()) {
            eprintln!("SKIP: no overlay file system: {mount:?}");
            return None;
        }
        Some(Self(dir))
    }
}

impl Drop for Overlay<'_> {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(self.0.join("merged")).status();
        assert!(status.is_ok_and(|status| status.success()), "umount");
    }
}

#[test]
fn a_file_that_has_other_numbers_at_each_place_is_found_out_by_a_mark() {
    if support::userfaultfd().is_none() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (upper, merged) = (dir.path().join("upper"), dir.path().join("merged"));
    let Some(_overlay) = Overlay::mount(dir.path()) else {
        return;
    };
    create(&merged.join("ram"));
    let (source, target) = migrate(&upper.join("ram"), &merged.join("ram"));
    assert_refused(target);
    assert_refused(source);
    // Another file there is marked as well, and then takes the guest.
    let (source, target) = migrate(&upper.join("ram2"), &merged.join("other"));
    source.unwrap();
    target.unwrap();
    let arrived = FileMemory::whole(create(&merged.join("other"))).unwrap();
    assert_eq!(arrived.layout().pages().0, PAGES);
    assert_eq!(populated(&arrived), support::runs(&[(0, WRITTEN)]));
}
