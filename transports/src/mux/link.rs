//! A link and a listener over one byte stream.

use std::io;
use std::time::Duration;

use pagelift_engine::transport::{Connection, Link, Listener, Role};
use pagelift_engine::units::ByteCount;

use super::WINDOW_BYTES;
use super::session::{Running, Side};
use super::stream::connection;
use super::turn::Urgency;
use crate::byte_stream::ByteStream;

/// How long the other side may take to answer: somebody may have to type a password.
const ANSWER: Duration = Duration::from_secs(60);

/// Most memory of a stream: slots for what it has received, which are twice its window where they are
/// filled badly. What is sent is written from where it is.
const STREAM_BYTES: ByteCount = ByteCount(2 * WINDOW_BYTES as u64);

/// The source's way to its target.
#[derive(Debug)]
pub(crate) struct MuxLink(Running);

impl MuxLink {
    /// Over `bytes`, which ends with the link.
    ///
    /// # Errors
    /// When there is no thread to read it.
    pub(crate) fn over(bytes: ByteStream) -> io::Result<Self> {
        Running::start(bytes, Side::Source).map(Self)
    }
}

impl Link for MuxLink {
    fn connect(&self, role: Role) -> io::Result<Connection> {
        let session = &self.0.session;
        session.greeted(ANSWER)?;
        let stream = session.open()?;
        let urgency = match role {
            Role::Control => Urgency::Control,
            Role::Data(_) => Urgency::Data,
        };
        Ok(connection(session, &stream, urgency))
    }

    fn connection_bytes(&self) -> ByteCount {
        STREAM_BYTES
    }
}

/// Accepts the streams that the source opens.
#[derive(Debug)]
pub(crate) struct MuxListener(Running);

impl MuxListener {
    /// Over `bytes`, which ends with the listener.
    ///
    /// # Errors
    /// When there is no thread to read it.
    pub(crate) fn over(bytes: ByteStream) -> io::Result<Self> {
        Running::start(bytes, Side::Target).map(Self)
    }
}

impl Listener for MuxListener {
    fn accept(&self, timeout: Duration) -> io::Result<Option<Connection>> {
        let session = &self.0.session;
        let stream = session.accept(timeout)?;
        // A target sends messages, and no pages.
        Ok(stream.map(|stream| connection(session, &stream, Urgency::Control)))
    }

    fn address(&self) -> String {
        self.0.session.name().to_owned()
    }

    fn connection_bytes(&self) -> ByteCount {
        STREAM_BYTES
    }
}
