//! Recovery of the guests that were kept, by a daemon that comes back.
//!
//! A QEMU outlives the daemon. One that somebody was told of is taken over, whatever state it is in; one
//! that was being started is ended, because nobody was told that it runs. A guest whose process is gone
//! is shut off; one whose process is there and does not answer is tried again until it does.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::thread;
use std::time::Duration;

use pagelift_rpc::calls::state;
use pagelift_v3::domain::Domain;
use serde_json::Value;
use tracing::{error, info, warn};

use super::{Active, Guest, Guests, Inner, StartFlags};
use crate::driver::qemu::{Ended, Qemu, Start, end_leftover, is_there};
use crate::store::{LiveRecord, Record, StoreError};

/// How long after a guest could not be asked it is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Makes the guests that were kept.
pub(super) fn recover(guests: &Arc<Guests>) -> Result<(), StoreError> {
    for (uuid, record) in guests.shared.store.all()? {
        let parse = |xml: &String| {
            let parsed = Domain::parse(xml);
            parsed
                .inspect_err(|error| error!(uuid, %error, "what was kept cannot be read"))
                .ok()
        };
        let definition = record.definition.as_ref().and_then(parse);
        let live = record.live.as_ref();
        let live = live.and_then(|live| Some((live, parse(&live.xml)?)));
        let Some(any) = definition
            .as_ref()
            .or_else(|| live.as_ref().map(|(_, domain)| domain))
        else {
            continue;
        };
        let guest = Guest::new(any.uuid, any.name.clone(), Arc::clone(&guests.shared));
        let guest = Arc::new(guest);
        guest.inner().definition = definition;
        guests.all().insert(guest.uuid(), Arc::clone(&guest));
        take_over(guests, &guest, &record, live);
    }
    autostart(guests);
    Ok(())
}

fn take_over(
    guests: &Arc<Guests>,
    guest: &Arc<Guest>,
    record: &Record,
    live: Option<(&LiveRecord, Domain)>,
) {
    let mut inner = guest.inner();
    inner.autostart = record.autostart;
    inner.state = record.state;
    inner.migration.clone_from(&record.migration);
    let Some((live, mut domain)) = live else {
        return;
    };
    let ids = &guests.shared.next_id;
    ids.fetch_max(live.id + 1, Ordering::Relaxed);
    let start = guests.shared.start_of(guest.uuid(), false);
    if !live.announced {
        end_leftover(&start);
        return gone(guests, guest, inner);
    }
    domain.started(live.id, Some(domain.cpu.clone()));
    inner.active = Some(Active {
        domain,
        qemu: None,
        unreached: Some(record.state),
        ending: None,
    });
    match Qemu::adopt(&start) {
        Ok(qemu) => {
            drop(inner);
            found(guests, guest, qemu);
        }
        Err(error) if may_be_there(&start) => {
            warn!(name = inner.name, %error, "a guest that may run cannot be asked: it is tried again");
            inner.state = state::UNKNOWN;
            drop(inner);
            search(guests, guest, start);
        }
        Err(error) => {
            warn!(name = inner.name, %error, "the process of a guest is gone");
            inner.active = None;
            gone(guests, guest, inner);
        }
    }
}

/// The guest has no process any more.
fn gone(guests: &Guests, guest: &Guest, mut inner: MutexGuard<'_, Inner>) {
    inner.state = state::SHUT_OFF_DAEMON;
    if let Err(error) = guest.save(&inner) {
        warn!(%error, name = inner.name, "the state of a guest is not kept");
    }
    drop(inner);
    guests.forget_if_gone(guest);
}

/// The guest's process is there.
fn found(guests: &Arc<Guests>, guest: &Arc<Guest>, qemu: Qemu) {
    let qemu = Arc::new(qemu);
    let status = qemu.execute("query-status").unwrap_or_default();
    let mut inner = guest.inner();
    if let Some(active) = &mut inner.active {
        active.qemu = Some(Arc::clone(&qemu));
        if let Some(kept) = active.unreached.take() {
            inner.state = now(&status, kept);
        }
    }
    info!(name = inner.name, pid = qemu.pid(), "guest found again");
    if let Err(error) = guest.save(&inner) {
        warn!(%error, name = inner.name, "the state of a guest is not kept");
    }
    drop(inner);
    guests.watch(guest, &qemu);
    guest.changed.notify_all();
}

/// Whether a guest's process may be there, although its monitor does not answer: somebody else may have
/// that, or the daemon may lack descriptors. A healthy guest is not ended for it.
fn may_be_there(start: &Start) -> bool {
    is_there(start).unwrap_or(true)
}

/// Goes on looking for the guest's process, in a thread, until it is found or gone.
fn search(guests: &Arc<Guests>, guest: &Arc<Guest>, start: Start) {
    let (guests, guest) = (Arc::clone(guests), Arc::clone(guest));
    let searching = move || {
        loop {
            thread::sleep(TRY_AGAIN);
            match Qemu::adopt(&start) {
                Ok(qemu) => return found(&guests, &guest, qemu),
                Err(_) if may_be_there(&start) => {}
                Err(_) => return guests.ended(&guest, Ended::Crashed),
            }
        }
    };
    let spawned = thread::Builder::new()
        .name("search".into())
        .spawn(searching);
    if let Err(error) = spawned {
        error!(%error, "a guest that cannot be asked is not looked for: restart the daemon");
    }
}

/// The state of a guest that was in `kept` when it was last heard of.
fn now(status: &Value, kept: (i32, i32)) -> (i32, i32) {
    let runs = status["running"].as_bool().unwrap_or(false);
    let ran = kept.0 == state::RUNNING_BOOTED.0;
    match (runs, ran) {
        (true, true) | (false, false) => kept,
        (true, false) => state::RUNNING_UNPAUSED,
        (false, true) if status["status"] == "io-error" => state::PAUSED_IO_ERROR,
        (false, true) => state::PAUSED_UNKNOWN,
    }
}

/// Starts the guests that are to be started with the daemon, once after the host was.
fn autostart(guests: &Arc<Guests>) {
    let run = &guests.shared.config.paths.run;
    let done = run.join("autostarted");
    if done.exists() {
        return;
    }
    for guest in guests.list(2 | 1024) {
        let name = guest.inner().name.clone();
        match guests.start(&guest, StartFlags::default()) {
            Ok(()) => info!(name, "guest started with the daemon"),
            Err(error) => error!(name, %error, "guest not started with the daemon"),
        }
    }
    let marked = std::fs::create_dir_all(run).and_then(|()| std::fs::write(&done, ""));
    if let Err(error) = marked {
        warn!(%error, "guests may be started again with the daemon");
    }
}
