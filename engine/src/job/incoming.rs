//! A guest that is to arrive.

use std::sync::Arc;

use super::running::Job;
use super::{StartError, budget, random};
use crate::guest::TargetGuest;
use crate::memory::{GuestMemory, PersistentFile};
use crate::migration::TargetStatus;
use crate::pipeline::{BasePages, Controls, ReceiveJob, Received, receive};
use crate::transport::Listener;
use crate::units::ByteCount;
use crate::wire::{GuestProperty, MAX_CHANNELS};

/// Told where a migration is.
type OnStatus = Box<dyn FnMut(&TargetStatus) + Send>;

/// A guest that is to arrive: set it up, then [`start`](Self::start).
pub struct Incoming<G> {
    listener: Box<dyn Listener>,
    memory: Arc<dyn GuestMemory>,
    guest: G,
    controls: Controls,
    base: Option<BasePages>,
    properties: Vec<GuestProperty>,
    persistent: Vec<PersistentFile>,
    on_status: Option<OnStatus>,
}

impl<G> std::fmt::Debug for Incoming<G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming")
            .field("address", &self.listener.address())
            .finish_non_exhaustive()
    }
}

impl<G: TargetGuest + 'static> Incoming<G> {
    /// A guest is to come by `listener` into `memory`, and `guest` is to run it.
    pub fn new(listener: Box<dyn Listener>, memory: Arc<dyn GuestMemory>, guest: G) -> Self {
        Self {
            listener,
            memory,
            guest,
            controls: Controls::default(),
            base: None,
            properties: Vec::new(),
            persistent: Vec::new(),
            on_status: None,
        }
    }

    /// Pages that are here already, for the source not to send.
    #[must_use]
    pub fn base(mut self, pages: BasePages) -> Self {
        self.base = Some(pages);
        self
    }

    /// What must be equal on both sides beside the memory's layout.
    #[must_use]
    pub fn properties(mut self, properties: Vec<GuestProperty>) -> Self {
        self.properties = properties;
        self
    }

    /// Files that the guest sees as memory and keeps its data in, as on a disk: an NVDIMM, say. They are
    /// no part of its RAM. They are neither sent nor cleared, and a target that has other ones refuses.
    #[must_use]
    pub fn persistent(mut self, files: Vec<PersistentFile>) -> Self {
        self.persistent = files;
        self
    }

    /// Takes cancellation from `controls`, by which others may end the migration before it has
    /// started.
    #[must_use]
    pub fn controls(mut self, controls: Controls) -> Self {
        self.controls = controls;
        self
    }

    /// Calls `told` with the status at every step of the coordinator, in its thread: often, and
    /// never long. Most embedders take [events](Job::next_event) instead.
    #[must_use]
    pub fn on_status(mut self, told: impl FnMut(&TargetStatus) + Send + 'static) -> Self {
        self.on_status = Some(Box::new(told));
        self
    }

    /// The address to give to the source.
    pub fn address(&self) -> String {
        self.listener.address()
    }

    /// Most memory that the migration takes on this side, beside the guest's own.
    pub fn memory_budget(&self) -> ByteCount {
        let base = self
            .base
            .as_ref()
            .map_or(ByteCount(0), BasePages::footprint);
        let connections = u64::from(MAX_CHANNELS) * self.listener.connection_bytes().0;
        budget::incoming(self.memory.layout()) + base + ByteCount(connections)
    }

    /// Starts to wait for a source.
    ///
    /// # Errors
    /// When what it needs is not to be had.
    pub fn start(self) -> Result<Job<G, Received>, StartError> {
        let Self {
            listener,
            memory,
            mut guest,
            controls,
            base,
            properties,
            persistent,
            mut on_status,
        } = self;
        let base_pages = match base {
            Some(pages) => pages,
            None => BasePages::new(None, random()?),
        };
        let cancel = controls.cancel_token().clone();
        Job::start(controls, None, None, move |show| {
            let result = receive(ReceiveJob {
                listener: &*listener,
                memory,
                guest: &mut guest,
                properties,
                persistent,
                base_pages,
                cancel,
                progress: &mut |status| {
                    show(status);
                    if let Some(told) = &mut on_status {
                        told(status);
                    }
                },
            });
            (result, guest)
        })
    }
}
