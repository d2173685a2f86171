//! Most memory that a migration takes, beside the guest's own.
//!
//! Buffers, queues and windows have constant sizes, and sets of pages a bit or so for each page of
//! the guest; nothing depends on what the guest writes.

use crate::codec::CompressSetting;
use crate::codec::block::{BlockEncoder, DECODER_BYTES, MAX_BLOCK_PAGES};
use crate::codec::dedup::{self, DedupSetting};
use crate::codec::select::candidates;
use crate::dirty::{SCANNER_BYTES, max_scan_threads};
use crate::guest;
use crate::memory::{Layout, PageBuffer};
use crate::pipeline::{FIRST_FRAME_BYTES, MAX_STRANGERS};
use crate::transport::SEND_BUFFER_BYTES;
use crate::units::{ByteCount, PAGE_BYTES};
use crate::wire::{MAX_CHANNELS, MAX_REFERENCE_PAGES};

/// Sets of pages that a side may hold: pending, held back, written and to go again, harvested,
/// given back, missing, to be whole, three of heat, and two of the tracker's own.
const PAGE_SETS: u64 = 12;

/// A thread's stack and its share of the allocator.
const THREAD_BYTES: u64 = 256 << 10;

/// Threads beside those of the data channels.
const OTHER_THREADS: u64 = 4;

/// The budget of a source without its delta cache.
pub(super) fn outgoing(
    layout: &Layout,
    channels: u16,
    compress: CompressSetting,
    dedup: DedupSetting,
) -> ByteCount {
    let encoders = BlockEncoder::most_bytes(&candidates(compress)).0;
    let block = match encoders {
        0 => 0,
        _ => (MAX_BLOCK_PAGES * PAGE_BYTES) as u64,
    };
    let index = match dedup {
        DedupSetting::Off => ByteCount(0),
        DedupSetting::Auto | DedupSetting::On => dedup::footprint(layout.pages()),
    };
    let scanners = max_scan_threads() as u64 * (THREAD_BYTES + SCANNER_BYTES);
    let encoders = u64::from(channels) * (encoders + block);
    both_sides(layout, channels) + index + ByteCount(encoders + scanners)
}

/// The budget of a target without its base pages: for as many channels as a source may open,
/// and connections that have not said what they are.
pub(super) fn incoming(layout: &Layout) -> ByteCount {
    let stranger = FIRST_FRAME_BYTES as u64 + THREAD_BYTES;
    let strangers = MAX_STRANGERS as u64 * stranger;
    both_sides(layout, MAX_CHANNELS) + ByteCount(strangers)
}

/// Buffers of frames on both ends of a channel, a block and what unpacks it or applies deltas,
/// pieces of device state under way, sets of pages, threads.
fn both_sides(layout: &Layout, channels: u16) -> ByteCount {
    let channels = u64::from(channels);
    let frames = (channels * 2 + 2) * SEND_BUFFER_BYTES as u64;
    let blocks = channels * (PageBuffer::footprint(MAX_BLOCK_PAGES).0 + DECODER_BYTES);
    let base_pages = channels * PageBuffer::footprint(MAX_REFERENCE_PAGES).0;
    let state = (guest::QUEUED_CHUNKS * guest::STATE_CHUNK_BYTES) as u64;
    let sets = PAGE_SETS * layout.pages().0.div_ceil(8);
    let threads = (channels + OTHER_THREADS) * THREAD_BYTES;
    ByteCount(frames + blocks + base_pages + state + sets + threads)
}
