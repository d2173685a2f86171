//! The boot id: a random number that a kernel chooses when it starts; random(4). Containers share it,
//! virtual machines have their own.

use std::io;

/// The boot id of this kernel.
///
/// # Errors
/// When `/proc` does not show it.
pub(crate) fn boot_id() -> io::Result<u128> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits = text.trim().replace('-', "");
    u128::from_str_radix(&digits, 16).map_err(io::Error::other)
}
