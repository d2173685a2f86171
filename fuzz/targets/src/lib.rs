//! The fuzz targets: one function for each decoder of bytes from outside.
//!
//! Each takes any bytes and panics if a promise of the decoder is broken: it must not panic
//! itself, must not believe a length, and what it accepts must survive being written and read
//! again. Where there is an oracle, both must agree.
//!
//! The functions have two callers. `fuzz/run` builds them into libFuzzer with a nightly compiler,
//! which searches by coverage and grows a corpus. The test `smoke` of this package mutates the
//! corpus that is kept, for a few seconds each, with whatever compiler there is; it is part of
//! `tests/run`. `tests/run --fuzz` gives each a minute, by the better way that there is.
//!
//! From outside is what the other host sends (frames, messages, pages, QEMU's return path), what
//! the processes beside it say (the agent and its client, QEMU's monitor), and what users write
//! (calls to the daemon, requests on the control socket, traces, values of options).

mod block;
mod fingerprint_index;
mod qemu;
mod rpc;
mod user;
mod v3;
mod values;
mod wire;
mod xbzrle;

pub use block::{block_decode, block_encode, lz4_decode};
pub use fingerprint_index::fingerprint_index;
pub use pagelift_transports::key_records;
pub use qemu::{monitor_line, ramblock_listing, return_path};
pub use rpc::rpc_stream;
pub use user::{control_request, trace};
pub use v3::{domain_xml, migration_cookie, migration_params};
pub use values::option_value;
pub use wire::{agent_message, frame_reader, hello, message, pages_body};
pub use xbzrle::{xbzrle_decode, xbzrle_encode};

/// A function to be fuzzed and its name, which also is that of its corpus and its fuzzer.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name.
    pub name: &'static str,
    /// The function; panics if a promise is broken.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 22] = [
    Target {
        name: "agent_message",
        run: agent_message,
    },
    Target {
        name: "block_decode",
        run: block_decode,
    },
    Target {
        name: "block_encode",
        run: block_encode,
    },
    Target {
        name: "fingerprint_index",
        run: fingerprint_index,
    },
    Target {
        name: "control_request",
        run: control_request,
    },
    Target {
        name: "frame_reader",
        run: frame_reader,
    },
    Target {
        name: "hello",
        run: hello,
    },
    Target {
        name: "key_records",
        run: key_records,
    },
    Target {
        name: "lz4_decode",
        run: lz4_decode,
    },
    Target {
        name: "message",
        run: message,
    },
    Target {
        name: "monitor_line",
        run: monitor_line,
    },
    Target {
        name: "option_value",
        run: option_value,
    },
    Target {
        name: "pages_body",
        run: pages_body,
    },
    Target {
        name: "ramblock_listing",
        run: ramblock_listing,
    },
    Target {
        name: "return_path",
        run: return_path,
    },
    Target {
        name: "rpc_stream",
        run: rpc_stream,
    },
    Target {
        name: "trace",
        run: trace,
    },
    Target {
        name: "xbzrle_decode",
        run: xbzrle_decode,
    },
    Target {
        name: "xbzrle_encode",
        run: xbzrle_encode,
    },
    Target {
        name: "domain_xml",
        run: domain_xml,
    },
    Target {
        name: "migration_cookie",
        run: migration_cookie,
    },
    Target {
        name: "migration_params",
        run: migration_params,
    },
];
