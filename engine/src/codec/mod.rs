//! What the content of pages is turned into before it crosses the link.
//!
//! Pure functions of bytes: they read no clock and touch no file descriptor. Only the
//! [kernels](simd) and the decoder of LZ4 [blocks](block) contain unsafe code.

pub mod block;
pub mod cache;
pub mod dedup;
pub mod digest;
mod same_filled;
pub mod select;
mod setting;
pub mod simd;
pub mod xbzrle;
mod zero;

pub use block::BlockFormat;
pub use digest::MemoryDigest;
pub use same_filled::{SAME_FILLED_BYTES, SameFilled};
pub use setting::{Codec, CompressSetting, ParseCompressError, ZstdLevel};
pub use zero::is_zero;
