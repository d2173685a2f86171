//! Marks: a word behind the end of a file, by which two sides find out whether their files are one.
//!
//! The target of a migration makes its file longer by a page, writes the word there, and asks the
//! source whether it shows in a file of the guest. No guest ever sees it, also if it runs on that very
//! file.

use crate::memory::MemoryError;

/// A word in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Where in the file it is, in bytes; a multiple of 8.
    pub offset: u64,
    /// What is there: random, and not zero.
    pub word: u64,
}

/// A mark that is in a file. Dropped, it is taken back as far as possible.
pub trait PlacedMark: Send {
    /// The mark.
    fn mark(&self) -> Mark;

    /// Makes the file as it was.
    ///
    /// # Errors
    /// When the kernel refuses, or the file has been changed by others.
    fn take_back(self: Box<Self>) -> Result<(), MemoryError>;
}
