//! `pagelift-receive`: takes a guest into a QEMU that waits for one.

use clap::Parser;
use pagelift::qemu::ReceiveCommand;

fn main() -> std::process::ExitCode {
    ReceiveCommand::parse().run().into()
}
