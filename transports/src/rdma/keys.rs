//! What the two ends of a data connection tell each other beside it: where memory is, and by which key.
//!
//! It goes over a stream of its own, which is as private and as well authenticated as the control
//! connection: TLS where the user has asked for it. Whoever has a key can write the guest's memory.
//!
//! ```text
//! source  Control                                   the rest of this stream is the control connection's
//! source  Data { number, pin_all }                  or: it belongs to a data connection
//! target  Listening { port, buffers }               where to connect to, showing the number
//! source  Wanted(page) ..  Done(window) ..          with chunks on demand: asks, and gives back
//! target  Window { .. } ..                          pages that may be written
//! target  Everything                                there are no others: all memory is pinned
//! target  Refused(why)                              in the place of a Window
//! ```
//!
//! A record is a `u8` kind, a `u16` length and so many bytes, in little-endian order.

use std::io::{self, Read};

use bytes::Bytes;
use pagelift_engine::transport::SendHalf;
use pagelift_engine::units::PageRange;

/// Longest content of a record.
const MAX_BYTES: usize = 512;

/// Bytes before the content.
const HEAD_BYTES: usize = 3;

/// Bytes of the number that ties a connection to its stream.
pub(super) const NUMBER_BYTES: usize = 16;

/// Pages of the target that the source may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Which.
    pub(super) pages: PageRange,
    /// The address of the first on the target.
    pub(super) address: u64,
    /// The key for them.
    pub(super) key: u32,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Control,
    Data {
        /// Random; for this connection only.
        number: [u8; NUMBER_BYTES],
        /// Whether the source asks for all memory to be pinned.
        pin_all: bool,
    },
    Listening {
        port: u16,
        /// Messages that the source may send before it hears that there is room for more.
        buffers: u32,
        /// Longest message.
        buffer_bytes: u32,
        /// Whether all memory is pinned; else it is accessible in chunks, on demand.
        pin_all: bool,
    },
    /// The chunk around this page is wanted.
    Wanted(u64),
    /// The window that begins with this page is not needed any more.
    Done(u64),
    Window(Window),
    Everything,
    Refused(String),
}

impl Record {
    pub(super) fn encode(&self) -> Bytes {
        let mut content = Vec::new();
        let kind = match self {
            Self::Control => 0,
            Self::Data { number, pin_all } => {
                content.extend_from_slice(number);
                content.push(u8::from(*pin_all));
                1
            }
            Self::Listening {
                port,
                buffers,
                buffer_bytes,
                pin_all,
            } => {
                content.extend_from_slice(&port.to_le_bytes());
                content.extend_from_slice(&buffers.to_le_bytes());
                content.extend_from_slice(&buffer_bytes.to_le_bytes());
                content.push(u8::from(*pin_all));
                2
            }
            Self::Wanted(page) => {
                content.extend_from_slice(&page.to_le_bytes());
                3
            }
            Self::Done(page) => {
                content.extend_from_slice(&page.to_le_bytes());
                4
            }
            Self::Window(window) => {
                content.extend_from_slice(&window.pages.first.0.to_le_bytes());
                content.extend_from_slice(&window.pages.count.0.to_le_bytes());
                content.extend_from_slice(&window.address.to_le_bytes());
                content.extend_from_slice(&window.key.to_le_bytes());
                5
            }
            Self::Everything => 6,
            Self::Refused(why) => {
                let mut end = why.len().min(MAX_BYTES);
                while !why.is_char_boundary(end) {
                    end -= 1;
                }
                content.extend_from_slice(&why.as_bytes()[..end]);
                7
            }
        };
        let mut bytes = vec![kind];
        let len = u16::try_from(content.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&content);
        bytes.into()
    }

    fn decode(kind: u8, content: &[u8]) -> Option<Self> {
        let mut fields = Fields(content);
        let record = match kind {
            0 => Self::Control,
            1 => Self::Data {
                number: fields.take()?,
                pin_all: fields.flag()?,
            },
            2 => Self::Listening {
                port: u16::from_le_bytes(fields.take()?),
                buffers: u32::from_le_bytes(fields.take()?),
                buffer_bytes: u32::from_le_bytes(fields.take()?),
                pin_all: fields.flag()?,
            },
            3 => Self::Wanted(fields.u64()?),
            4 => Self::Done(fields.u64()?),
            5 => {
                let (first, count) = (fields.u64()?, fields.u64()?);
                first.checked_add(count).filter(|_| count > 0)?;
                Self::Window(Window {
                    pages: PageRange::new(first, count),
                    address: fields.u64()?,
                    key: u32::from_le_bytes(fields.take()?),
                })
            }
            6 => Self::Everything,
            7 => {
                let text = std::mem::take(&mut fields.0);
                Self::Refused(String::from_utf8_lossy(text).into_owned())
            }
            _ => return None,
        };
        fields.0.is_empty().then_some(record)
    }
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.take()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }
}

