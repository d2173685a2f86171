//! A target whose process has no descriptors left. Alone in its process, whose limit it changes.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use pagelift_engine::dirty::ManualTracker;
use pagelift_engine::guest::{self, SourceGuest, TargetGuest};
use pagelift_engine::memory::FileMemory;
use pagelift_engine::units::PageCount;
use pagelift_engine::{GuestRam, Incoming, Outgoing};
use pagelift_transports::{Endpoint, TcpAddress};
use rustix::process::{Resource, getrlimit, setrlimit};

struct Guest;

impl SourceGuest for Guest {
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

impl TargetGuest for Guest {
    fn load_devices(&mut self, _: &mut dyn Read) -> guest::Result<()> {
        Ok(())
    }

    fn run(&mut self) -> guest::Result<()> {
        Ok(())
    }
}

fn memory() -> Arc<FileMemory> {
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.set_len(PageCount(16).bytes().0).unwrap();
    Arc::new(FileMemory::whole(file).unwrap())
}

#[test]
fn a_lack_of_descriptors_ends_nothing() {
    let any: Endpoint = "tcp://127.0.0.1:0".parse().unwrap();
    let incoming = Incoming::new(any.listen().unwrap(), memory(), Guest);
    let address: Endpoint = incoming.address().parse().unwrap();
    let Endpoint::Tcp(TcpAddress { host, port, .. }) = &address else {
        panic!("{address} is not TCP");
    };
    let job = incoming.start().unwrap();
    let ram = GuestRam::new(memory(), Box::new(ManualTracker::new(PageCount(16))));

    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(limit.current.map_or(256, |most| most.min(256)));
    setrlimit(Resource::Nofile, limit).unwrap();
    // The stranger's own end takes the last one: there is none to accept it with.
    let mut held: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    held.pop();
    let stranger = TcpStream::connect((host.as_str(), *port)).unwrap();
    assert!(File::open("/dev/null").is_err());
    std::thread::sleep(Duration::from_millis(500));
    assert!(File::open("/dev/null").is_err(), "it was not accepted");
    drop(held);

    let link = address.connect().unwrap();
    let outgoing = Outgoing::new(link, ram, Guest).channels(1);
    let job_here = outgoing.downtime(Duration::from_secs(60)).start().unwrap();
    job_here.wait().result.unwrap();
    job.wait().result.unwrap();
    drop(stranger);
}
