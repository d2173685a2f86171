//! QEMU as pagelift drives it.

pub mod command_line;
