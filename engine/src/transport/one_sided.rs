//! Memory that the source writes by itself: one-sided placement, as RDMA has it.
//!
//! Pages then go from memory of the source to the target's memory without a thread of the target:
//!
//! ```text
//! target  a connection can be exposed, and joins the migration   Expose::expose -> Fence
//! source  SendHalf::can_place, place (pages), send (a frame that names them)
//! target  the frame arrives: its pages are there
//! target  before the guest runs, or is given up: Fence::close
//! ```

use std::io;
use std::sync::Arc;

use crate::memory::GuestMemory;

/// The target's end of a connection by which the source may write memory.
pub trait Expose: Send {
    /// Lets the source write all pages of `memory` by this connection, until the fence is closed. What
    /// it has written is there when a frame arrives that it has sent afterwards.
    ///
    /// The memory must not move meanwhile: its pages are written and never given back.
    ///
    /// # Errors
    /// When the memory has no addresses in this process, or cannot be pinned.
    fn expose(self: Box<Self>, memory: Arc<dyn GuestMemory>) -> io::Result<Box<dyn Fence>>;
}

/// Ends what [`Expose::expose`] began.
pub trait Fence: Send {
    /// Takes the source's access away. When it has returned, nothing that the source writes, or has
    /// written and was still under way, reaches the memory any more. May be called again.
    ///
    /// # Errors
    /// When the access could not be taken away: the guest must not run in this memory then.
    fn close(&mut self) -> io::Result<()>;
}
