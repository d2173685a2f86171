//! Starting a job: what was set up becomes the engine's.

use std::sync::Arc;

use pagelift_engine::transport::{Listener, RateCapped};
use pagelift_engine::{
    Completed, GuestProperty, Incoming, Job as EngineJob, Outgoing, Received, Report, StartError,
};

use super::end::{Ended, Numbers};
use super::options::Chosen;
use super::watch::Events;
use super::{Body, Job, Stage};
use crate::call::Caller;
use crate::error::{Code, Fault, Place, caught};
use crate::guest::{Guest, OnProgress, SourceCallbacks, TargetCallbacks};
use crate::handle;
use crate::ram::Description;

/// A job that was not started.
pub(crate) struct SetUp {
    side: Side,
    pub(super) chosen: Chosen,
    pub(super) properties: Vec<GuestProperty>,
}

/// Which way the guest goes, and what it takes.
pub(crate) enum Side {
    Out {
        link: Box<dyn RateCapped>,
        ram: Description,
        guest: SourceCallbacks,
    },
    In {
        listener: Box<dyn Listener>,
        ram: Description,
        guest: TargetCallbacks,
    },
}

/// A job of the engine's, of either side.
pub(crate) trait Running: Send {
    /// What it tells.
    fn events(&self) -> Events;

    /// Waits for its end.
    fn end(self: Box<Self>) -> Ended;
}

impl Running for EngineJob<Guest<SourceCallbacks>, Report> {
    fn events(&self) -> Events {
        Events::Out(Self::events(self).clone())
    }

    fn end(self: Box<Self>) -> Ended {
        end(*self, |report| Numbers::from(&report))
    }
}

impl Running for EngineJob<Guest<TargetCallbacks>, Received> {
    fn events(&self) -> Events {
        Events::In(Self::events(self).clone())
    }

    fn end(self: Box<Self>) -> Ended {
        end(*self, |received| Numbers::from(&received))
    }
}

/// How a job of the engine's ended. A panic of it is an end as well, of which nobody knows where the
/// guest is.
fn end<G: Send + 'static, R: Completed>(
    job: EngineJob<G, R>,
    numbers: impl FnOnce(R) -> Numbers,
) -> Ended {
    match caught(|| Ok(job.wait().result)) {
        Ok(Ok(report)) => Ended::Completed(numbers(report)),
        Ok(Err(failure)) => Ended::Failed(Fault::from(&failure)),
        Err(panic) => Ended::Failed(Fault {
            place: Place::Unknown,
            ..panic
        }),
    }
}

impl From<StartError> for Fault {
    fn from(error: StartError) -> Self {
        let code = match error {
            StartError::DeltaCache(_) => Code::Argument,
            _ => Code::System,
        };
        Self::new(code, error)
    }
}

impl SetUp {
    pub(super) fn new(side: Side) -> Self {
        Self {
            side,
            chosen: Chosen::default(),
            properties: Vec::new(),
        }
    }

    fn start(self, body: &Body) -> Result<Box<dyn Running>, Fault> {
        let caller = &body.caller;
        match self.side {
            Side::Out { link, ram, guest } => {
                let properties = ram.properties().chain(self.properties).collect();
                let outgoing = Outgoing::new(link, ram.ram(caller)?, with_caller(guest, caller))
                    .controls(body.controls.clone())
                    .properties(properties);
                let mut outgoing = self.chosen.apply(outgoing);
                if guest.progress.is_some() {
                    let told = OnProgress::new(guest.progress, guest.opaque, caller);
                    outgoing = outgoing.on_status(move |status| told.tell(status));
                }
                Ok(Box::new(outgoing.start()?))
            }
            Side::In {
                listener,
                ram,
                guest,
            } => {
                let properties = ram.properties().chain(self.properties).collect();
                let guest_here = with_caller(guest, caller);
                let mut incoming = Incoming::new(listener, ram.memory()?, guest_here)
                    .controls(body.controls.clone())
                    .properties(properties);
                if guest.progress.is_some() {
                    let told = OnProgress::new(guest.progress, guest.opaque, caller);
                    incoming = incoming.on_status(move |status| told.tell(status));
                }
                Ok(Box::new(incoming.start()?))
            }
        }
    }
}

fn with_caller<C>(callbacks: C, caller: &Arc<Caller>) -> Guest<C>
where
    Guest<C>: Send,
{
    Guest::new(callbacks, Arc::clone(caller))
}

/// Starts the migration, in threads of its own, and returns at once. A target begins to wait for its
/// source. A job is started once.
///
/// # Errors
/// PAGELIFT_CODE_ORDER when it was started before; PAGELIFT_CODE_MEMORY, _DIRTY_TRACKING or _SYSTEM when
/// what it needs is not to be had. The guest is then where it was, and the job has ended.
///
/// # Threads
/// From any thread, also from callbacks.
///
/// # Safety
/// `job` is a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_job_start(job: *mut Job) -> Code {
    let start = |body: &Body| {
        let mut stage = body.stage();
        let set_up = match std::mem::replace(&mut *stage, Stage::Between) {
            Stage::SetUp(set_up) => set_up,
            other => {
                *stage = other;
                return Err(Fault::new(Code::Order, "the job was started before"));
            }
        };
        match caught(|| set_up.start(body)) {
            // From here on nothing fails: a job that runs, and is dropped, waits for its callbacks,
            // and these may wait for the stage.
            Ok(running) => {
                // Nobody else sets it: the stage is locked.
                let _ = body.told.set(running.events());
                *stage = Stage::Running(running);
                Ok(())
            }
            Err(mut fault) => {
                fault.place = Place::Source;
                *stage = Stage::Ended(Ended::Failed(fault.clone()));
                Err(fault)
            }
        }
    };
    // SAFETY: the caller's promise.
    unsafe { handle::with(job.cast_const(), start) }
}
