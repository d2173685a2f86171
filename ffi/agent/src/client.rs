//! One client of the agent: what it said, and what it holds.
//!
//! Messages are put together here, from reads that do not block.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use pagelift_agent_protocol::{
    AgentInfo, DecodeError, ErrorCode, ErrorReply, FEATURE_HOLD, FEATURE_JOURNAL, FEATURE_ROLLBACK,
    FEATURE_SHORT_PERIODS, FEATURE_THROTTLE, FEATURE_USERFAULTFD, FIRST_REQUEST_LIMIT,
    HEADER_BYTES, Header, HoldLease, JournalPhase, LentUserfaultfd, Reply, Request, VERSION,
};

use crate::journal::Journal;
use crate::rollback::Rollback;
use crate::throttle::ThreadThrottler;
use crate::{complain, fence, socket, userfault};

/// A connection and what was asked for over it.
pub(crate) struct Client {
    stream: UnixStream,
    pid: libc::pid_t,
    /// When the place is another's unless a request has come; `None` once one has.
    first_request_by: Option<Instant>,
    /// Bytes received and not yet made into a request: less than one message.
    received: Vec<u8>,
    rollback: Option<Rollback>,
    /// When the guest goes on without this client, which holds it still.
    held_until: Option<Instant>,
    throttler: ThreadThrottler,
}

/// The connection is over.
pub(crate) struct Gone;

impl Client {
    /// The client at the other end of `stream`, process `pid`.
    pub(crate) fn new(stream: UnixStream, pid: libc::pid_t) -> Self {
        Self {
            stream,
            pid,
            first_request_by: Some(Instant::now() + FIRST_REQUEST_LIMIT),
            received: Vec::new(),
            rollback: None,
            held_until: None,
            throttler: ThreadThrottler::default(),
        }
    }

    /// The connection.
    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The client's process.
    pub(crate) fn pid(&self) -> libc::pid_t {
        self.pid
    }

