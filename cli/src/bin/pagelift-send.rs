//! `pagelift-send`: moves the guest of a running QEMU to another one.

use clap::Parser;
use pagelift::{exit, qemu::SendCommand};

fn main() -> std::process::ExitCode {
    exit::report(SendCommand::parse().run()).into()
}
