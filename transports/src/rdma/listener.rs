//! The target: streams that say what they are for, and RDMA beside those for data.

use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pagelift_engine::transport::{Closer, Connection, Listener, SendHalf, SendStats};

use pagelift_engine::units::ByteCount;

use super::exposure::Exposure;
use super::key_service::{ExposableConnection, Side};
use super::keys::{KeyStream, NUMBER_BYTES, Record, RecordReader};
use super::receive::{BUFFER_BYTES, BUFFERS, Buffers, RdmaReader};
use super::verbs::{self, CmListener, Depths, Wake};

/// How long the source may take to connect, once it was told where.
const CONNECT: Duration = Duration::from_secs(5);

/// What a thread takes.
const THREAD_BYTES: u64 = 256 << 10;

/// Requests of this side under way: news that there is room.
const SEND_DEPTH: u32 = 16;

/// Accepts sources that write memory by RDMA. `L` carries control, and keys.
pub(crate) struct RdmaListener<L> {
    listener: L,
    pin_all: bool,
    exposure: Arc<Exposure>,
}

impl<L> fmt::Debug for RdmaListener<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RdmaListener").finish_non_exhaustive()
    }
}

impl<L: Listener> RdmaListener<L> {
    /// # Errors
    /// When the libraries for RDMA, or its devices, are missing.
    pub(crate) fn new(listener: L, pin_all: bool) -> io::Result<Self> {
        verbs::available()?;
        CmListener::new()?;
        Ok(Self {
            listener,
            pin_all,
            exposure: Arc::default(),
        })
    }
}

impl<L: Listener> Listener for RdmaListener<L> {
    fn accept(&self, timeout: Duration) -> io::Result<Option<Connection>> {
        let Some(plain) = self.listener.accept(timeout)? else {
            return Ok(None);
        };
        let wake = Wake::new()?;
        let tx = Arc::new(Mutex::new(Some(plain.tx)));
        let side = Arc::new(Mutex::new(None));
        let (closing, closer) = (wake.clone(), plain.closer);
        Ok(Some(Connection {
            tx: Box::new(ControlHalf(Arc::clone(&tx))),
            rx: Box::new(Incoming {
                stage: Stage::New(RecordReader::new(plain.rx)),
                tx,
                side: Arc::clone(&side),
                pin_all: self.pin_all,
                wake,
            }),
            closer: Closer::new(move || {
                closing.close();
                closer.close();
            }),
            peer: plain.peer,
            one_sided: Some(Box::new(ExposableConnection {
                exposure: Arc::clone(&self.exposure),
                side,
            })),
        }))
    }

    fn address(&self) -> String {
        let address = self.listener.address();
        let rest = address
            .split_once("://")
            .map_or(&*address, |(_, rest)| rest);
        format!("rdma://{rest}")
    }

    /// Messages, and the stack of the thread that registers memory.
    fn connection_bytes(&self) -> ByteCount {
        let own = u64::from(BUFFERS) * u64::from(BUFFER_BYTES) + THREAD_BYTES;
        ByteCount(own) + self.listener.connection_bytes()
    }
}

type SharedTx = Arc<Mutex<Option<Box<dyn SendHalf>>>>;

/// Reads a connection, which says first what it is for.
struct Incoming {
    stage: Stage,
    /// Its other direction, until it turns out to be that of keys.
    tx: SharedTx,
    side: Arc<Mutex<Option<Side>>>,
    pin_all: bool,
    wake: Wake,
}

enum Stage {
    New(RecordReader),
    Control(Box<dyn Read + Send>),
    Data(Box<RdmaReader>),
    Failed,
}

impl Incoming {
    /// Looks for the first record.
    fn begin(&mut self) -> io::Result<()> {
        let Stage::New(mut records) = std::mem::replace(&mut self.stage, Stage::Failed) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        match records.read() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.stage = Stage::New(records);
                Err(error)
            }
            Err(error) => Err(error),
            Ok(Record::Control) => {
                self.stage = Stage::Control(records.stream);
                Ok(())
            }
            Ok(Record::Data { number, pin_all }) => {
                let tx = self
                    .tx
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                let tx = tx.ok_or(io::ErrorKind::NotConnected)?;
                let mut stream = KeyStream { tx, rx: records };
                let pin_all = pin_all || self.pin_all;
                match accept(&mut stream, &number, pin_all, &self.wake) {
                    Ok(reader) => {
                        *self.side.lock().unwrap_or_else(PoisonError::into_inner) = Some(Side {
                            stream,
                            device: reader.device(),
                            pin_all,
                            wake: self.wake.clone(),
                        });
                        self.stage = Stage::Data(Box::new(reader));
                        Ok(())
                    }
                    Err(error) => {
                        let _ = stream.write(&Record::Refused(error.to_string()));
                        Err(error)
                    }
                }
            }
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Makes the RDMA connection of a source that shows `number`.
fn accept(
    stream: &mut KeyStream,
    number: &[u8; NUMBER_BYTES],
    pin_all: bool,
    wake: &Wake,
) -> io::Result<RdmaReader> {
    let listener = CmListener::new()?;
    stream.write(&Record::Listening {
        port: listener.port(),
        buffers: BUFFERS,
        buffer_bytes: BUFFER_BYTES,
        pin_all,
    })?;
    let depths = Depths {
        send: SEND_DEPTH,
        receive: BUFFERS,
    };
    let mut buffers = None;
    let deadline = Instant::now() + CONNECT;
    let connected = listener.accept(number, depths, deadline, wake, |connection| {
        buffers = Some(Buffers::post(connection)?);
        Ok(())
    })?;
    let buffers = buffers.ok_or(io::ErrorKind::NotConnected)?;
    Ok(RdmaReader::new(connected, buffers))
}

impl Read for Incoming {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match &mut self.stage {
                Stage::New(_) => self.begin()?,
                Stage::Control(stream) => return stream.read(out),
                Stage::Data(reader) => return reader.read(out),
                Stage::Failed => return Err(io::ErrorKind::NotConnected.into()),
            }
        }
    }
}

/// Sends on a connection unless it is one for data, on which the target sends nothing.
struct ControlHalf(SharedTx);

impl ControlHalf {
    fn with<T>(&self, what: impl FnOnce(&mut dyn SendHalf) -> T) -> io::Result<T> {
        let mut tx = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *tx {
            Some(tx) => Ok(what(&mut **tx)),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl SendHalf for ControlHalf {
    fn lend(&mut self) -> io::Result<BytesMut> {
        self.with(|tx| tx.lend())?
    }

    fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        self.with(|tx| tx.send(bytes))?
    }

    fn give_back(&mut self, buffer: Bytes) {
        // One of a connection for data was not lent.
        let _ = self.with(|tx| tx.give_back(buffer));
    }

    fn stats(&mut self) -> SendStats {
        self.with(|tx| tx.stats()).unwrap_or_default()
    }
}
