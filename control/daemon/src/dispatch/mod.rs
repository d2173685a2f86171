//! From a message to what answers it: the procedure's function, and the rights that it needs.

mod connection;
mod domain;
mod events;

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use pagelift_rpc::calls::{Close, Procedure, SupportsFeature, feature};
use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};
use pagelift_rpc::message::{Header, Kind, Message, PROGRAM_VERSION, REMOTE_PROGRAM, Status};
use pagelift_rpc::xdr::{Input, Malformed, Xdr};

use crate::daemon::Daemon;
use crate::session::Session;

/// What a client must be for a procedure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Connected. Such a procedure never waits.
    Connection,
    /// With a driver that is open.
    Open,
    /// With a driver that is open, and not only for looking; the name is what clients know the
    /// function by.
    Write(&'static str),
}

/// A call that is being answered.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The daemon.
    pub daemon: &'a Arc<Daemon>,
    /// The connection that it came over.
    pub session: &'a Arc<Session>,
    /// The header of the call.
    pub header: &'a Header,
}

/// The result of a procedure.
pub type Answer<T> = Result<T, Error>;

type Run = Box<dyn Fn(Caller<'_>, &[u8]) -> Answer<Vec<u8>> + Send + Sync>;

struct Entry {
    needs: Needs,
    run: Run,
}

/// What a call was answered with.
#[derive(Debug)]
pub(crate) struct Handled {
    /// For the client.
    pub(crate) answer: Message,
    /// Whether the connection ends with it.
    pub(crate) close: bool,
}

/// The procedures that there are.
pub struct Dispatcher {
    entries: HashMap<i32, Entry>,
}

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.entries.keys()).finish()
    }
}

impl Dispatcher {
    /// All of the daemon's.
    pub(crate) fn new() -> Self {
        let mut dispatcher = Self {
            entries: HashMap::new(),
        };
        connection::add(&mut dispatcher);
        domain::add(&mut dispatcher);
        events::add(&mut dispatcher);
        crate::migrate::calls::add(&mut dispatcher);
        dispatcher
    }

    /// `P` is answered by `run`, for clients that are what it needs.
    pub(crate) fn on<P: Procedure>(
        &mut self,
        needs: Needs,
        run: fn(Caller<'_>, P::Args) -> Answer<P::Reply>,
    ) {
        let run: Run = Box::new(move |caller, body| {
            let args = P::Args::take(&mut Input::new(body)).map_err(|_| undecodable())?;
            let reply = run(caller, args)?;
            let mut out = Vec::new();
            reply.put(&mut out);
            Ok(out)
        });
        let before = self.entries.insert(P::NUMBER, Entry { needs, run });
        debug_assert!(before.is_none(), "procedure {} twice", P::NUMBER);
    }

    /// Whether the call never waits for anything.
    pub(crate) fn is_quick(&self, header: &Header) -> bool {
        let entry = self.entries.get(&header.procedure);
        entry.is_none_or(|entry| entry.needs == Needs::Connection)
    }

    /// Answers a call.
    pub(crate) fn handle(
        &self,
        daemon: &Arc<Daemon>,
        session: &Arc<Session>,
        call: &Message,
    ) -> Handled {
        let header = &call.header;
        let caller = Caller {
            daemon,
            session,
            header,
        };
        match self.run(caller, &call.body) {
            Ok(body) => {
                let mut answer = Message::reply(header, &());
                answer.body = body;
                let close = header.procedure == Close::NUMBER;
                Handled { answer, close }
            }
            Err(error) => Handled {
                answer: Message::failure(header, &error),
                close: false,
            },
        }
    }

    fn run(&self, caller: Caller<'_>, body: &[u8]) -> Answer<Vec<u8>> {
        let Header {
            program,
            version,
            procedure,
            kind,
            status,
            ..
        } = *caller.header;
        if (program, version) != (REMOTE_PROGRAM, PROGRAM_VERSION) {
            return Err(rpc(format!(
                "Cannot find program {program} version {version}"
            )));
        }
        if status != Status::Ok {
            let status = status.number();
            return Err(rpc(format!("Unexpected message status {status}")));
        }
        let Some(entry) = self.entries.get(&procedure) else {
            return Err(rpc(format!("unknown procedure: {procedure}")));
        };
        let body = match kind {
            Kind::CallWithFds => without_descriptors(body)?,
            _ => body,
        };
        match entry.needs {
            Needs::Connection => {}
            Needs::Open | Needs::Write(_) if !caller.session.is_open() => return Err(not_open()),
            Needs::Write(function) if caller.session.is_read_only() => {
                let detail = format!("read only access prevents {function}");
                let domain = ErrorDomain::DomainConfig;
                return Err(Error::new(ErrorCode::OperationDenied, domain, detail));
            }
            Needs::Open | Needs::Write(_) => {}
        }
        // A mistake of ours costs the call, and not the connection or the daemon.
        let run = AssertUnwindSafe(|| (entry.run)(caller, body));
        catch_unwind(run).unwrap_or_else(|_| {
            let detail = format!("procedure {procedure} failed unexpectedly; see the daemon's log");
            Err(Error::new(
                ErrorCode::InternalError,
                ErrorDomain::Rpc,
                detail,
            ))
        })
    }
}

/// The arguments of a call that comes with no descriptor after all; none is taken here.
fn without_descriptors(body: &[u8]) -> Answer<&[u8]> {
    let mut input = Input::new(body);
    match u32::take(&mut input) {
        Ok(0) => Ok(input.rest()),
        Ok(count) => Err(rpc(format!("{count} file descriptors are not taken here"))),
        Err(Malformed::Short | _) => Err(undecodable()),
    }
}

/// Whether the client asks for keepalive, and so can answer when it is asked itself.
pub(crate) fn asks_for_keepalive(call: &Message) -> bool {
    call.header.program == REMOTE_PROGRAM
        && call.header.procedure == SupportsFeature::NUMBER
        && call.decode() == Ok(feature::KEEPALIVE)
}

fn rpc(detail: impl Into<String>) -> Error {
    Error::new(ErrorCode::Rpc, ErrorDomain::Rpc, detail)
}

fn undecodable() -> Error {
    rpc("Unable to decode message payload")
}

/// A call needs a driver, and none is open.
fn not_open() -> Error {
    let detail = "hypervisor connection not open";
    Error::new(ErrorCode::InternalError, ErrorDomain::Rpc, detail)
}
