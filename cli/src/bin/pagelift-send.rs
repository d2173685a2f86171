//! `pagelift-send`: moves the guest of a running QEMU to another one.

use clap::Parser;
use pagelift::qemu::SendCommand;

fn main() -> std::process::ExitCode {
    SendCommand::parse().run().into()
}
