//! What libibverbs and librdmacm are called with: their structures and numbers, as far as they are used
//! (`infiniband/verbs.h` and `rdma/rdma_cma.h`, rdma-core; the same since IBVERBS_1.1 and RDMACM_1.0).
//!
//! The calls of the data path are not symbols: a device's provider puts them into the context.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// An opened device. Only its calls are looked at.
#[repr(C)]
pub(super) struct Context {
    device: *mut c_void,
    /// Calls that the library keeps for old programs, and rarely used ones.
    unused: [*mut c_void; 11],
    pub(super) poll_cq: unsafe extern "C" fn(*mut Cq, c_int, *mut WorkCompletion) -> c_int,
    pub(super) req_notify_cq: unsafe extern "C" fn(*mut Cq, c_int) -> c_int,
    unused_after_cq: [*mut c_void; 12],
    pub(super) post_send:
        unsafe extern "C" fn(*mut Qp, *const SendRequest, *mut *const SendRequest) -> c_int,
    pub(super) post_recv:
        unsafe extern "C" fn(*mut Qp, *const ReceiveRequest, *mut *const ReceiveRequest) -> c_int,
}

/// A protection domain: keys work only inside of it.
#[repr(C)]
pub(super) struct Pd {
    _private: [u8; 0],
}

/// A completion queue.
#[repr(C)]
pub(super) struct Cq {
    pub(super) context: *mut Context,
}

/// Tells of completions through a descriptor.
#[repr(C)]
pub(super) struct CompletionChannel {
    context: *mut Context,
    pub(super) fd: c_int,
}

/// A queue pair.
#[repr(C)]
pub(super) struct Qp {
    pub(super) context: *mut Context,
}

/// Registered memory.
#[repr(C)]
pub(super) struct Mr {
    context: *mut Context,
    pd: *mut Pd,
    pub(super) address: *mut c_void,
    pub(super) length: usize,
    handle: u32,
    pub(super) local_key: u32,
    pub(super) remote_key: u32,
}

/// A piece of registered memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ScatterGather {
    pub(super) address: u64,
    pub(super) length: u32,
    pub(super) local_key: u32,
}

/// Something to be sent or written.
#[repr(C)]
pub(super) struct SendRequest {
    pub(super) id: u64,
    pub(super) next: *const Self,
    pub(super) pieces: *const ScatterGather,
    pub(super) piece_count: c_int,
    pub(super) opcode: c_uint,
    pub(super) flags: c_uint,
    /// In network byte order.
    pub(super) immediate: u32,
    pub(super) remote_address: u64,
    pub(super) remote_key: u32,
    /// Members for other kinds of queue pairs and other requests.
    pub(super) unused: [u64; 9],
}

/// Memory for something to be received.
#[repr(C)]
pub(super) struct ReceiveRequest {
    pub(super) id: u64,
    pub(super) next: *const Self,
    pub(super) pieces: *const ScatterGather,
    pub(super) piece_count: c_int,
}

/// What became of a request.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct WorkCompletion {
    pub(super) id: u64,
    pub(super) status: c_uint,
    /// Valid where the status is [`SUCCESS`].
    pub(super) opcode: c_uint,
    vendor_error: u32,
    pub(super) byte_len: u32,
    /// In network byte order.
    pub(super) immediate: u32,
    qp_number: u32,
    source_qp: u32,
    flags: c_uint,
    pkey_index: u16,
    source_lid: u16,
    service_level: u8,
    path_bits: u8,
}

/// How a queue pair is to be.
#[repr(C)]
pub(super) struct QpAttributes {
    pub(super) context: *mut c_void,
    pub(super) send_cq: *mut Cq,
    pub(super) receive_cq: *mut Cq,
    pub(super) shared_receive_queue: *mut c_void,
    pub(super) max_send_requests: u32,
    pub(super) max_receive_requests: u32,
    pub(super) max_send_pieces: u32,
    pub(super) max_receive_pieces: u32,
    pub(super) max_inline_bytes: u32,
    pub(super) kind: c_uint,
    pub(super) signal_all: c_int,
}

/// What a device can do.
#[repr(C)]
pub(super) struct DeviceAttributes {
    firmware: [c_char; 64],
    guids: [u64; 2],
    pub(super) max_mr_size: u64,
    page_sizes: u64,
    ids: [u32; 3],
    max_qp: c_int,
    pub(super) max_qp_requests: c_int,
    capabilities: c_uint,
    max_pieces: [c_int; 2],
    max_cq: c_int,
    pub(super) max_cq_entries: c_int,
    pub(super) max_mr: c_int,
    rest: [u32; 23],
}

