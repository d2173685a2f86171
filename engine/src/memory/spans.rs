//! Cutting pages, and their content, where the regions of a layout meet.

use std::io;

use super::{Layout, MemoryError, Span};
use crate::units::{PAGE_BYTES, PageIndex, PageRange};

impl Layout {
    /// The spans of `range`, or the error which says that it leaves the layout.
    pub(super) fn checked_spans(
        &self,
        range: PageRange,
    ) -> Result<impl Iterator<Item = Span> + '_, MemoryError> {
        if self.contains(range) {
            return Ok(self.spans(range));
        }
        Err(MemoryError::OutOfRange {
            first: range.first.0,
            end: range.end(),
            pages: self.pages().0,
        })
    }

    /// The spans of `range`, each with its part of `out`, which has room for exactly these pages.
    pub(super) fn pieces_mut<'a>(
        &'a self,
        range: PageRange,
        out: &'a mut [u8],
    ) -> Result<impl Iterator<Item = (Span, &'a mut [u8])>, MemoryError> {
        let spans = self.checked_spans(range)?;
        assert_eq!(out.len(), range.len_bytes(), "room for exactly these pages");
        let mut rest = out;
        Ok(spans.map(move |span| {
            let (piece, after) = std::mem::take(&mut rest).split_at_mut(span.range.len_bytes());
            rest = after;
            (span, piece)
        }))
    }

    /// The spans of the pages from `first` on whose content is `data`, each with its part of it.
    pub(super) fn pieces<'a>(
        &'a self,
        first: PageIndex,
        data: &'a [u8],
    ) -> Result<impl Iterator<Item = (Span, &'a [u8])>, MemoryError> {
        assert_eq!(data.len() % PAGE_BYTES, 0, "whole pages");
        let range = PageRange::new(first.0, (data.len() / PAGE_BYTES) as u64);
        let mut rest = data;
        Ok(self.checked_spans(range)?.map(move |span| {
            let (piece, after) = rest.split_at(span.range.len_bytes());
            rest = after;
            (span, piece)
        }))
    }

    /// That the kernel refused `action` at byte `offset` of region number `region`.
    pub(super) fn refused(
        &self,
        action: &'static str,
        region: usize,
        offset: u64,
        source: io::Error,
    ) -> MemoryError {
        MemoryError::Io {
            action,
            region: self.regions()[region].name.clone(),
            offset,
            source,
        }
    }
}
