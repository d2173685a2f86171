//! A migration that is done call by call, as a client that keeps to no order would.

use std::time::Instant;

use pagelift_rpc::calls::{
    BeginParamsArgs, ConfirmParamsArgs, DomainLookupByName, FinishParamsArgs, MigrateBegin3Params,
    MigrateConfirm3Params, MigrateFinish3Params, MigratePerform3Params, MigratePrepare3Params,
    PerformParamsArgs, PrepareParamsArgs,
};
use pagelift_rpc::error::Error;
use pagelift_rpc::params::{Params, TypedParam};
use pagelift_rpc::types::Domain;
use pagelift_rpc::xdr::Opaque;
use pagelift_tests::PATIENCE;

use super::{Client, Daemon, guest_xml, parts};

pub(crate) const PROTECTED_LIVE: u32 = 0x101;
pub(crate) const LIVE: u32 = 0x1;
const PROTECTED: u32 = 0x100;

/// One that cannot be asked by others.
pub(crate) fn mute(number: u8) -> Daemon {
    Daemon::start(&config(number))
}

pub(crate) fn daemon(number: u8) -> Daemon {
    let uri = "uri = \"qemu+unix:///system?socket=@DIR@/run/pageliftd-sock\"\n";
    Daemon::start(&(config(number) + uri))
}

pub(crate) fn config(number: u8) -> String {
    format!(
        "[host]\nname = \"host{number}\"\nuuid = \"{number}1111111-1111-4111-8111-111111111111\"\n\
         [migration]\naddress = \"127.0.0.1\"\nlisten = \"127.0.0.1\"\n"
    )
}

/// A migration of g1, and how far it is.
#[derive(Debug)]
pub(crate) struct Move {
    pub(crate) a: Daemon,
    pub(crate) b: Daemon,
    pub(crate) source: Client,
    pub(crate) target: Client,
    pub(crate) guest: Domain,
    pub(crate) xml: String,
    pub(crate) cookie: Vec<u8>,
    pub(crate) uri: String,
    /// Of Begin and Perform; the target is not told of the protection.
    pub(crate) flags: u32,
}

pub(crate) fn params(all: &[(&str, &str)]) -> Params {
    let all: Vec<_> = all
        .iter()
        .map(|(name, value)| TypedParam::new(*name, *value))
        .collect();
    all.try_into().unwrap()
}

impl Move {
    /// After Begin.
    pub(crate) fn begun() -> Self {
        Self::begun_between(daemon(1), daemon(2), PROTECTED_LIVE)
    }

    pub(crate) fn begun_between(a: Daemon, b: Daemon, flags: u32) -> Self {
        Self::begun_with(a, b, flags, &guest_xml("g1", 1))
    }

    pub(crate) fn begun_with(a: Daemon, b: Daemon, flags: u32, xml: &str) -> Self {
        let mut source = Client::open(&a);
        source
            .call::<pagelift_rpc::calls::DomainDefineXml>(&xml.to_owned())
            .unwrap();
        let guest = source.call::<DomainLookupByName>(&"g1".into()).unwrap();
        source
            .call::<pagelift_rpc::calls::DomainCreate>(&guest)
            .unwrap();
        let guest = source.call::<DomainLookupByName>(&"g1".into()).unwrap();
        let target = Client::open(&b);
        let mut this = Self {
            a,
            b,
            source,
            target,
            guest,
            xml: String::new(),
            cookie: Vec::new(),
            uri: String::new(),
            flags,
        };
        this.begin().unwrap();
        this
    }

    pub(crate) fn begin(&mut self) -> Result<(), Error> {
        let begun = self.source.call::<MigrateBegin3Params>(&BeginParamsArgs {
            domain: self.guest.clone(),
            params: params(&[]),
            flags: self.flags,
        })?;
        (self.xml, self.cookie) = (begun.xml, begun.cookie.0);
        Ok(())
    }

    pub(crate) fn prepare(&mut self) -> Result<(), Error> {
        let prepared = self
            .target
            .call::<MigratePrepare3Params>(&PrepareParamsArgs {
                params: params(&[("destination_xml", &self.xml)]),
                cookie: Opaque(self.cookie.clone()),
                flags: self.flags & !PROTECTED,
            })?;
        (self.uri, self.cookie) = (prepared.uri.unwrap(), prepared.cookie.0);
        Ok(())
    }

