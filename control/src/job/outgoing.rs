//! Setting up the move of a guest that leaves: a driver, an address, and the engine's door.

use pagelift_engine::guest::SourceGuest;
use pagelift_engine::migration::{MigrationError, Report, SourceStatus};
use pagelift_engine::transport::RateCapped;
use pagelift_engine::{Job, Outgoing, StartError};
use pagelift_transports::{Endpoint, Security};

use super::JobStatus;
use crate::driver::{Driver, DriverError, InspectedSource, LeavingGuest};
use crate::failpoints;

/// The guest of a driver of type `D` on the source.
type SourceOf<D> = <<D as Driver>::Source as InspectedSource>::Guest;

/// A guest that is ready to leave.
#[derive(Debug)]
pub struct OutgoingJob<G> {
    /// The engine's side of it; it takes the options of the move.
    pub outgoing: Outgoing<G>,
    /// What throttles the guest when it must be, in words.
    pub throttled_by: String,
    status: JobStatus,
}

/// Has `driver` look at its guest and prepare it for the move to `to`, where the target is known
/// as `security` says. The settings are those of
/// `status`, which shows the job from its start on.
///
/// # Errors
/// When the address leads nowhere, or the guest cannot be moved: it runs on here, as it was, unless
/// the error [ended](MigrationError::ended_guest) it.
pub fn prepare_outgoing<D: Driver>(
    driver: &D,
    to: &Endpoint,
    security: &Security,
    status: &JobStatus,
) -> Result<OutgoingJob<SourceOf<D>>, MigrationError> {
    let link = to
        .connect_with(security)
        .map_err(|source| MigrationError::Link {
            what: "cannot go to the target",
            source,
        })?;
    prepare_outgoing_over(driver, link, status)
}

/// The same, over `link`.
///
/// # Errors
/// When the guest cannot be moved: it runs on here, as it was.
pub fn prepare_outgoing_over<D: Driver>(
    driver: &D,
    link: Box<dyn RateCapped>,
    status: &JobStatus,
) -> Result<OutgoingJob<SourceOf<D>>, MigrationError> {
    let refused = |error: DriverError| match error {
        DriverError::Ended(error) => MigrationError::GuestEnded(error.to_string()),
        error => MigrationError::Guest(error.to_string()),
    };
    let inspected = driver.inspect_source().map_err(refused)?;
    let properties = inspected.properties();
    let prepared = inspected.prepare().map_err(refused)?;
    let throttled_by = prepared.guest.throttled_by();
    let outgoing = Outgoing::new(link, prepared.ram, prepared.guest)
        .controls(status.controls().clone())
        .properties(properties)
        .persistent(prepared.persistent);
    Ok(OutgoingJob {
        outgoing,
        throttled_by,
        status: status.clone(),
    })
}

impl<G: SourceGuest + 'static> OutgoingJob<G> {
    /// Starts the move; `told` is called with every status of the engine's, in its thread.
    ///
    /// # Errors
    /// As [`Outgoing::start`].
    pub fn start(
        self,
        mut told: impl FnMut(&SourceStatus) + Send + 'static,
    ) -> Result<Job<G, Report>, StartError> {
        let status = self.status.clone();
        let outgoing = self.outgoing.on_status(move |seen| {
            status.update(seen);
            failpoints::progress(seen);
            told(seen);
        });
        let job = outgoing.start()?;
        self.status.set_deltas(job.deltas());
        Ok(job)
    }
}
