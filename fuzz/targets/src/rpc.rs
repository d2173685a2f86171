//! Messages of libvirt's RPC: framing, headers, arguments and replies of all procedures.

use pagelift_rpc::calls::recode_body;
use pagelift_rpc::frame::FrameReader;
use pagelift_rpc::message::{MAX_MESSAGE_BYTES, Message};

/// A stream of messages: what decodes, encodes; and what was encoded, decodes to the same.
pub fn rpc_stream(data: &[u8]) {
    let mut reader = FrameReader::default();
    reader.push(data);
    let mut messages: Vec<Message> = Vec::new();
    let end = loop {
        match reader.next_message() {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    assert_eq!(reader.next_message().err(), end, "the end is final");
    let mut again = FrameReader::default();
    for message in &messages {
        again.push(&message.encode().expect("it was not too long"));
        assert_eq!(again.next_message().as_ref(), Ok(&Some(message.clone())));
        let Some(Ok(body)) = recode_body(message) else {
            continue;
        };
        // Padding may hold anything, and strings may have NULs, but only once.
        assert!(body.len() <= MAX_MESSAGE_BYTES);
        let header = message.header;
        let message = Message { header, body };
        assert_eq!(recode_body(&message), Some(Ok(message.body.clone())));
    }
}
