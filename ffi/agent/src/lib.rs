//! The library preloaded into QEMU.
