//! libibverbs and librdmacm, loaded when they are first needed.
//!
//! A program that is linked with them does not start where they are missing. Most machines have no RDMA,
//! and need not have its libraries.

#![allow(
    unsafe_code,
    reason = "functions of a library that is loaded at run time"
)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::io;
use std::sync::OnceLock;

use super::abi::{
    CmEvent, CmId, CompletionChannel, ConnectionParameters, Context, Cq, DeviceAttributes,
    EventChannel, Mr, Pd, QpAttributes,
};

macro_rules! library {
    ($($from:ident: $name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions that are used.
        pub(super) struct Library {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Library {
            fn load() -> Result<Self, String> {
                let verbs = open(c"libibverbs.so.1")?;
                let cm = open(c"librdmacm.so.1")?;
                Ok(Self {
                    $($name: {
                        let name = concat!(stringify!($name), "\0");
                        let from = library!(@ $from verbs cm);
                        let symbol = symbol(from, name)?;
                        // SAFETY: the function has this type in the headers of the library, and its
                        // versions keep it.
                        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>(symbol) }
                    },)*
                })
            }
        }
    };
    (@ verbs $verbs:ident $cm:ident) => { $verbs };
    (@ cm $verbs:ident $cm:ident) => { $cm };
}

library! {
    verbs: ibv_query_device(*mut Context, *mut DeviceAttributes) -> c_int;
    verbs: ibv_get_device_name(*mut c_void) -> *const c_char;
    verbs: ibv_alloc_pd(*mut Context) -> *mut Pd;
    verbs: ibv_reg_mr(*mut Pd, *mut c_void, usize, c_int) -> *mut Mr;
    verbs: ibv_dereg_mr(*mut Mr) -> c_int;
    verbs: ibv_create_comp_channel(*mut Context) -> *mut CompletionChannel;
    verbs: ibv_destroy_comp_channel(*mut CompletionChannel) -> c_int;
    verbs: ibv_create_cq(*mut Context, c_int, *mut c_void, *mut CompletionChannel, c_int) -> *mut Cq;
    verbs: ibv_destroy_cq(*mut Cq) -> c_int;
    verbs: ibv_get_cq_event(*mut CompletionChannel, *mut *mut Cq, *mut *mut c_void) -> c_int;
    verbs: ibv_ack_cq_events(*mut Cq, c_uint);
    cm: rdma_create_event_channel() -> *mut EventChannel;
    cm: rdma_destroy_event_channel(*mut EventChannel);
    cm: rdma_create_id(*mut EventChannel, *mut *mut CmId, *mut c_void, c_uint) -> c_int;
    cm: rdma_destroy_id(*mut CmId) -> c_int;
    cm: rdma_bind_addr(*mut CmId, *mut libc::sockaddr) -> c_int;
    cm: rdma_listen(*mut CmId, c_int) -> c_int;
    cm: rdma_get_src_port(*mut CmId) -> u16;
    cm: rdma_resolve_addr(*mut CmId, *mut libc::sockaddr, *mut libc::sockaddr, c_int) -> c_int;
    cm: rdma_resolve_route(*mut CmId, c_int) -> c_int;
    cm: rdma_set_option(*mut CmId, c_int, c_int, *mut c_void, usize) -> c_int;
    cm: rdma_create_qp(*mut CmId, *mut Pd, *mut QpAttributes) -> c_int;
    cm: rdma_destroy_qp(*mut CmId);
    cm: rdma_connect(*mut CmId, *mut ConnectionParameters) -> c_int;
    cm: rdma_accept(*mut CmId, *mut ConnectionParameters) -> c_int;
    cm: rdma_reject(*mut CmId, *const c_void, u8) -> c_int;
    cm: rdma_disconnect(*mut CmId) -> c_int;
    cm: rdma_get_cm_event(*mut EventChannel, *mut *mut CmEvent) -> c_int;
    cm: rdma_ack_cm_event(*mut CmEvent) -> c_int;
}

/// The libraries.
///
/// # Errors
/// When they are not installed, or too old.
pub(super) fn library() -> io::Result<&'static Library> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    LIBRARY.get_or_init(Library::load).as_ref().map_err(|why| {
        let advice = "install libibverbs1, librdmacm1 and ibverbs-providers (Debian), or rdma-core";
        io::Error::new(
            io::ErrorKind::Unsupported,
            format!("RDMA needs its libraries: {why}; {advice}"),
        )
    })
}

fn open(name: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: the name is a C string. The constructors of this library may run at any time.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    match handle.is_null() {
        true => Err(last_error()),
        false => Ok(handle),
    }
}

fn symbol(library: *mut c_void, name: &str) -> Result<*mut c_void, String> {
    // SAFETY: the handle is of dlopen and never closed; the name ends in a 0.
    let symbol = unsafe { libc::dlsym(library, name.as_ptr().cast()) };
    match symbol.is_null() {
        true => Err(last_error()),
        false => Ok(symbol),
    }
}

fn last_error() -> String {
    // SAFETY: what dlerror gives is a C string until the next call of this thread, or nothing.
    unsafe {
        let text = libc::dlerror();
        match text.is_null() {
            true => "they cannot be loaded".into(),
            false => CStr::from_ptr(text).to_string_lossy().into_owned(),
        }
    }
}
