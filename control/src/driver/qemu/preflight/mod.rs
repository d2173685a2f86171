//! Refusing, before anything starts, what could not end well; with all reasons at once.
//!
//! What only the kernel can tell (userfaultfd, PAGEMAP_SCAN) is checked where it is used.
//!
//! What is let through on purpose: a guest that is paused or suspended (it arrives so); balloons and
//! virtio-mem (what they discard arrives as zeros); the kernel's vhost-net and vhost-vsock (they write
//! guest memory through QEMU's page tables, as QEMU does).

mod devices;
mod discards;
mod disks;
mod memory;

pub use discards::{Discards, balloon_is_in_use, discards};

use serde_json::Value;

use super::inspect::Guest;
use super::{other_hands, settings};
use crate::driver::{Refusal, Side};
use crate::qmp::{Qmp, QmpError};

/// All reasons why a guest cannot leave; none if it can. With `buffer_disks`, disks that bypass the
/// host's page cache are none: they are to go through it.
///
/// # Errors
/// When QEMU does not answer.
pub fn source(qmp: &Qmp, guest: &Guest, buffer_disks: bool) -> Result<Vec<Refusal>, QmpError> {
    let mut refusals = both(qmp, guest, Side::Source)?;
    refusals.extend(devices::check(qmp)?);
    refusals.extend(discards::check(qmp, guest)?);
    refusals.extend(disks::check(qmp, buffer_disks)?);
    refusals.extend(other_hands::block_jobs(qmp)?.into_iter().map(|job| {
        Refusal::new(
            format!("{job} runs: QEMU would not hand its disk over, or leave the job half done"),
            "wait for its end, or cancel it (block-job-cancel)",
        )
    }));
    let info = qmp.execute("query-migrate", Value::Null)?;
    for reason in info["blocked-reasons"].as_array().into_iter().flatten() {
        let reason = reason.as_str().unwrap_or("no reason given");
        refusals.push(Refusal::new(
            format!("QEMU itself cannot migrate this guest: {reason}"),
            "remove what it names",
        ));
    }
    if !matches!(
        guest.run_state.as_str(),
        "paused" | "prelaunch" | "running" | "suspended"
    ) {
        let remedy = match guest.run_state.as_str() {
            "inmigrate" => "this is a target; give the QEMU whose guest is to move",
            "postmigrate" => "it has left already; 'pagelift where' says what is known of it",
            _ => "bring it to 'running' or 'paused' first",
        };
        let state = &guest.run_state;
        refusals.push(Refusal::new(
            format!("the guest's state is {state:?}"),
            remedy,
        ));
    }
    Ok(refusals)
}

/// All reasons why a guest cannot arrive; none if it can.
///
/// # Errors
/// When QEMU does not answer.
pub fn target(qmp: &Qmp, guest: &Guest) -> Result<Vec<Refusal>, QmpError> {
    let mut refusals = both(qmp, guest, Side::Target)?;
    if guest.run_state != "inmigrate" {
        refusals.push(Refusal::new(
            format!(
                "the target's state is {:?}, not waiting for a guest",
                guest.run_state
            ),
            "start it with -incoming defer",
        ));
    }
    Ok(refusals)
}

/// What holds for both sides.
fn both(qmp: &Qmp, guest: &Guest, side: Side) -> Result<Vec<Refusal>, QmpError> {
    let mut refusals = memory::check(qmp, guest, side)?;
    let known = settings::capabilities(qmp)?;
    for name in settings::NEEDED {
        if !known.iter().any(|(known, _)| known == name) {
            refusals.push(Refusal::new(
                format!("QEMU {} has no migration capability {name}", guest.version),
                "use QEMU 8.1 or later",
            ));
        }
    }
    let info = qmp.execute("query-migrate", Value::Null)?;
    let status = info["status"].as_str().unwrap_or("none");
    let incoming = guest.run_state == "inmigrate";
    // A target that has tried once takes no second guest.
    let usable = match status {
        "none" => true,
        "cancelled" | "completed" | "failed" => !incoming,
        _ => false,
    };
    if !usable {
        refusals.push(Refusal::new(
            format!("QEMU has another migration, its status is {status:?}"),
            if incoming {
                "start the target afresh with -incoming defer"
            } else {
                "wait for its end or cancel it"
            },
        ));
    }
    Ok(refusals)
}
