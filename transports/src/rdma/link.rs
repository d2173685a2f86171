//! The source: a stream for each connection, and RDMA beside those for data.

use std::fmt;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pagelift_engine::transport::{Closer, Connection, Link, Role};
use pagelift_engine::units::ByteCount;

use super::keys::{KeyStream, NUMBER_BYTES, Record, RecordReader};
use super::send::{CONNECTION_BYTES, CREDIT_MESSAGES, RECEIVING, RdmaHalf, Room};
use super::verbs::{self, Connected, Depths, Wake};
use super::windows::Windows;

/// How long a connection may take to be established.
const ESTABLISH: Duration = Duration::from_secs(10);

/// Requests under way: several batches of pages that lie scattered.
const SEND_DEPTH: u32 = 512;

/// The way to a target whose memory is written by RDMA. `L` carries control, and keys.
pub(crate) struct RdmaLink<L> {
    link: L,
    pin_all: bool,
}

impl<L> fmt::Debug for RdmaLink<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RdmaLink").finish_non_exhaustive()
    }
}

impl<L: Link> RdmaLink<L> {
    /// # Errors
    /// When the libraries for RDMA are missing.
    pub(crate) fn new(link: L, pin_all: bool) -> io::Result<Self> {
        verbs::available()?;
        Ok(Self { link, pin_all })
    }

    fn connect_data(&self, plain: Connection) -> io::Result<Connection> {
        let deadline = Instant::now() + ESTABLISH;
        let mut stream = KeyStream {
            tx: plain.tx,
            rx: RecordReader::new(plain.rx),
        };
        let mut number = [0; NUMBER_BYTES];
        aws_lc_rs::rand::fill(&mut number).map_err(|_| io::Error::other("no random numbers"))?;
        stream.write(&Record::Data {
            number,
            pin_all: self.pin_all,
        })?;
        let (port, room, pin_all) = loop {
            match stream.rx.read() {
                Ok(Record::Listening {
                    port,
                    buffers,
                    buffer_bytes,
                    pin_all,
                }) if buffers > 0 && buffer_bytes > 0 => {
                    let room = Room {
                        buffers,
                        buffer_bytes,
                    };
                    break (port, room, pin_all);
                }
                Ok(Record::Refused(why)) => {
                    return Err(io::Error::other(format!(
                        "the target cannot use RDMA: {why}"
                    )));
                }
                Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() >= deadline {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error),
            }
        };
        let address = plain.peer.address().parse::<SocketAddr>();
        let mut address = address.map_err(io::Error::other)?;
        address.set_port(port);
        let wake = Wake::new()?;
        let depths = Depths {
            send: SEND_DEPTH,
            receive: CREDIT_MESSAGES,
        };
        let ready = |connection: &mut Connected| {
            (0..CREDIT_MESSAGES).try_for_each(|_| connection.receive_number(RECEIVING))
        };
        let connected = Connected::connect(address, &number, depths, deadline, &wake, ready)?;
        let windows = Windows::new(stream, pin_all);
        let half = RdmaHalf::new(connected, wake.clone(), windows, room)?;
        let closer = plain.closer;
        Ok(Connection {
            tx: Box::new(half),
            rx: Box::new(Nothing),
            closer: Closer::new(move || {
                wake.close();
                closer.close();
            }),
            peer: plain.peer,
            one_sided: None,
        })
    }
}

impl<L: Link> Link for RdmaLink<L> {
    fn connect(&self, role: Role) -> io::Result<Connection> {
        let mut plain = self.link.connect(role)?;
        match role {
            Role::Control => {
                plain.tx.send(Record::Control.encode())?;
                Ok(plain)
            }
            Role::Data(_) => {
                let (closer, address) = (plain.closer.clone(), plain.peer.address().to_owned());
                self.connect_data(plain).map_err(|error| {
                    closer.close();
                    io::Error::new(error.kind(), format!("RDMA to {address}: {error}"))
                })
            }
        }
    }

    fn connection_bytes(&self) -> ByteCount {
        ByteCount(CONNECTION_BYTES) + self.link.connection_bytes()
    }
}

/// The direction of a data connection in which nothing is sent.
struct Nothing;

impl Read for Nothing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