/// Reads records, as far as they have come.
pub(super) struct RecordReader {
    pub(super) stream: Box<dyn Read + Send>,
    begun: Vec<u8>,
}

impl RecordReader {
    pub(super) fn new(stream: Box<dyn Read + Send>) -> Self {
        Self {
            stream,
            begun: Vec::new(),
        }
    }

    /// The next record. Reads no byte behind it.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when it is not whole yet; else when the stream has ended
    /// or carries something else.
    pub(super) fn read(&mut self) -> io::Result<Record> {
        loop {
            let content = match self.begun.get(1..HEAD_BYTES) {
                Some(len) => usize::from(u16::from_le_bytes([len[0], len[1]])),
                None => 0,
            };
            if content > MAX_BYTES {
                return Err(foreign());
            }
            let whole = HEAD_BYTES + content;
            if self.begun.len() == whole {
                let record = Record::decode(self.begun[0], &self.begun[HEAD_BYTES..]);
                self.begun.clear();
                return record.ok_or_else(foreign);
            }
            let mut piece = [0; MAX_BYTES];
            let count = self.stream.read(&mut piece[..whole - self.begun.len()])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.begun.extend_from_slice(&piece[..count]);
        }
    }
}

/// Both directions of a stream.
pub(super) struct KeyStream {
    pub(super) tx: Box<dyn SendHalf>,
    pub(super) rx: RecordReader,
}

impl KeyStream {
    pub(super) fn write(&mut self, record: &Record) -> io::Result<()> {
        self.tx.send(record.encode())
    }
}

fn foreign() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the other side does not speak of keys as rdma:// does; has it been given a tcp:// address?",
    )
}

/// Reads records from `bytes` as far as there are any.
///
/// # Panics
/// When one that can be read cannot be written and read again.
#[cfg(any(test, feature = "fuzz"))]
pub fn key_records(bytes: &[u8]) {
    let reader = |bytes: &[u8]| RecordReader::new(Box::new(io::Cursor::new(bytes.to_vec())));
    let mut records = reader(bytes);
    while let Ok(record) = records.read() {
        let again = reader(&record.encode()).read();
        assert_eq!(again.ok().as_ref(), Some(&record));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a byte at a time, and nothing in between.
    struct Slow(Vec<u8>, bool);

    impl Read for Slow {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            if self.0.is_empty() {
                return Ok(0);
            }
            out[0] = self.0.remove(0);
            Ok(1)
        }
    }

    fn records() -> [Record; 8] {
        [
            Record::Control,
            Record::Data {
                number: [7; NUMBER_BYTES],
                pin_all: true,
            },
            Record::Listening {
                port: 700,
                buffers: 16,
                buffer_bytes: 1 << 17,
                pin_all: false,
            },
            Record::Wanted(1 << 40),
            Record::Done(3),
            Record::Window(Window {
                pages: PageRange::new(256, 256),
                address: 0x7f00_0000_0000,
                key: 0x0102_0304,
            }),
            Record::Everything,
            Record::Refused("too much".into()),
        ]
    }

    #[test]
    fn records_come_back_whole_however_they_arrive() {
        let bytes: Vec<u8> = records().iter().flat_map(Record::encode).collect();
        let mut reader = RecordReader::new(Box::new(Slow(bytes, false)));
        for record in records() {
            let read = loop {
                match reader.read() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    other => break other.unwrap(),
                }
            };
            assert_eq!(read, record);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_confuse_the_reader(bytes: Vec<u8>) {
            key_records(&bytes);
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let window = Record::Window(Window {
            pages: PageRange::new(u64::MAX, 2),
            address: 0,
            key: 0,
        });
        for bytes in [
            &b"pagelift"[..],
            &[9, 0, 0],
            &[0, 1, 0, 0],
            &[1, 0, 0],
            &[3, 0xff, 0xff],
            &window.encode(),
        ] {
            let mut reader = RecordReader::new(Box::new(io::Cursor::new(bytes.to_vec())));
            let error = reader.read().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
        let long = Record::Refused("\u{e9}".repeat(MAX_BYTES)).encode();
        let mut reader = RecordReader::new(Box::new(io::Cursor::new(long.to_vec())));
        assert!(matches!(reader.read(), Ok(Record::Refused(_))));
    }
}
