//! Events on their way to the clients that registered for them.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};
use pagelift_rpc::events::{Event, Lifecycle};
use pagelift_rpc::message::Message;
use pagelift_rpc::types::{Domain, Uuid};

use crate::session::Session;

/// The most registrations of one client.
const MAX_OF_ONE: usize = 256;

/// Who wants to hear of what.
#[derive(Debug, Default)]
pub struct Events {
    next: AtomicI32,
    registrations: Mutex<Vec<Registration>>,
}

#[derive(Debug)]
struct Registration {
    callback_id: i32,
    event_id: i32,
    /// Of this guest alone.
    guest: Option<Uuid>,
    session_id: u64,
    session: Weak<Session>,
}

impl Events {
    fn registrations(&self) -> MutexGuard<'_, Vec<Registration>> {
        self.registrations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a client for the event `event_id`, of `guest` or of all; the number of the callback,
    /// which no other client has.
    ///
    /// # Errors
    /// When the client has too many.
    pub fn register(
        &self,
        session: &Arc<Session>,
        event_id: i32,
        guest: Option<Uuid>,
    ) -> Result<i32, Error> {
        let mut all = self.registrations();
        all.retain(|registration| registration.session.strong_count() > 0);
        let of_one = all.iter().filter(|r| r.session_id == session.id()).count();
        if of_one >= MAX_OF_ONE {
            let detail = format!("a client may register for {MAX_OF_ONE} events");
            return Err(Error::new(
                ErrorCode::OperationFailed,
                ErrorDomain::Rpc,
                detail,
            ));
        }
        let callback_id = self.next.fetch_add(1, Ordering::Relaxed);
        all.push(Registration {
            callback_id,
            event_id,
            guest,
            session_id: session.id(),
            session: Arc::downgrade(session),
        });
        Ok(callback_id)
    }

    /// Ends a registration of the client's.
    ///
    /// # Errors
    /// When it has none with this number.
    pub fn deregister(&self, session: &Session, callback_id: i32) -> Result<(), Error> {
        let mut all = self.registrations();
        let before = all.len();
        all.retain(|r| (r.session_id, r.callback_id) != (session.id(), callback_id));
        if all.len() == before {
            let detail = format!("domain event callback {callback_id} not registered");
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                ErrorDomain::Rpc,
                detail,
            ));
        }
        Ok(())
    }

    /// Sends an event to all who registered for it; `event` makes the one for a callback.
    pub fn emit<E: Event>(&self, guest: &Domain, event: impl Fn(i32) -> E) {
        for registration in self.registrations().iter() {
            let wanted = registration.event_id == E::ID
                && registration.guest.is_none_or(|uuid| uuid == guest.uuid);
            if wanted && let Some(session) = registration.session.upgrade() {
                session.send_event(&Message::event(&event(registration.callback_id)));
            }
        }
    }

    /// The life of `guest` has changed.
    pub fn lifecycle(&self, guest: &Domain, (event, detail): (i32, i32)) {
        self.emit(guest, |callback_id| Lifecycle {
            callback_id,
            domain: guest.clone(),
            event,
            detail,
        });
    }
}