    /// How long [`end_what_is_over`](Self::end_what_is_over) need not be called.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let until = |limit: Instant| limit.saturating_duration_since(Instant::now());
        [
            self.first_request_by.map(until),
            self.held_until.map(until),
            self.throttler.time_left(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Releases what a client throttles that has not been heard of for too long.
    ///
    /// # Errors
    /// When the client has not said anything yet, and had the time, or has held the guest still for
    /// as long as it may: then it is cut off from QEMU.
    pub(crate) fn end_what_is_over(&mut self) -> Result<(), Gone> {
        if self.throttler.time_left() == Some(Duration::ZERO) {
            self.throttler.release();
            complain(format_args!(
                "the client, pid {}, is silent: the throttle's lease is over",
                self.pid
            ));
        }
        if self.is_lease_over() {
            self.cut_off();
            return Err(Gone);
        }
        match self.first_request_by {
            Some(limit) if limit <= Instant::now() => Err(Gone),
            _ => Ok(()),
        }
    }

    /// The connection has ended: releases what was throttled. What is left to be done.
    pub(crate) fn leave(self) -> Option<Rollback> {
        let Self {
            rollback,
            mut throttler,
            ..
        } = self;
        throttler.release();
        rollback
    }

    /// Reads what has come and answers it.
    ///
    /// # Errors
    /// When the connection is over, or breaks the format.
    pub(crate) fn hear(&mut self, own_pid: u32, journal: &mut Journal) -> Result<(), Gone> {
        let mut bytes = [0; 4096];
        // One read for one readiness: this does not block, and neither party starves.
        match (&self.stream).read(&mut bytes) {
            Ok(0) => return Err(Gone),
            Ok(count) => self.received.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(_) => return Err(Gone),
        }
        while let Some(request) = self.next_request()? {
            self.answer(request, own_pid, journal)?;
        }
        Ok(())
    }

    /// Cuts one message off the bytes received; `None` until it is complete.
    fn next_request(&mut self) -> Result<Option<Result<Request, DecodeError>>, Gone> {
        let Some((header, rest)) = self.received.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = match Header::decode(header) {
            Ok(header) => header,
            Err(error) => {
                // Where the next message begins is anybody's guess now.
                let _ = self.reply(&error_reply(&error), None);
                return Err(Gone);
            }
        };
        let Some(payload) = rest.get(..header.payload_bytes) else {
            return Ok(None);
        };
        let request = Request::decode(header.kind, payload);
        self.received.drain(..HEADER_BYTES + header.payload_bytes);
        self.first_request_by = None;
        Ok(Some(request))
    }

    fn answer(
        &mut self,
        request: Result<Request, DecodeError>,
        own_pid: u32,
        journal: &mut Journal,
    ) -> Result<(), Gone> {
        let reply = match request {
            Ok(Request::Hello) => Reply::Hello(AgentInfo {
                version: VERSION,
                pid: own_pid,
                features: FEATURE_USERFAULTFD
                    | FEATURE_ROLLBACK
                    | FEATURE_THROTTLE
                    | FEATURE_SHORT_PERIODS
                    | FEATURE_HOLD
                    | FEATURE_JOURNAL,
            }),
            Ok(Request::GetUserfaultfd) => return self.answer_userfaultfd(),
            Ok(Request::SetRollback(script)) => match Rollback::new(&script) {
                Ok(rollback) => {
                    self.rollback = Some(rollback);
                    Reply::RollbackSet
                }
                Err(text) => Reply::Error(ErrorReply {
                    code: ErrorCode::NoMonitor,
                    text,
                }),
            },
            Ok(Request::ClearRollback) => {
                self.let_go();
                Reply::RollbackCleared
            }
            Ok(Request::Throttle(throttle)) => match self.throttler.apply(&throttle) {
                Ok(()) => Reply::Throttled,
                Err(error) => Reply::Error(error),
            },
            Ok(Request::Renew(lease)) => match self.throttler.renew(lease) {
                Ok(()) => Reply::Renewed,
                Err(error) => Reply::Error(error),
            },
            Ok(Request::Hold(lease)) => self.hold(lease),
            // The bytes may have waited while all of QEMU stood still.
            Ok(Request::Record(record))
                if record.phase() == JournalPhase::HandedOver && self.is_lease_over() =>
            {
                self.cut_off();
                return Err(Gone);
            }
            Ok(Request::Record(record)) => match journal.record(&record) {
                Ok(()) => {
                    // In one step: from here on nothing lets the guest go on here, or ends what is
                    // to run it.
                    if matches!(
                        record.phase(),
                        JournalPhase::HandedOver | JournalPhase::Prepared
                    ) {
                        let rollback = self.rollback.take();
                        self.rollback = rollback.and_then(Rollback::of_settings);
                        self.held_until = None;
                    }
                    Reply::Recorded
                }
                Err(error) => Reply::Error(error),
            },
            Ok(Request::GetJournal) => Reply::Journal(journal.entry()),
            Err(error) => error_reply(&error),
        };
        self.reply(&reply, None)
    }

    /// Takes a lease on the guest's stop.
    fn hold(&mut self, lease: HoldLease) -> Reply {
        if self.rollback.is_none() {
            return Reply::Error(ErrorReply {
                code: ErrorCode::NoLease,
                text: "there is no rollback script that could let the guest go on".into(),
            });
        }
        self.held_until = Some(Instant::now() + Duration::from_millis(lease.millis().into()));
        Reply::Held
    }

    /// Whether the guest has stood still for as long as this client may hold it.
    fn is_lease_over(&self) -> bool {
        self.held_until.is_some_and(|end| end <= Instant::now())
    }

    /// Nothing is to be undone any more.
    fn let_go(&mut self) {
        self.rollback = None;
        self.held_until = None;
    }

    /// The client has held the guest still for as long as it may: it is told, and loses what it
    /// has of QEMU.
    fn cut_off(&mut self) {
        let pid = self.pid;
        complain(format_args!(
            "the client, pid {pid}, has held the guest still for too long: the guest goes on here"
        ));
        let text = "the guest stood still for as long as it may, and goes on here";
        let reply = Reply::Error(ErrorReply {
            code: ErrorCode::LeaseOver,
            text: text.into(),
        });
        let _ = self.reply(&reply, None);
        if let Some(rollback) = &self.rollback {
            fence::cut_off(pid, rollback.monitor());
        }
    }

    fn answer_userfaultfd(&self) -> Result<(), Gone> {
        match userfault::open() {
            Ok(userfault) => {
                let reply = Reply::Userfaultfd(LentUserfaultfd {
                    user_mode_only: userfault.is_user_mode_only,
                });
                // Our copy is closed on return: the client's is the last reference.
                self.reply(&reply, Some(&userfault))
            }
            Err(text) => {
                let code = ErrorCode::NoUserfaultfd;
                self.reply(&Reply::Error(ErrorReply { code, text }), None)
            }
        }
    }

    fn reply(&self, reply: &Reply, with: Option<&userfault::Userfault>) -> Result<(), Gone> {
        let fd = with.map(|userfault| userfault.fd.as_fd());
        socket::send(&self.stream, &reply.encode(), fd).map_err(|_| Gone)
    }
}

fn error_reply(error: &DecodeError) -> Reply {
    let code = match error {
        DecodeError::UnknownType(_) => ErrorCode::UnknownRequest,
        _ => ErrorCode::Malformed,
    };
    Reply::Error(ErrorReply {
        code,
        text: error.to_string(),
    })
}
