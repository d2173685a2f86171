//! XML in libvirt's dialect: elements that are read to the last attribute, and text as it writes it.
//!
//! Parsing is `roxmltree`'s, which expands no external entities, refuses document types and keeps the
//! place of every node. What is written is a handful of forms, so the writer is ours.

mod read;
mod write;

pub(crate) use read::{Element, Malformed, Syntax, parse};
pub(crate) use write::{Tag, Writer};
