//! Messages between pagelift and the agent inside QEMU.
