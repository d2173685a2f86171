//! A link whose connections hang on demand.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pagelift_engine::transport::{Closer, Connection, Link, RateCapped, Role, SendHalf, SendStats};
use pagelift_engine::units::Rate;

/// A link whose connections take nothing any more once it is jammed, like those to a host that
/// hangs.
pub struct Jammed {
    pub link: Box<dyn RateCapped>,
    pub jam: Arc<AtomicBool>,
    /// Writers of the control connection that are stuck.
    pub stuck: Arc<AtomicUsize>,
}

struct Stuck {
    inner: Box<dyn SendHalf>,
    jam: Arc<AtomicBool>,
    closed: Arc<AtomicBool>,
    stuck: Option<Arc<AtomicUsize>>,
}

impl Stuck {
    fn pass(&self) -> io::Result<()> {
        if let Some(stuck) = &self.stuck
            && self.jam.load(Ordering::Acquire)
        {
            stuck.fetch_add(1, Ordering::AcqRel);
        }
        while self.jam.load(Ordering::Acquire) {
            if self.closed.load(Ordering::Acquire) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl SendHalf for Stuck {
    fn lend(&mut self) -> io::Result<BytesMut> {
        self.inner.lend()
    }

    fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        self.pass()?;
        self.inner.send(bytes)
    }

    fn give_back(&mut self, buffer: Bytes) {
        self.inner.give_back(buffer);
    }

    fn stats(&mut self) -> SendStats {
        self.inner.stats()
    }
}

impl Link for Jammed {
    fn connect(&self, role: Role) -> io::Result<Connection> {
        let connection = self.link.connect(role)?;
        let closed = Arc::new(AtomicBool::new(false));
        let tx = Box::new(Stuck {
            inner: connection.tx,
            jam: Arc::clone(&self.jam),
            closed: Arc::clone(&closed),
            stuck: (role == Role::Control).then(|| Arc::clone(&self.stuck)),
        });
        let closer = connection.closer;
        Ok(Connection {
            tx,
            rx: connection.rx,
            closer: Closer::new(move || {
                closed.store(true, Ordering::Release);
                closer.close();
            }),
            peer: connection.peer,
            one_sided: connection.one_sided,
        })
    }
}

impl RateCapped for Jammed {
    fn set_rate(&self, cap: Option<Rate>) {
        self.link.set_rate(cap);
    }
}
