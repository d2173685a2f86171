//! Requests to a queue pair.

#![allow(unsafe_code, reason = "calls of libibverbs")]

use std::io;

use super::abi::{
    FLUSHED, NOT_READY_RETRY_EXCEEDED, REMOTE_ACCESS_ERROR, RETRY_EXCEEDED, ReceiveRequest, SEND,
    SEND_WITH_IMMEDIATE, SIGNALED, ScatterGather, SendRequest, WRITE,
};
use super::connection::Connected;

impl Connected {
    /// Has the next message put into `len` bytes at `address`, which are registered with `key`.
    ///
    /// # Errors
    /// When the connection is lost.
    ///
    /// # Safety
    /// Nobody may look at them before it is done.
    pub(in super::super) unsafe fn receive(
        &mut self,
        id: u64,
        address: u64,
        len: u32,
        key: u32,
    ) -> io::Result<()> {
        let piece = ScatterGather {
            address,
            length: len,
            local_key: key,
        };
        let request = ReceiveRequest {
            id,
            next: std::ptr::null(),
            pieces: &raw const piece,
            piece_count: i32::from(len > 0),
        };
        let mut bad = std::ptr::null();
        // SAFETY: the queue pair is there, its context has the call, and the request is only read.
        let status = unsafe {
            let qp = (*self.id).qp;
            ((*(*qp).context).post_recv)(qp, &raw const request, &raw mut bad)
        };
        posted(status)
    }

    /// Has the next message taken, if it is one without bytes.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(in super::super) fn receive_number(&mut self, id: u64) -> io::Result<()> {
        // SAFETY: there is no memory.
        unsafe { self.receive(id, 0, 0, 0) }
    }

    /// Sends a message without bytes, but with a number.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(in super::super) fn send_number(&mut self, id: u64, number: u32) -> io::Result<()> {
        let mut request = request(id, SEND_WITH_IMMEDIATE, SIGNALED, std::ptr::null());
        request.immediate = number.to_be();
        self.post(&request)
    }

    /// Sends the `len` bytes at `address`, which are registered with `key`.
    ///
    /// # Errors
    /// When the connection is lost.
    ///
    /// # Safety
    /// They must not change before it is done.
    pub(in super::super) unsafe fn send(
        &mut self,
        id: u64,
        address: u64,
        len: u32,
        key: u32,
    ) -> io::Result<()> {
        let piece = ScatterGather {
            address,
            length: len,
            local_key: key,
        };
        self.post(&request(id, SEND, SIGNALED, &raw const piece))
    }

    /// Writes the `len` bytes at `address`, which are registered with `key`, to the other side's memory.
    /// It is only told that this is done where it is `signaled`.
    ///
    /// # Errors
    /// When the connection is lost.
    ///
    /// # Safety
    /// As for [`send`](Self::send).
    pub(in super::super) unsafe fn write(
        &mut self,
        id: u64,
        (address, len, key): (u64, u32, u32),
        (remote_address, remote_key): (u64, u32),
        signaled: bool,
    ) -> io::Result<()> {
        let piece = ScatterGather {
            address,
            length: len,
            local_key: key,
        };
        let flags = if signaled { SIGNALED } else { 0 };
        let mut request = request(id, WRITE, flags, &raw const piece);
        request.remote_address = remote_address;
        request.remote_key = remote_key;
        self.post(&request)
    }

    fn post(&mut self, request: &SendRequest) -> io::Result<()> {
        self.wake.check()?;
        let mut bad = std::ptr::null();
        // SAFETY: the queue pair is there, its context has the call, and the request is only read.
        let status = unsafe {
            let qp = (*self.id).qp;
            ((*(*qp).context).post_send)(qp, &raw const *request, &raw mut bad)
        };
        posted(status)
    }
}

fn request(id: u64, opcode: u32, flags: u32, piece: *const ScatterGather) -> SendRequest {
    SendRequest {
        id,
        next: std::ptr::null(),
        pieces: piece,
        piece_count: i32::from(!piece.is_null()),
        opcode,
        flags,
        immediate: 0,
        remote_address: 0,
        remote_key: 0,
        unused: [0; 9],
    }
}

/// The error of a call that gives an error number.
pub(super) fn posted(status: i32) -> io::Result<()> {
    match status {
        0 => Ok(()),
        status => Err(io::Error::from_raw_os_error(status)),
    }
}

/// Why a request was not done.
pub(super) fn failure(status: u32) -> io::Error {
    let (kind, text) = match status {
        REMOTE_ACCESS_ERROR => (
            io::ErrorKind::PermissionDenied,
            "the other side has not made this memory accessible, or not any more (remote access error)",
        ),
        RETRY_EXCEEDED => (
            io::ErrorKind::NotConnected,
            "the other side does not answer (retries exceeded); is its link up?",
        ),
        NOT_READY_RETRY_EXCEEDED => (
            io::ErrorKind::NotConnected,
            "the other side takes no messages (receiver not ready)",
        ),
        FLUSHED => (
            io::ErrorKind::ConnectionReset,
            "the RDMA connection has ended",
        ),
        _ => (io::ErrorKind::Other, "an RDMA request has failed"),
    };
    io::Error::new(kind, format!("{text} (completion status {status})"))
}