    /// After Prepare.
    pub(crate) fn prepared() -> Self {
        let mut this = Self::begun();
        this.prepare().unwrap();
        this
    }

    pub(crate) fn perform(&mut self, uri: &str, cookie: Vec<u8>) -> Result<Vec<u8>, Error> {
        let all = [("destination_xml", &*self.xml), ("migrate_uri", uri)];
        let all = if uri.is_empty() { &all[..1] } else { &all };
        let performed = self
            .source
            .call::<MigratePerform3Params>(&PerformParamsArgs {
                domain: self.guest.clone(),
                destination: None,
                params: params(all),
                cookie: Opaque(cookie),
                flags: self.flags,
            });
        performed.map(|cookie| cookie.0)
    }

    /// After Perform.
    pub(crate) fn performed() -> Self {
        Self::prepared().then_performed()
    }

    pub(crate) fn then_performed(mut self) -> Self {
        let (uri, cookie) = (self.uri.clone(), self.cookie.clone());
        self.cookie = self.perform(&uri, cookie).unwrap();
        assert_eq!(self.states(), ("paused (migrating)", "paused (migrating)"));
        self
    }

    pub(crate) fn finish(&mut self, cookie: Vec<u8>, cancelled: bool) -> Result<Vec<u8>, Error> {
        let finished = self.target.call::<MigrateFinish3Params>(&FinishParamsArgs {
            params: params(&[("destination_name", "g1")]),
            cookie: Opaque(cookie),
            flags: self.flags & !PROTECTED,
            cancelled: cancelled.into(),
        });
        finished.map(|reply| reply.cookie.0)
    }

    /// After Finish.
    pub(crate) fn finished() -> Self {
        Self::performed().then_finished()
    }

    pub(crate) fn then_finished(mut self) -> Self {
        let cookie = self.cookie.clone();
        self.cookie = self.finish(cookie, false).unwrap();
        assert_eq!(self.states(), ("paused (migrating)", "running (migrated)"));
        self
    }

    pub(crate) fn confirm(&mut self, cookie: Vec<u8>, cancelled: bool) -> Result<(), Error> {
        self.source
            .call::<MigrateConfirm3Params>(&ConfirmParamsArgs {
                domain: self.guest.clone(),
                params: params(&[]),
                cookie: Opaque(cookie),
                flags: PROTECTED_LIVE,
                cancelled: cancelled.into(),
            })
    }

    pub(crate) fn states(&self) -> (&'static str, &'static str) {
        (state(&self.a), state(&self.b))
    }

    /// Waits until the guest is where it is to be.
    pub(crate) fn ends(&self, source: &str, target: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.states() != (source, target) {
            let (a, b) = (self.a.log(), self.b.log());
            assert!(Instant::now() < deadline, "{:?}\n{a}\n{b}", self.states());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let runs =
            |state: &str| usize::from(!state.starts_with("none") && !state.starts_with("shut"));
        assert_eq!(self.a.qemus().len(), runs(source));
        assert_eq!(self.b.qemus().len(), runs(target));
    }

    /// The client's connections end.
    pub(crate) fn client_is_lost(&mut self) {
        self.source = Client::open(&self.a);
        self.target = Client::open(&self.b);
    }
}

/// What virsh would say of g1.
pub(crate) fn state(daemon: &Daemon) -> &'static str {
    let mut client = Client::open(daemon);
    let Ok(domain) = client.call::<DomainLookupByName>(&"g1".into()) else {
        return "none";
    };
    let args = pagelift_rpc::calls::DomainFlagsArgs { domain, flags: 0 };
    let Ok(state) = client.call::<pagelift_rpc::calls::DomainGetState>(&args) else {
        return "none";
    };
    match (state.state, state.reason) {
        (1, 1) => "running (booted)",
        (1, 2) => "running (migrated)",
        (1, 6) => "running (migration canceled)",
        (3, 2) => "paused (migrating)",
        (5, 4) => "shut off (migrated)",
        (5, _) => "shut off",
        other => panic!("{other:?}"),
    }
}

pub(crate) const STAYS: &str = "running (migration canceled)";
pub(crate) const MOVED: (&str, &str) = ("shut off (migrated)", "running (migrated)");

pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> (i32, i32) {
    let error = result.unwrap_err();
    (parts(&error).0, parts(&error).1)
}