/// Where the connection manager's events come.
#[repr(C)]
pub(super) struct EventChannel {
    pub(super) fd: c_int,
}

/// A connection, or what listens for some.
#[repr(C)]
pub(super) struct CmId {
    pub(super) context: *mut Context,
    channel: *mut EventChannel,
    user: *mut c_void,
    pub(super) qp: *mut Qp,
}

/// How to connect, or to accept.
#[repr(C)]
pub(super) struct ConnectionParameters {
    pub(super) private_data: *const c_void,
    pub(super) private_data_len: u8,
    pub(super) responder_resources: u8,
    pub(super) initiator_depth: u8,
    pub(super) flow_control: u8,
    pub(super) retry_count: u8,
    pub(super) rnr_retry_count: u8,
    pub(super) shared_receive_queue: u8,
    pub(super) qp_number: u32,
}

/// Something that happened to a connection.
#[repr(C)]
pub(super) struct CmEvent {
    pub(super) id: *mut CmId,
    pub(super) listener: *mut CmId,
    pub(super) kind: c_uint,
    pub(super) status: c_int,
    pub(super) parameters: ConnectionParameters,
}

// On 64-bit machines, as the headers of rdma-core 44 have them.
const _: () = {
    assert!(std::mem::offset_of!(Context, poll_cq) == 96);
    assert!(std::mem::offset_of!(Context, post_send) == 208);
    assert!(size_of::<WorkCompletion>() == 48 && size_of::<SendRequest>() == 128);
    assert!(size_of::<ReceiveRequest>() == 32 && size_of::<QpAttributes>() == 64);
    assert!(std::mem::offset_of!(SendRequest, remote_key) == 48);
    assert!(size_of::<DeviceAttributes>() == 232);
    assert!(std::mem::offset_of!(DeviceAttributes, max_mr) == 136);
    assert!(std::mem::offset_of!(Mr, remote_key) == 40);
    assert!(std::mem::offset_of!(CmId, qp) == 24);
    assert!(std::mem::offset_of!(CmEvent, parameters) == 24);
};

/// `IBV_ACCESS_*`.
pub(super) const ACCESS_LOCAL_WRITE: c_int = 1;
pub(super) const ACCESS_REMOTE_WRITE: c_int = 2;
/// `IBV_QPT_RC`: connected, reliable and in order.
pub(super) const QP_RELIABLE_CONNECTED: c_uint = 2;
/// `IBV_WR_*`.
pub(super) const WRITE: c_uint = 0;
pub(super) const SEND: c_uint = 2;
pub(super) const SEND_WITH_IMMEDIATE: c_uint = 3;
/// `IBV_SEND_SIGNALED`.
pub(super) const SIGNALED: c_uint = 2;
/// `IBV_WC_RECV`: a bit of the opcode of all that was received.
pub(super) const RECEIVED: c_uint = 128;
/// `IBV_WC_*`, a status.
pub(super) const SUCCESS: c_uint = 0;
pub(super) const FLUSHED: c_uint = 5;
pub(super) const REMOTE_ACCESS_ERROR: c_uint = 10;
pub(super) const RETRY_EXCEEDED: c_uint = 12;
pub(super) const NOT_READY_RETRY_EXCEEDED: c_uint = 13;
/// `RDMA_PS_TCP`.
pub(super) const PORT_SPACE: c_uint = 0x106;
/// `RDMA_OPTION_ID` and `RDMA_OPTION_ID_ACK_TIMEOUT`.
pub(super) const OPTION_ID: c_int = 0;
pub(super) const OPTION_ACK_TIMEOUT: c_int = 3;
/// `RDMA_CM_EVENT_*`.
pub(super) const ADDRESS_RESOLVED: c_uint = 0;
pub(super) const ADDRESS_ERROR: c_uint = 1;
pub(super) const ROUTE_RESOLVED: c_uint = 2;
pub(super) const ROUTE_ERROR: c_uint = 3;
pub(super) const CONNECT_REQUEST: c_uint = 4;
pub(super) const REJECTED: c_uint = 8;
pub(super) const ESTABLISHED: c_uint = 9;
