//! What a daemon that comes back makes of what was kept.
//!
//! A QEMU outlives the daemon. One that somebody was told of is taken over, whatever state it is in; one
//! that was being started is ended, because nobody was told that it runs. A guest whose process is gone
//! is shut off.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pagelift_rpc::calls::state;
use pagelift_v3::domain::Domain;
use tracing::{error, info, warn};

use super::{Active, Guest, Guests, StartFlags};
use crate::driver::qemu::{Qemu, end_leftover};
use crate::store::{LiveRecord, Record, StoreError};

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
    let adopted = if live.announced {
        Qemu::adopt(&start).inspect_err(|error| {
            warn!(name = inner.name, %error, "the process of a guest cannot be found");
        })
    } else {
        end_leftover(&start);
        inner.state = state::SHUT_OFF_DAEMON;
        let saved = guest.save(&inner);
        drop(inner);
        if let Err(error) = saved {
            warn!(%error, "a guest that was not started is still kept");
        }
        guests.forget_if_gone(guest);
        return;
    };
    match adopted {
        Ok(qemu) => {
            let qemu = Arc::new(qemu);
            domain.started(live.id, Some(domain.cpu.clone()));
            inner.state = now(&qemu, record.state);
            inner.active = Some(Active {
                domain,
                qemu: Some(Arc::clone(&qemu)),
                ending: None,
            });
            info!(name = inner.name, pid = qemu.pid(), "guest found again");
            if let Err(error) = guest.save(&inner) {
                warn!(%error, name = inner.name, "the state of a guest is not kept");
            }
            drop(inner);
            guests.watch(guest, &qemu);
        }
        Err(_) => {
            // Whatever is left of it cannot be managed.
            end_leftover(&start);
            inner.state = state::SHUT_OFF_DAEMON;
            if let Err(error) = guest.save(&inner) {
                warn!(%error, name = inner.name, "the state of a guest is not kept");
            }
            drop(inner);
            guests.forget_if_gone(guest);
        }
    }
}

/// The state of a guest that was in `kept` when it was last heard of.
fn now(qemu: &Qemu, kept: (i32, i32)) -> (i32, i32) {
    let status = qemu.execute("query-status").unwrap_or_default();
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
