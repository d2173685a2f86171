//! `pagelift`: the demo, and starting guests that can be moved.

use std::process::ExitCode as ProcessExit;

use clap::{Parser, Subcommand};
use pagelift::ctl::{self, CtlOptions};
use pagelift::demo::{self, DemoOptions, target::TargetOptions};
use pagelift::exit::{self, ExitCode};
use pagelift::launch::{self, RunOptions};
use pagelift::logging::LogOptions;
use pagelift::print;
use pagelift::replay::{self, ReplayOptions};
use pagelift::settle::{self, SettleOptions, WhereOptions};

/// Moves running virtual machines.
#[derive(Debug, Parser)]
#[command(name = "pagelift", version)]
struct Cli {
    #[command(flatten)]
    log: LogOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Moves a built-in guest between two processes, and proves that nothing was lost
    Demo(DemoOptions),
    /// Starts QEMU so that its guest can be moved: loads the agent, and makes RAM shareable
    Run(RunOptions),
    /// Runs policies over a migration recorded with --trace, and plots it
    Replay(ReplayOptions),
    /// Shows and changes a running migration, through the socket named with --control
    Ctl(CtlOptions),
    /// Says whether the guest of a QEMU is here, elsewhere, or unknown, and why
    Where(WhereOptions),
    /// After a crash: finds out whose the guest is, and lets exactly one QEMU run it
    Settle(SettleOptions),
    /// The second process of the demo
    #[command(hide = true)]
    DemoTarget(TargetOptions),
}

fn main() -> ProcessExit {
    let cli = Cli::parse();
    cli.log.start();
    let result = match cli.command {
        Command::Demo(options) => match options.script() {
            Ok(script) => exit::cancel_on_signal()
                .and_then(|cancel| demo::source::run(&options, script, cancel)),
            Err(error) => {
                print::note(format_args!("error: {error}"));
                return ExitCode::Usage.into();
            }
        },
        Command::Run(options) => launch::run(options).map(|never| match never {}),
        Command::Replay(options) => replay::run(&options),
        Command::Ctl(options) => ctl::run(&options),
        Command::Where(options) => settle::locate(&options),
        Command::Settle(options) => settle::settle(&options),
        Command::DemoTarget(options) => demo::target::run(&options).map(|()| ExitCode::Completed),
    };
    exit::report(result).into()
}
