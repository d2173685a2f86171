//! `pagelift-receive`: takes a guest into a QEMU that waits for one.

use clap::Parser;
use pagelift::{exit, qemu::ReceiveCommand};

fn main() -> std::process::ExitCode {
    exit::report(ReceiveCommand::parse().run()).into()
}
