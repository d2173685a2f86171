//! The five phases of a migration, with a field for each parameter: for peers without typed ones.

use crate::declare::{procedures, xdr_structs};
use crate::types::Domain;
use crate::xdr::Opaque;

use super::migrate::{BeginReply, FinishReply, PrepareReply};

xdr_structs! {
    /// Of Begin, on the source.
    BeginArgs {
        /// The guest.
        domain: Domain,
        /// A description to be used instead of the guest's.
        xml: Option<String>,
        /// How the guest is to move.
        flags: u64,
        /// The name of the guest on the target.
        name: Option<String>,
        /// The rate, in MiB/s.
        bandwidth: u64,
    }

    /// Of Prepare, on the target.
    PrepareArgs {
        /// From Begin.
        cookie: Opaque,
        /// Where the guest is to come in.
        uri: Option<String>,
        /// How the guest is to move.
        flags: u64,
        /// The name of the guest on the target.
        name: Option<String>,
        /// The rate, in MiB/s.
        bandwidth: u64,
        /// The description of the guest.
        xml: String,
    }

    /// Of Perform, on the source.
    PerformArgs {
        /// The guest.
        domain: Domain,
        /// A description to be used instead of the guest's.
        xml: Option<String>,
        /// From Prepare.
        cookie: Opaque,
        /// The target's daemon, if the source's is to do all the phases.
        destination: Option<String>,
        /// Where the guest is to be sent.
        uri: Option<String>,
        /// How the guest is to move.
        flags: u64,
        /// The name of the guest on the target.
        name: Option<String>,
        /// The rate, in MiB/s.
        bandwidth: u64,
    }

    /// Of Finish, on the target.
    FinishArgs {
        /// The name of the guest.
        name: String,
        /// From Perform.
        cookie: Opaque,
        /// The target's daemon.
        destination: Option<String>,
        /// Where the guest was sent.
        uri: Option<String>,
        /// How the guest is to move.
        flags: u64,
        /// 1 if it is not to.
        cancelled: i32,
    }

    /// Of Confirm, on the source.
    ConfirmArgs {
        /// The guest.
        domain: Domain,
        /// From Finish.
        cookie: Opaque,
        /// How the guest has moved.
        flags: u64,
        /// 1 if it has not.
        cancelled: i32,
    }
}

procedures! {
    MIGRATE_FIELDS;

    /// Begins, on the source.
    MigrateBegin3 = 213, BeginArgs => BeginReply;
    /// Makes ready, on the target.
    MigratePrepare3 = 214, PrepareArgs => PrepareReply;
    /// Moves the guest, on the source.
    MigratePerform3 = 216, PerformArgs => Opaque;
    /// Lets the guest run, on the target.
    MigrateFinish3 = 217, FinishArgs => FinishReply;
    /// Ends the guest, on the source.
    MigrateConfirm3 = 218, ConfirmArgs => ();
}
