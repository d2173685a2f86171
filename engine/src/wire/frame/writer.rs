//! Writing frames to a byte stream, one vectored write each.

use std::io::{self, IoSlice, Write};

use super::{FrameHeader, FrameType, HEADER_BYTES, MAX_BODY_BYTES, PREFACE, crc32c};

/// Writes frames to a byte stream.
#[derive(Debug)]
pub struct FrameWriter<W> {
    stream: W,
    sequence: u64,
    greeted: bool,
}

impl<W: Write> FrameWriter<W> {
    /// Writes to `stream`, beginning with the preface.
    pub fn new(stream: W) -> Self {
        Self {
            stream,
            sequence: 0,
            greeted: false,
        }
    }

    /// Writes one frame whose body is `parts`, in order. Returns the bytes it took on the wire.
    ///
    /// # Errors
    /// Those of the stream. The frame may then be half written: the connection is unusable.
    pub fn write(&mut self, kind: FrameType, parts: &[&[u8]]) -> io::Result<u64> {
        debug_assert!(parts.len() <= 3, "more parts than slices to write");
        let length: usize = parts.iter().map(|part| part.len()).sum();
        debug_assert!(length <= MAX_BODY_BYTES, "a body within the cap");
        let header = FrameHeader {
            kind,
            length,
            sequence: self.sequence,
            body_crc: crc32c(parts),
        }
        .encode();
        let preface: &[u8] = if self.greeted { &[] } else { &PREFACE };
        let mut slices = [IoSlice::new(&[]); 5];
        slices[0] = IoSlice::new(preface);
        slices[1] = IoSlice::new(&header);
        for (slice, part) in slices[2..].iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        write_all_vectored(&mut self.stream, &mut slices)?;
        self.greeted = true;
        self.sequence += 1;
        Ok((preface.len() + HEADER_BYTES + length) as u64)
    }

    /// The stream beneath.
    pub fn get_ref(&self) -> &W {
        &self.stream
    }
}

/// `Write::write_all_vectored` is not stable yet.
fn write_all_vectored(stream: &mut impl Write, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    // Leading empty slices would make a write of nothing look like a closed stream.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match stream.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    stream.flush()
}
