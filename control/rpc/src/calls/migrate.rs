//! The five phases of a migration, with typed parameters.

use crate::declare::{procedures, xdr_structs};
use crate::params::Params;
use crate::types::Domain;
use crate::xdr::Opaque;

xdr_structs! {
    /// Of Begin, on the source.
    BeginParamsArgs {
        /// The guest.
        domain: Domain,
        /// As the user gave them.
        params: Params,
        /// How the guest is to move.
        flags: u32,
    }

    /// What Begin is answered with.
    BeginReply {
        /// For Prepare.
        cookie: Opaque,
        /// The description of the guest, for the target.
        xml: String,
    }

    /// Of Prepare, on the target.
    PrepareParamsArgs {
        /// With the description of the guest.
        params: Params,
        /// From Begin.
        cookie: Opaque,
        /// How the guest is to move.
        flags: u32,
    }

    /// What Prepare is answered with.
    PrepareReply {
        /// For Perform.
        cookie: Opaque,
        /// Where the source is to send the guest, if that is not what it said.
        uri: Option<String>,
    }

    /// Of Perform, on the source.
    PerformParamsArgs {
        /// The guest.
        domain: Domain,
        /// The target's daemon, if the source's is to do all the phases.
        destination: Option<String>,
        /// With the place to send the guest to.
        params: Params,
        /// From Prepare.
        cookie: Opaque,
        /// How the guest is to move.
        flags: u32,
    }

    /// Of Finish, on the target.
    FinishParamsArgs {
        /// With the name of the guest.
        params: Params,
        /// From Perform.
        cookie: Opaque,
        /// How the guest is to move.
        flags: u32,
        /// 1 if it is not to.
        cancelled: i32,
    }

    /// What Finish is answered with.
    FinishReply {
        /// The guest, on the target.
        domain: Domain,
        /// For Confirm.
        cookie: Opaque,
    }

    /// Of Confirm, on the source.
    ConfirmParamsArgs {
        /// The guest.
        domain: Domain,
        /// As those of Finish.
        params: Params,
        /// From Finish.
        cookie: Opaque,
        /// How the guest has moved.
        flags: u32,
        /// 1 if it has not.
        cancelled: i32,
    }
}

procedures! {
    MIGRATE;

    /// Begins, on the source.
    MigrateBegin3Params = 302, BeginParamsArgs => BeginReply;
    /// Makes ready, on the target.
    MigratePrepare3Params = 303, PrepareParamsArgs => PrepareReply;
    /// Makes ready for a stream that comes over this connection, on the target.
    MigratePrepareTunnel3Params = 304, PrepareParamsArgs => Opaque;
    /// Moves the guest, on the source.
    MigratePerform3Params = 305, PerformParamsArgs => Opaque;
    /// Lets the guest run, on the target.
    MigrateFinish3Params = 306, FinishParamsArgs => FinishReply;
    /// Ends the guest, on the source.
    MigrateConfirm3Params = 307, ConfirmParamsArgs => ();
}
