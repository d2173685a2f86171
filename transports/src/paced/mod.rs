//! Caps the rate of any link.
//!
//! [`Paced`] wraps a [`Link`] and delays what its connections send, in slices small enough that a
//! control message does not wait long behind pages. All connections share one cap, which may change at
//! any time. A thread that waits for its turn is woken when the cap changes, and when its connection is
//! closed. Without a cap a write costs one atomic load more than it would otherwise.
//!
//! | module | holds |
//! |---|---|
//! | `pacer` | the arithmetic: when bytes may leave |
//! | `cap` | the pacer that threads share, and waiting |
//! | `send` | the sending half that waits |

mod cap;
mod pacer;
mod send;
#[cfg(test)]
mod tests;

use std::io;

use pagelift_engine::transport::{Closer, Connection, Link, RateCapped, Role};
use pagelift_engine::units::{ByteCount, Rate};

use self::cap::{Cap, Gate};
use self::send::PacedHalf;

/// A link whose rate can be capped; without a cap at first.
#[derive(Debug)]
pub struct Paced<L> {
    link: L,
    cap: Cap,
}

impl<L: Link> Paced<L> {
    /// Wraps `link`.
    pub fn new(link: L) -> Self {
        Self {
            link,
            cap: Cap::default(),
        }
    }
}

impl<L: Link> Link for Paced<L> {
    fn connect(&self, role: Role) -> io::Result<Connection> {
        let Connection {
            tx,
            rx,
            closer,
            peer,
            one_sided,
        } = self.link.connect(role)?;
        let gate = Gate::new(&self.cap);
        Ok(Connection {
            tx: Box::new(PacedHalf::new(tx, gate.clone())),
            rx,
            closer: Closer::new(move || {
                closer.close();
                gate.close();
            }),
            peer,
            one_sided,
        })
    }

    fn connection_bytes(&self) -> ByteCount {
        self.link.connection_bytes()
    }
}

impl<L: Link> RateCapped for Paced<L> {
    fn set_rate(&self, cap: Option<Rate>) {
        self.cap.set(cap);
    }
}
