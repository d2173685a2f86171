//! Several connections over one byte stream.
//!
//! A migration has a connection for control and some for data. Where there is only one byte stream (ssh,
//! a descriptor, standard input and output), these are streams within it, each with its own flow control:
//! what one of them does not read holds up no other, and the reader of the byte stream never waits for
//! anybody. A data stream gives way to control after each slice. What is sent is written from where it
//! is; what is received is read into a slot of its stream's, and copied once, to whoever reads it.
//!
//! ```text
//! each side first   16 bytes: PREFACE
//! then frames       kind u8, 0 u8, stream u16, value u32 (little-endian)
//!   1 open          the source opens a stream; value 0
//!   2 data          value: how many bytes follow, 1 to SLICE_BYTES
//!   3 credit        value: so many bytes more may be sent on this stream
//!   4 close         the stream is over, both ways
//! ```
//!
//! Each direction of a stream begins with a credit of [`WINDOW_BYTES`].
//!
//! | module | holds |
//! |---|---|
//! | `frame` | a frame's head |
//! | `inbox` | what a stream has received and nobody has read |
//! | `turn` | whose turn it is to write |
//! | `stream` | one stream: its two halves, and its end |
//! | `session` | the byte stream with all its streams, and the thread that reads it |
//! | `link` | the contract of the engine |

mod frame;
mod inbox;
mod link;
mod session;
mod stream;
#[cfg(test)]
mod tests;
mod turn;

pub(crate) use link::{MuxLink, MuxListener};

/// What each side sends first.
const PREFACE: [u8; 16] = *b"pagelift-mux/1\n\0";

/// Most bytes of a data frame, for which a control message may have to wait: half a millisecond at
/// 1 Gbit/s.
const SLICE_BYTES: usize = 64 << 10;

/// Bytes that a side may send on a stream and that nobody has read yet: what ssh has under way as well
/// (`CHAN_SES_WINDOW_DEFAULT`), so that the narrower of the two does not get narrower.
const WINDOW_BYTES: usize = 2 << 20;

/// Most streams at a time: 64 for data, and control connections that take each other's place.
const MAX_STREAMS: usize = 80;
