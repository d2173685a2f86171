//! A guest whose every page says so.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use pagelift_engine::codec::{Codec, CompressSetting};
use pagelift_engine::dirty::ManualTracker;
use pagelift_engine::guest::{self, SourceGuest, TargetGuest};
use pagelift_engine::memory::{FileMemory, GuestMemory, ReadPages};
use pagelift_engine::migration::{Failure, Report};
use pagelift_engine::pipeline::Received;
use pagelift_engine::transport::RateCapped;
use pagelift_engine::units::{PageCount, PageIndex, PageRange};
use pagelift_engine::{GuestRam, Incoming, Job, Outgoing};
use pagelift_transports::{Endpoint, Security};

/// Pages of the guest.
pub(crate) const PAGES: u64 = 512;

/// What stands in every page.
pub(crate) const MARKER: &[u8] = b"this is the guest's own memory";

/// What stands in its device state.
pub(crate) const STATE: &[u8] = b"this is the guest's device state";

#[derive(Debug)]
pub(crate) struct Here;

impl SourceGuest for Here {
    fn pause(&mut self) -> guest::Result<()> {
        Ok(())
    }

    fn save_devices(&mut self, out: &mut dyn Write) -> guest::Result<()> {
        Ok(out.write_all(STATE)?)
    }

    fn relinquish(&mut self) -> guest::Result<()> {
        Ok(())
    }

    fn resume(&mut self) -> guest::Result<()> {
        Ok(())
    }
}

#[derive(Debug, Default)]
pub(crate) struct There {
    pub(crate) runs: bool,
}

impl TargetGuest for There {
    fn load_devices(&mut self, state: &mut dyn Read) -> guest::Result<()> {
        let mut bytes = Vec::new();
        state.read_to_end(&mut bytes)?;
        assert_eq!(bytes, STATE);
        Ok(())
    }

    fn run(&mut self) -> guest::Result<()> {
        self.runs = true;
        Ok(())
    }
}

fn memory(pages: u64) -> FileMemory {
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.set_len(PageCount(pages).bytes().0).unwrap();
    FileMemory::whole(file).unwrap()
}

fn page(number: u64) -> Vec<u8> {
    let words = format!("{} {number:04} ", str::from_utf8(MARKER).unwrap());
    words.bytes().cycle().take(4096).collect()
}

/// A target that waits.
pub(crate) struct Waiting {
    pub(crate) address: Endpoint,
    pub(crate) job: Job<There, Received>,
    memory: Arc<FileMemory>,
}

impl Waiting {
    pub(crate) fn new(security: &Security) -> Self {
        Self::at("tcp://127.0.0.1:0", security)
    }

    /// One that waits at `here`.
    pub(crate) fn at(here: &str, security: &Security) -> Self {
        let here: Endpoint = here.parse().unwrap();
        let memory = Arc::new(memory(PAGES));
        let incoming = Incoming::new(
            here.listen_with(security).unwrap(),
            Arc::clone(&memory) as Arc<dyn GuestMemory>,
            There::default(),
        );
        Self {
            address: incoming.address().parse().unwrap(),
            job: incoming.start().unwrap(),
            memory,
        }
    }

    /// Waits until the guest has arrived, and looks at its memory.
    pub(crate) fn arrived(self) {
        let ended = self.job.wait();
        ended.result.unwrap();
        assert!(ended.guest.runs);
        let mut content = vec![0; 4096];
        for number in 0..PAGES {
            self.memory
                .read(PageRange::new(number, 1), &mut content)
                .unwrap();
            assert!(content == page(number), "page {number}");
        }
    }
}

/// Sends a guest to `target`, each page as it is; how that ended.
pub(crate) fn send(target: &Endpoint, security: &Security) -> Result<Report, Failure> {
    outgoing(PAGES, target, security)
        .start()
        .unwrap()
        .wait()
        .result
}

/// A guest of `pages` pages that is to leave.
pub(crate) fn outgoing(pages: u64, target: &Endpoint, security: &Security) -> Outgoing<Here> {
    outgoing_over(pages, target.connect_with(security).unwrap())
}

/// The same, over `link`.
pub(crate) fn outgoing_over(pages: u64, link: Box<dyn RateCapped>) -> Outgoing<Here> {
    let memory = memory(pages);
    for number in 0..pages {
        memory.write(PageIndex(number), &page(number)).unwrap();
    }
    let tracker = ManualTracker::new(PageCount(pages));
    let ram = GuestRam::new(Arc::new(memory), Box::new(tracker));
    Outgoing::new(link, ram, Here)
        .channels(3)
        // However busy the machine is.
        .downtime(Duration::from_secs(60))
        .compress(CompressSetting::Fixed(Codec::Raw))
}
