//! The machine for a guest that arrives.

use std::sync::Arc;

use pagelift_rpc::calls::state;
use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};
use pagelift_rpc::events::lifecycle;
use pagelift_v3::domain::Domain;
use pagelift_v3::params::Request;
use pagelift_v3::phase::TargetRecord;
use tracing::error;

use super::Incoming;
use super::place::Place;
use crate::daemon::Daemon;
use crate::dispatch::Answer;
use crate::driver::qemu::Qemu;
use crate::driver::qemu::native::{self, Side};
use crate::guests::{Ending, Job, errors};
use crate::migrate::source::monitor;

const PREPARE: &str = "remoteDispatchDomainMigratePrepare3Params";

/// Refuses a disk that is not here.
pub(super) fn check_disks(domain: &Domain) -> Answer<()> {
    for source in domain
        .devices
        .disks
        .iter()
        .filter_map(|disk| disk.source.as_ref())
    {
        let path = source.path();
        if let Err(error) = std::fs::metadata(path) {
            let why = match error.kind() {
                std::io::ErrorKind::NotFound => "No such file or directory".to_owned(),
                _ => error.to_string(),
            };
            let detail = format!("Cannot access storage file '{path}': {why}");
            return Err(Error::new(
                ErrorCode::SystemError,
                ErrorDomain::Storage,
                detail,
            ));
        }
    }
    Ok(())
}

impl Incoming {
    /// Builds the machine, and lets it wait for the guest; what its QEMU can do.
    pub(super) fn build(
        &mut self,
        daemon: &Arc<Daemon>,
        domain: Domain,
        request: &Request,
        acks: bool,
        place: Place,
    ) -> Answer<Vec<String>> {
        let guests = daemon.guests();
        let job = guests.claim(&domain, PREPARE)?;
        let guest = Arc::clone(job.guest());
        let qemu = guests.launch(&job, domain, true).inspect_err(|_| {
            guests.forget_if_gone(&guest);
        })?;
        let built = self.wait_for_guest(daemon, &job, &qemu, request, acks, place);
        if built.is_err()
            && let Err(error) = guests.end(&job, Ending::Failed)
        {
            error!(%error, "the process of a guest that cannot arrive is still there");
        }
        built
    }

    fn wait_for_guest(
        &mut self,
        daemon: &Arc<Daemon>,
        job: &Job,
        qemu: &Arc<Qemu>,
        request: &Request,
        acks: bool,
        place: Place,
    ) -> Answer<Vec<String>> {
        let guest = Arc::clone(job.guest());
        let qmp = qemu.qmp();
        let has = native::capabilities(qmp).map_err(monitor)?;
        request.check_capabilities(|name| has.iter().any(|has| has == name))?;
        let settings = daemon.migrations().settings(guest.uuid());
        let acks = acks && has.iter().any(|name| name == "switchover-ack");
        let before =
            native::prepare(qmp, Side::Target, request, &settings, acks).map_err(monitor)?;
        // From here on the port is QEMU's: it is let go of as late as can be.
        drop(place.held);
        native::listen(qmp, &place.listen).map_err(|error| {
            let why = error
                .refusal()
                .map_or_else(|| error.to_string(), str::to_owned);
            errors::internal(format!(
                "unable to execute QEMU command 'migrate-incoming': {why}"
            ))
        })?;
        let mut inner = guest.inner();
        inner.state = state::PAUSED_MIGRATION;
        inner.migration = Some(self.record(TargetRecord::Prepared, request));
        guest.save(&inner)?;
        drop(inner);
        daemon
            .events()
            .lifecycle(&guest.wire(), lifecycle::STARTED_MIGRATED);
        self.qemu = Some((guest, Arc::clone(qemu), before));
        Ok(has)
    }
}
