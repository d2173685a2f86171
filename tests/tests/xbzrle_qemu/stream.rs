//! QEMU's migration stream as far as it carries memory: reads the pages of every RAM section,
//! and writes the stream again with all pages that can be as deltas of our own.
//!
//! Big-endian throughout. A RAM section is a sequence of words of 64 bits, an offset in a block
//! with flags below the page size, each followed by what its flags say.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use pagelift_engine::codec::xbzrle::{Encoded, decode, encode};

const PAGE: usize = 4096;

const ZERO: u64 = 0x02;
const MEM_SIZE: u64 = 0x04;
const RAW: u64 = 0x08;
const EOS: u64 = 0x10;
const CONTINUE: u64 = 0x20;
const XBZRLE: u64 = 0x40;

const SECTION_START: u8 = 1;
const SECTION_PART: u8 = 2;
const SECTION_END: u8 = 3;
const CONFIGURATION: u8 = 7;
const COMMAND: u8 = 8;
const FOOTER: u8 = 0x7e;

/// The content of a block, and which of its pages the stream has carried.
struct Block {
    bytes: Vec<u8>,
    seen: Vec<bool>,
}

/// What a stream was found to hold.
pub(crate) struct Memory {
    blocks: HashMap<String, Block>,
    /// Deltas that QEMU wrote.
    pub(crate) theirs: usize,
    /// Deltas of ours in the stream that was written.
    pub(crate) ours: usize,
    /// The stream with our deltas.
    pub(crate) rewritten: Vec<u8>,
}

impl Memory {
    /// The final content of a block.
    pub(crate) fn block(&self, name: &str) -> Option<&[u8]> {
        self.blocks.get(name).map(|block| &block.bytes[..])
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).context("cut short")?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<u64> {
        let taken = self.take(bytes)?;
        Ok(taken
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    /// A text after its length of one byte.
    fn text(&mut self) -> Result<String> {
        let length = self.number(1)? as usize;
        Ok(String::from_utf8(self.take(length)?.to_vec())?)
    }
}

/// Reads `stream` up to the end of its memory; what follows is copied as it is.
pub(crate) fn read(stream: &[u8]) -> Result<Memory> {
    let mut reader = Reader { rest: stream };
    let mut memory = Memory {
        blocks: HashMap::new(),
        theirs: 0,
        ours: 0,
        rewritten: Vec::with_capacity(stream.len()),
    };
    ensure!(reader.take(8)? == b"QEVM\0\0\0\x03", "not a stream");
    let mut copied = stream;
    let mut block = String::new();
    loop {
        let kind = reader.number(1)? as u8;
        let section = match kind {
            CONFIGURATION => {
                let length = reader.number(4)? as usize;
                reader.take(length)?;
                continue;
            }
            COMMAND => {
                reader.number(2)?;
                let length = reader.number(2)? as usize;
                reader.take(length)?;
                continue;
            }
            SECTION_START => {
                let section = reader.number(4)?;
                ensure!(reader.text()? == "ram", "memory comes first");
                ensure!(reader.number(4)? == 0 && reader.number(4)? == 4);
                section
            }
            SECTION_PART | SECTION_END => reader.number(4)?,
            _ => bail!("section type {kind} before the end of memory"),
        };
        // What is before the pages stays as it is.
        let before = copied.len() - reader.rest.len();
        memory.rewritten.extend_from_slice(&copied[..before]);
        memory.pages(&mut reader, &mut block)?;
        copied = reader.rest;
        ensure!(reader.number(1)? as u8 == FOOTER && reader.number(4)? == section);
        if kind == SECTION_END {
            memory.rewritten.extend_from_slice(copied);
            return Ok(memory);
        }
    }
}

impl Memory {
    /// Reads the items of one section, and writes them.
    fn pages(&mut self, reader: &mut Reader<'_>, name: &mut String) -> Result<()> {
        loop {
            let whole = reader.rest;
            let word = reader.number(8)?;
            let (offset, flags) = ((word & !0xfff) as usize, word & 0xfff);
            if flags == EOS {
                self.copy(whole, reader);
                return Ok(());
            }
            if flags == MEM_SIZE {
                self.block_list(reader, offset)?;
                self.copy(whole, reader);
                continue;
            }
            if flags & CONTINUE == 0 {
                *name = reader.text()?;
            }
            let header = &whole[..whole.len() - reader.rest.len()];
            let block = self.blocks.get_mut(name).context("a block of the list")?;
            let page = block.bytes.get_mut(offset..offset + PAGE);
            let page: &mut [u8; PAGE] = page.context("within the block")?.try_into()?;
            let old = *page;
            match flags & !CONTINUE {
                ZERO => {
                    ensure!(reader.number(1)? == 0);
                    *page = [0; PAGE];
                }
                RAW => page.copy_from_slice(reader.take(PAGE)?),
                XBZRLE => {
                    ensure!(reader.number(1)? == 1);
                    let length = reader.number(2)? as usize;
                    ensure!(length > 0, "an empty delta");
                    decode(reader.take(length)?, page)?;
                    self.theirs += 1;
                }
                other => bail!("flags {other:#x}"),
            }
            let new = *page;
            let seen = std::mem::replace(&mut block.seen[offset / PAGE], true);
            let mut delta = [0; PAGE];
            match encode(&old, &new, &mut delta) {
                Encoded::Delta(length) if seen => {
                    self.ours += 1;
                    let word = (word & !0xfff) | XBZRLE | (flags & CONTINUE);
                    self.rewritten.extend_from_slice(&word.to_be_bytes());
                    self.rewritten.extend_from_slice(&header[8..]);
                    self.rewritten.push(1);
                    let length_bytes = (length as u16).to_be_bytes();
                    self.rewritten.extend_from_slice(&length_bytes);
                    self.rewritten.extend_from_slice(&delta[..length]);
                }
                _ => self.copy(whole, reader),
            }
        }
    }

    /// Copies what was read since `whole`.
    fn copy(&mut self, whole: &[u8], reader: &Reader<'_>) {
        let read = whole.len() - reader.rest.len();
        self.rewritten.extend_from_slice(&whole[..read]);
    }

    /// Names and lengths of blocks up to `total` bytes.
    fn block_list(&mut self, reader: &mut Reader<'_>, mut total: usize) -> Result<()> {
        while total > 0 {
            let name = reader.text()?;
            let length = reader.number(8)? as usize;
            total = total.checked_sub(length).context("the sum of the blocks")?;
            let block = Block {
                bytes: vec![0; length],
                seen: vec![false; length.div_ceil(PAGE)],
            };
            self.blocks.insert(name, block);
        }
        Ok(())
    }
}
