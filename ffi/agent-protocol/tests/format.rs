//! The format, byte by byte, and its refusal of everything malformed.

use pagelift_agent_protocol::{
    AgentInfo, DecodeError, ErrorCode, ErrorReply, FEATURE_ROLLBACK, HEADER_BYTES, Header,
    HoldLease, JournalEntry, JournalPhase, LEASE_MS, Lease, LentUserfaultfd, MAX_ERROR_TEXT_BYTES,
    MAX_PAYLOAD_BYTES, MAX_STEPS, MAX_THREADS, Name, PERIOD_US, ParameterValue, RecordRequest,
    Reply, Request, RollbackScript, RollbackStep, ThreadShare, ThrottleRequest, VERSION,
};

fn split(bytes: &[u8]) -> (Header, &[u8]) {
    let (header, payload) = bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
    let header = Header::decode(header).unwrap();
    assert_eq!(header.payload_bytes, payload.len());
    (header, payload)
}

fn rollback_script() -> RollbackScript {
    RollbackScript::new(b"/run/q".to_vec(), all_steps()).unwrap()
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn all_steps() -> Vec<RollbackStep> {
    let values = [
        ParameterValue::Number(u64::MAX),
        ParameterValue::Flag(true),
        ParameterValue::Text(r#"a"b\"#.into()),
    ];
    let parameters = values.map(|value| (name("p-1"), value)).to_vec();
    vec![
        RollbackStep::CancelMigration,
        RollbackStep::Continue,
        RollbackStep::SetCapabilities(vec![(name("events"), false), (name("x"), true)]),
        RollbackStep::SetParameters(parameters),
        RollbackStep::DirectDisk(name("#block1.a_b")),
        RollbackStep::Quit,
    ]
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
        Request::Hold(HoldLease::new(5500).unwrap()),
        Request::Record(
            RecordRequest::new(1 << 100, JournalPhase::Prepared, b"/q".to_vec()).unwrap(),
        ),
        Request::Record(RecordRequest::new(7, JournalPhase::HandedOver, Vec::new()).unwrap()),
        Request::GetJournal,
    ]
}

fn replies() -> Vec<Reply> {
    vec![
        Reply::Hello(AgentInfo {
            version: VERSION,
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
        Reply::Held,
        Reply::Recorded,
        Reply::Journal(None),
        Reply::Journal(Some(JournalEntry {
            session: 1 << 100 | 3,
            phase: JournalPhase::Released,
            age_ms: 12,
        })),
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
        b"PLAG\x02\x00\x01\x00\x00\x00\x00\x00"
    );
    assert_eq!(
        Request::SetRollback(RollbackScript::new(b"/q".to_vec(), all_steps()).unwrap()).encode(),
        [
            &b"PLAG\x02\x00\x03\x00\x42\x00\x00\x00\x02\x00/q\x06\x00\x01\x02"[..],
            b"\x03\x02\x06events\x00\x01x\x01",
            b"\x04\x03\x03p-1\x01\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x03p-1\x02\x01\x03p-1\x03\x04a\"b\\",
            b"\x05\x0b#block1.a_b\x06",
        ]
        .concat()
    );
    assert_eq!(
        Reply::Hello(AgentInfo {
            version: VERSION,
            pid: 0x0102_0304,
            features: 3
        })
        .encode(),
        b"PLAG\x02\x00\x01\x80\x10\x00\x00\x00\
          \x02\x00\x00\x00\x04\x03\x02\x01\x03\x00\x00\x00\x00\x00\x00\x00"
    );
    let error = Reply::Error(ErrorReply {
        code: ErrorCode::UnknownRequest,
        text: "no".into(),
    });
    assert_eq!(
        error.encode(),
        b"PLAG\x02\x00\xff\xff\x04\x00\x00\x00\x03\x00no"
    );
    assert_eq!(
        Request::Throttle(throttle(vec![share(0x0102, 990)]).unwrap()).encode(),
        b"PLAG\x02\x00\x05\x00\x10\x00\x00\x00\
          \x88\x13\x00\x00\x2c\x01\x00\x00\x01\x00\x02\x01\x00\x00\xde\x03"
    );
    assert_eq!(
        Request::Renew(Lease::new(300).unwrap()).encode(),
        b"PLAG\x02\x00\x06\x00\x04\x00\x00\x00\x2c\x01\x00\x00"
    );
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
    assert_eq!(with(4, 1), Err(DecodeError::Version(1)));
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
    let one = || vec![RollbackStep::Continue];
    let refused =
        |path: &[u8], steps: Vec<RollbackStep>| RollbackScript::new(path.to_vec(), steps).is_err();
    assert!(refused(b"", one()));
    assert!(refused(&[b'/'; 108], one()));
    assert!(!refused(&[b'/'; 107], one()));
    assert!(refused(b"run/q", one()), "relative to whose folder?");
    assert!(refused(b"/q\0", one()));
    assert!(refused(b"/q", vec![]));
    assert!(!refused(b"/q", vec![RollbackStep::Continue; MAX_STEPS]));
    assert!(refused(b"/q", vec![RollbackStep::Continue; MAX_STEPS + 1]));
    let flags = |count: usize| RollbackStep::SetCapabilities(vec![(name("x"), true); count]);
    assert!(refused(b"/q", vec![flags(0)]));
    assert!(!refused(b"/q", vec![flags(255)]));
    assert!(refused(b"/q", vec![flags(256)]));
    let text = |text: &str| {
        let value = ParameterValue::Text(text.into());
        vec![RollbackStep::SetParameters(vec![(name("x"), value)])]
    };
    assert!(!refused(b"/q", text(&"x".repeat(255))));
    assert!(refused(b"/q", text(&"x".repeat(256))));
    assert!(refused(b"/q", text("a\nb")));
    let long = RollbackStep::SetCapabilities(vec![(name(&"x".repeat(64)), true); 255]);
    assert!(!refused(b"/q", vec![long.clone(); 3]));
    assert!(refused(b"/q", vec![long; 4]), "the sum exceeds the cap");

    // The same rules hold for bytes that no `RollbackScript` produced.
    for payload in [
        &b"\x00\x00\x01\x00\x02"[..],                   // no path
        b"\x02\x00/q\x00\x00",                          // no step
        b"\x02\x00/q\x01\x00\x07",                      // a step that does not exist
        b"\x02\x00/q\x01\x00\x05\x00",                  // a disk without a name
        b"\x02\x00/q\x01\x00\x05\x02a\x22",             // a quote in a name
        b"\x02\x00/q\x01\x00\x05\x02a ",                // a space in a name
        b"\x02\x00/q\x01\x00\x03\x01\x01a\x02",         // neither on nor off
        b"\x02\x00/q\x01\x00\x04\x01\x01a\x03\x01\xff", // not UTF-8
        b"\x02\x00/q\x01\x00\x04\x01\x01a\x03\x01\n",   // a line break
        b"\x02\x00/q\xff\xff\x02",                      // more steps announced than there are
    ] {
        assert!(Request::decode(3, payload).is_err(), "{payload:?}");
    }
}

#[test]
fn a_step_is_one_command_and_nothing_breaks_out_of_it() {
    let commands: Vec<String> = all_steps().iter().map(RollbackStep::command).collect();
    let expected = [
        r#"{"execute":"migrate_cancel"}"#,
        r#"{"execute":"cont"}"#,
        r#"{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"events","state":false},{"capability":"x","state":true}]}}"#,
        r#"{"execute":"migrate-set-parameters","arguments":{"p-1":18446744073709551615,"p-1":true,"p-1":"a\"b\\"}}"#,
        r##"{"execute":"human-monitor-command","arguments":{"command-line":"qemu-io #block1.a_b \"reopen -o cache.direct=on\""}}"##,
        r#"{"execute":"quit"}"#,
    ];
    assert_eq!(commands, expected);
    for text in [
        "",
        "a b",
        "a\"",
        "a\\",
        "a\n",
        "a;b",
        "\u{e9}",
        &"x".repeat(65),
    ] {
        assert!(Name::new(text).is_err(), "{text:?}");
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
