//! The format, byte by byte, and its refusal of everything malformed.

use pagelift_agent_protocol::{
    AgentInfo, DecodeError, ErrorCode, ErrorReply, FEATURE_ROLLBACK, HEADER_BYTES, Header,
    LEASE_MS, Lease, LentUserfaultfd, MAX_COMMAND_BYTES, MAX_ERROR_TEXT_BYTES, MAX_PAYLOAD_BYTES,
    MAX_THREADS, PERIOD_US, Reply, Request, RollbackScript, ThreadShare, ThrottleRequest,
    socket_name,
};

fn split(bytes: &[u8]) -> (Header, &[u8]) {
    let (header, payload) = bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
    let header = Header::decode(header).unwrap();
    assert_eq!(header.payload_bytes, payload.len());
    (header, payload)
}

fn rollback_script() -> RollbackScript {
    RollbackScript::new(
        b"/run/q".to_vec(),
        vec![r#"{"execute":"cont"}"#.into(), "{}".into()],
    )
    .unwrap()
}

fn share(tid: u32, stopped_permille: u16) -> ThreadShare {
    ThreadShare {
        tid,
        stopped_permille,
    }
}

fn throttle(threads: Vec<ThreadShare>) -> Result<ThrottleRequest, DecodeError> {
    ThrottleRequest::new(threads, 5_000, Lease::new(300).unwrap())
}

fn requests() -> Vec<Request> {
    vec![
        Request::Hello,
        Request::GetUserfaultfd,
        Request::SetRollback(rollback_script()),
        Request::ClearRollback,
        Request::Throttle(throttle(vec![share(7, 0), share(u32::MAX, 990)]).unwrap()),
        Request::Throttle(ThrottleRequest::none()),
        Request::Renew(Lease::new(10).unwrap()),
    ]
}

fn replies() -> Vec<Reply> {
    vec![
        Reply::Hello(AgentInfo {
            version: 1,
            pid: 4711,
            features: FEATURE_ROLLBACK | 1 << 63,
        }),
        Reply::Userfaultfd(LentUserfaultfd {
            user_mode_only: true,
        }),
        Reply::Userfaultfd(LentUserfaultfd {
            user_mode_only: false,
        }),
        Reply::RollbackSet,
        Reply::RollbackCleared,
        Reply::Throttled,
        Reply::Renewed,
        Reply::Error(ErrorReply {
            code: ErrorCode::Busy,
            text: "busy: pid 7 is using it".into(),
        }),
        Reply::Error(ErrorReply {
            code: ErrorCode::Other(900),
            text: String::new(),
        }),
    ]
}

#[test]
fn messages_have_the_documented_bytes() {
    assert_eq!(
        Request::Hello.encode(),
        b"PLAG\x01\x00\x01\x00\x00\x00\x00\x00"
    );
    assert_eq!(
        Request::SetRollback(RollbackScript::new(b"/q".to_vec(), vec!["{}".into()]).unwrap())
            .encode(),
        b"PLAG\x01\x00\x03\x00\x0c\x00\x00\x00\x02\x00/q\x01\x00\x02\x00\x00\x00{}"
    );
    assert_eq!(
        Reply::Hello(AgentInfo {
            version: 1,
            pid: 0x0102_0304,
            features: 3
        })
        .encode(),
        b"PLAG\x01\x00\x01\x80\x10\x00\x00\x00\
          \x01\x00\x00\x00\x04\x03\x02\x01\x03\x00\x00\x00\x00\x00\x00\x00"
    );
    let error = Reply::Error(ErrorReply {
        code: ErrorCode::UnknownRequest,
        text: "no".into(),
    });
    assert_eq!(
        error.encode(),
        b"PLAG\x01\x00\xff\xff\x04\x00\x00\x00\x03\x00no"
    );
    assert_eq!(
        Request::Throttle(throttle(vec![share(0x0102, 990)]).unwrap()).encode(),
        b"PLAG\x01\x00\x05\x00\x10\x00\x00\x00\
          \x88\x13\x00\x00\x2c\x01\x00\x00\x01\x00\x02\x01\x00\x00\xde\x03"
    );
    assert_eq!(
        Request::Renew(Lease::new(300).unwrap()).encode(),
        b"PLAG\x01\x00\x06\x00\x04\x00\x00\x00\x2c\x01\x00\x00"
    );
    assert_eq!(socket_name(42), "pagelift-agent-42");
}

#[test]
fn every_message_survives_the_way_there_and_back() {
    for request in requests() {
        let bytes = request.encode();
        let (header, payload) = split(&bytes);
        assert_eq!(Request::decode(header.kind, payload), Ok(request));
    }
    for reply in replies() {
        let bytes = reply.encode();
        let (header, payload) = split(&bytes);
        assert_eq!(Reply::decode(header.kind, payload), Ok(reply));
    }
}

#[test]
fn a_payload_cut_anywhere_or_too_long_is_refused() {
    for request in requests() {
        let bytes = request.encode();
        let (header, payload) = split(&bytes);
        for end in 0..payload.len() {
            assert!(Request::decode(header.kind, &payload[..end]).is_err());
        }
        let longer = [payload, &[0]].concat();
        let refused = Request::decode(header.kind, &longer);
        assert_eq!(refused, Err(DecodeError::TrailingBytes(1)));
    }
    for reply in replies() {
        if matches!(reply, Reply::Error(_)) {
            continue; // Its text has no length of its own: any cut of it is a shorter text.
        }
        let bytes = reply.encode();
        let (header, payload) = split(&bytes);
        for end in 0..payload.len() {
            let cut = Reply::decode(header.kind, &payload[..end]);
            assert_eq!(cut, Err(DecodeError::Truncated));
        }
        let longer = [payload, &[0]].concat();
        assert!(Reply::decode(header.kind, &longer).is_err());
    }
    assert_eq!(
        Reply::decode(0xffff, &[1]),
        Err(DecodeError::Truncated),
        "an error without its code"
    );
}

#[test]
fn a_header_of_another_protocol_version_or_size_is_refused() {
    let good: [u8; HEADER_BYTES] = Request::Hello.encode().try_into().unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = good;
        bytes[at] = byte;
        Header::decode(&bytes)
    };
    assert_eq!(with(0, b'Q'), Err(DecodeError::Magic(0x4741_4c51)));
    assert_eq!(with(4, 2), Err(DecodeError::Version(2)));
    let cap = u32::try_from(MAX_PAYLOAD_BYTES).unwrap();
    let mut bytes = good;
    bytes[8..].copy_from_slice(&cap.to_le_bytes());
    assert_eq!(
        Header::decode(&bytes).unwrap().payload_bytes,
        MAX_PAYLOAD_BYTES
    );
    bytes[8..].copy_from_slice(&(cap + 1).to_le_bytes());
    assert_eq!(
        Header::decode(&bytes),
        Err(DecodeError::PayloadTooLong(cap + 1))
    );
    bytes[8..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(
        Header::decode(&bytes),
        Err(DecodeError::PayloadTooLong(u32::MAX))
    );
}

#[test]
fn types_of_the_other_direction_and_of_the_future_are_unknown() {
    for kind in [0, 7, 0x7fff, 0x8001, 0xffff] {
        let refused = Request::decode(kind, &[]);
        assert_eq!(refused, Err(DecodeError::UnknownType(kind)));
    }
    for kind in [0, 1, 4, 0x8000, 0x8007] {
        let refused = Reply::decode(kind, &[]);
        assert_eq!(refused, Err(DecodeError::UnknownType(kind)));
    }
}

#[test]
fn a_rollback_script_keeps_its_limits_in_both_directions() {
    let one = || vec!["{}".to_owned()];
    let refused =
        |path: &[u8], commands: Vec<String>| RollbackScript::new(path.to_vec(), commands).is_err();
    assert!(refused(b"", one()));
    assert!(refused(&[b'/'; 108], one()));
    assert!(!refused(&[b'/'; 107], one()));
    assert!(refused(b"run/q", one()), "relative to whose folder?");
    assert!(refused(b"/q\0", one()));
    assert!(refused(b"/q", vec![]));
    assert!(refused(b"/q", vec![String::new()]));
    assert!(refused(b"/q", vec!["{}\n{}".into()]));
    assert!(refused(b"/q", vec!["{}".into(); 65]));
    assert!(refused(b"/q", vec!["x".repeat(MAX_COMMAND_BYTES + 1)]));
    assert!(
        refused(b"/q", vec!["x".repeat(MAX_COMMAND_BYTES); 4]),
        "the sum exceeds the cap"
    );
    assert!(!refused(b"/q", vec!["x".repeat(MAX_COMMAND_BYTES); 3]));

    // The same rules hold for bytes that no `RollbackScript` produced.
    for payload in [
        &b"\x00\x00\x01\x00\x02\x00\x00\x00{}"[..], // no path
        b"\x02\x00/q\x00\x00",                      // no command
        b"\x02\x00/q\x01\x00\x00\x00\x00\x00",      // an empty command
        b"\x02\x00/q\x01\x00\x01\x00\x00\x00\xff",  // not UTF-8
        b"\x02\x00/q\x01\x00\x01\x00\x00\x00\n",    // a line break
        b"\x02\x00/q\xff\xff\x01\x00\x00\x00x",     // more commands announced than there are
        b"\x02\x00/q\x01\x00\xff\xff\xff\xffx",     // a longer command than there is
    ] {
        assert!(Request::decode(3, payload).is_err(), "{payload:?}");
    }
}

#[test]
fn a_throttle_keeps_its_limits_in_both_directions() {
    let lease = Lease::new(*LEASE_MS.end()).unwrap();
    assert!(Lease::new(LEASE_MS.start() - 1).is_err());
    assert!(Lease::new(LEASE_MS.end() + 1).is_err());
    let of_period = |period_us| ThrottleRequest::new(vec![share(1, 1)], period_us, lease);
    assert!(of_period(PERIOD_US.start() - 1).is_err());
    assert!(of_period(PERIOD_US.end() + 1).is_err());
    assert!(of_period(*PERIOD_US.start()).is_ok());
    assert!(of_period(*PERIOD_US.end()).is_ok());
    assert!(throttle(vec![share(1, 991)]).is_err());
    assert!(
        throttle(vec![share(0, 1)]).is_err(),
        "no thread has the id 0"
    );
    assert!(throttle(vec![share(3, 1), share(4, 2), share(3, 1)]).is_err());
    let many = |count: usize| (1..).take(count).map(|tid| share(tid, 1)).collect();
    assert!(throttle(many(MAX_THREADS)).is_ok());
    assert!(throttle(many(MAX_THREADS + 1)).is_err());

    assert_eq!(throttle(vec![]), Ok(ThrottleRequest::none()));
    let released = b"\x01\x02\x03\x04\x05\x06\x07\x08\x00\x00";
    assert_eq!(
        Request::decode(5, released),
        Ok(Request::Throttle(ThrottleRequest::none())),
        "period and lease of a release mean nothing"
    );
    for payload in [
        &b"\xf3\x01\x00\x00\x64\x00\x00\x00\x01\x00\x01\x00\x00\x00\x01\x00"[..], // 499 us
        b"\xe8\x03\x00\x00\x09\x00\x00\x00\x01\x00\x01\x00\x00\x00\x01\x00",      // 9 ms
        b"\xe8\x03\x00\x00\x64\x00\x00\x00\x01\x00\x01\x00\x00\x00\xdf\x03",      // 991
        b"\xe8\x03\x00\x00\x64\x00\x00\x00\x01\x00\x00\x00\x00\x00\x01\x00",      // id 0
        b"\xe8\x03\x00\x00\x64\x00\x00\x00\xff\xff\x01\x00\x00\x00\x01\x00",      // too few
    ] {
        assert!(Request::decode(5, payload).is_err(), "{payload:?}");
    }
    assert!(Request::decode(6, b"\x00\x00\x00\x00").is_err());
}

#[test]
fn a_long_error_text_is_cut_at_a_character() {
    let text = "\u{e9}".repeat(MAX_ERROR_TEXT_BYTES); // Two bytes each, at an odd offset:
    let reply = Reply::Error(ErrorReply {
        code: ErrorCode::Malformed,
        text: format!("x{text}"),
    });
    let bytes = reply.encode();
    let (header, payload) = split(&bytes);
    let Ok(Reply::Error(decoded)) = Reply::decode(header.kind, payload) else {
        panic!("an error reply");
    };
    assert_eq!(decoded.text.len(), MAX_ERROR_TEXT_BYTES - 1);
}
