//! `pagelift where` and `pagelift settle`: what is known of a guest after a crash, and ending the
//! doubt.

use anyhow::Result;
use clap::Args;
use pagelift_control::qmp::Address;
use pagelift_control::settle::{Side, Undecided, Word, decide};
use pagelift_engine::migration::settle::Owner;
use pagelift_engine::wire::SessionId;
use serde_json::{Value, json};

use crate::exit::ExitCode;
use crate::print;

/// Options of `pagelift where`.
#[derive(Args, Clone, Debug)]
pub struct WhereOptions {
    /// QEMU's monitor: the path of a -qmp unix socket that nobody else uses
    #[arg(long, value_name = "PATH")]
    qmp: Address,
    /// Print the answer as one JSON object
    #[arg(long)]
    json: bool,
}

/// Options of `pagelift settle`.
#[derive(Args, Clone, Debug)]
pub struct SettleOptions {
    /// The monitor of one of the two QEMUs
    #[arg(long, value_name = "PATH")]
    qmp: Address,
    /// The monitor of the other one, if it is on this host
    #[arg(long, value_name = "PATH", conflicts_with = "peer")]
    to: Option<Address>,
    /// What `pagelift where` says of the other one on its host, if it is on another
    #[arg(long, value_name = "WORD")]
    peer: Option<Word>,
    /// You know that the other side does not run the guest and never will, since you have seen to
    /// that: it goes on here, whatever was promised
    #[arg(long, conflicts_with_all = ["to", "peer"])]
    fenced: bool,
    /// Print the answer as one JSON object
    #[arg(long)]
    json: bool,
}

/// Says what is known of a QEMU's guest, and why.
///
/// # Errors
/// When QEMU cannot be asked.
pub fn locate(options: &WhereOptions) -> Result<ExitCode> {
    let side = Side::look(&options.qmp)?;
    if options.json {
        print::result(shown(&options.qmp, &side));
        return Ok(ExitCode::Completed);
    }
    let (guest, why) = side.guest();
    let state = side.run_state().unwrap_or("no QEMU");
    print::result(format_args!("guest: {guest} ({why})\nQEMU:  {state}"));
    match side.record() {
        Some(record) => print::result(format_args!(
            "journal: {} in migration {}, {:.1} s ago\nfor the other host: --peer {}",
            record.phase.name(),
            SessionId(record.session),
            record.age_ms as f64 / 1e3,
            side.word(),
        )),
        None => print::result("journal: nothing is recorded"),
    }
    Ok(ExitCode::Completed)
}

/// Ends the doubt about whose a guest is.
///
/// # Errors
/// When a QEMU cannot be asked, or does not do what was decided.
pub fn settle(options: &SettleOptions) -> Result<ExitCode> {
    let mut one = Side::look(&options.qmp)?;
    let mut other = options.to.as_ref().map(Side::look).transpose()?;
    if options.fenced {
        one.run_fenced()?;
        say(options, &one, "here", "the guest runs here, by your word");
        return Ok(ExitCode::Completed);
    }
    let peer = options.peer.or_else(|| other.as_ref().map(Side::word));
    let decision = match decide(&one.word(), peer.as_ref()) {
        Ok(decision) => decision,
        Err(undecided) => {
            say(options, &one, "unknown", &way_out(&undecided, &one));
            return Ok(ExitCode::Unknown);
        }
    };
    let place = match decision.owner {
        Owner::Source => "source",
        Owner::Target => "target",
    };
    let is_ones = (decision.owner == Owner::Source) == decision.one_is_source;
    let owner_is_here = is_ones || other.is_some();
    let carried = decision.carry_out(&mut one, other.as_mut())?;
    let mut words = match (carried.runs, owner_is_here) {
        (true, _) => format!("the guest runs on the {place}"),
        (false, true) => format!("the guest is the {place}'s"),
        (false, false) => format!(
            "the guest is the {place}'s; on its host run\n  pagelift settle --qmp MONITOR --peer {}",
            one.word()
        ),
    };
    for monitor in carried.left_alone {
        words += &format!(
            "; the QEMU at {} has no record of this migration, and was left as it is",
            monitor.display()
        );
    }
    say(options, &one, place, &words);
    Ok(ExitCode::Completed)
}

/// Why it is not decided, and what can be done about that. `one` is the side that was asked first.
fn way_out(undecided: &Undecided, one: &Side) -> String {
    let fenced = match undecided {
        Undecided::AskOther => {
            return format!(
                "this side alone does not know; with its QEMU on this host, add --to MONITOR, or on \
                 its own host run\n  pagelift settle --qmp MONITOR --peer {}",
                one.word()
            );
        }
        Undecided::Unsettled(unsettled) => unsettled.once_fenced(),
        Undecided::NothingRecorded | Undecided::SameRole(_) => None,
    };
    let place = match fenced {
        Some(Owner::Source) => "source",
        Some(Owner::Target) => "target",
        None => return undecided.to_string(),
    };
    format!(
        "{undecided}. Once that is sure: pagelift settle --fenced --qmp MONITOR, with the {place}'s monitor, \
         on its host"
    )
}

fn say(options: &SettleOptions, side: &Side, owner: &str, words: &str) {
    if options.json {
        let mut object = shown(&options.qmp, side);
        object["owner"] = json!(owner);
        object["words"] = json!(words);
        print::result(object);
    } else {
        print::result(words);
    }
}

fn shown(qmp: &Address, side: &Side) -> Value {
    let (guest, why) = side.guest();
    let journal = side.record().map(|record| {
        json!({
            "session": SessionId(record.session).to_string(),
            "phase": record.phase.name(),
            "age_ms": record.age_ms,
        })
    });
    json!({
        "qmp": qmp.to_string(),
        "pid": side.pid(),
        "run_state": side.run_state(),
        "journal": journal,
        "guest": guest,
        "why": why,
        "peer": side.word().to_string(),
    })
}
