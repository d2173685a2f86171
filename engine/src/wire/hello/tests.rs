//! Handshakes that read back, grow, and are damaged.

use proptest::prelude::*;

use super::*;
use crate::memory::Reach;

fn file(hash: u128, reach: Reach) -> FileIdentity {
    let hash = hash << 100;
    FileIdentity { hash, reach }
}

fn hello() -> Hello {
    let region = |name: &str, pages| Region {
        name: name.into(),
        pages: PageCount(pages),
        backing_page: ByteCount(4096),
    };
    Hello {
        versions: (OLDEST_VERSION, VERSION),
        session: SessionId(0x1234 << 100),
        channels: 2,
        verify: true,
        dedup: Some(1000),
        layout: Layout::new(vec![region("pc.ram", 7), region("dimm0", 9)]).unwrap(),
        properties: vec![
            GuestProperty::new("machine type", "pc-q35-10.0"),
            GuestProperty::detail("device 02.0", ["e1000", "mac=52:54:00:12:34:56"]),
        ],
        files: vec![file(1, Reach::Kernel), file(2, Reach::Wider)],
        persistent: vec![("nv0".into(), file(3, Reach::Wider))],
        needs: Encodings::none(),
    }
}

#[test]
fn a_handshake_reads_back_as_written() {
    assert_eq!(Hello::decode(&hello().encode()), Ok(hello()));
    let without = Hello {
        dedup: None,
        ..hello()
    };
    assert_eq!(Hello::decode(&without.encode()), Ok(without));
    let terms = DedupTerms {
        nonce: 5 << 100,
        base_pages: 99,
    };
    for dedup in [None, Some(terms)] {
        let accept = Accept {
            version: VERSION,
            reads: Encodings::readable(),
            dedup,
        };
        assert_eq!(Accept::decode(&accept.encode()), Ok(accept));
    }
    let needs = Hello {
        needs: Encodings::readable().beyond(Encodings::BASIC),
        ..hello()
    };
    assert_eq!(Hello::decode(&needs.encode()), Ok(needs));
    let refuse = Refuse {
        reasons: vec!["one".into(), "two".into()],
    };
    assert_eq!(Refuse::decode(&refuse.encode()), Ok(refuse));
    for proof in [None, Some([7; 32])] {
        let session = SessionId(9);
        let join = Join {
            session,
            channel: 3,
            proof,
        };
        assert_eq!(Join::decode(&join.encode()), Ok(join));
        let reattach = Reattach { session, proof };
        let mut body = Vec::new();
        reattach.encode_into(&mut body);
        assert_eq!(Reattach::decode(&body), Ok(reattach));
        body.push(0);
        assert!(Reattach::decode(&body).is_err());
    }
}

#[test]
fn a_newer_peer_may_add_optional_fields_but_not_mandatory_ones() {
    let mut body = hello().encode();
    fields::put(&mut body, 0x70 | fields::OPTIONAL, |out| {
        out.extend_from_slice(b"new");
    });
    assert_eq!(Hello::decode(&body), Ok(hello()));
    fields::put(&mut body, 0x70, |out| {
        out.extend_from_slice(b"new");
    });
    let error = WireError::UnknownField {
        message: "hello",
        tag: 0x70,
    };
    assert_eq!(Hello::decode(&body), Err(error));
}

#[test]
fn a_target_that_does_not_say_what_it_reads_reads_the_basic_encodings() {
    let mut body = Vec::new();
    fields::put(&mut body, tag::VERSIONS, |out| {
        out.extend_from_slice(&VERSION.to_le_bytes());
    });
    assert_eq!(Accept::decode(&body).unwrap().reads, Encodings::BASIC);
}

#[test]
fn the_newest_common_version_is_chosen() {
    let speaks = |versions| {
        Hello {
            versions,
            ..hello()
        }
        .common_version()
    };
    assert_eq!(speaks((1, 9)), Some(VERSION));
    assert_eq!(speaks((VERSION + 1, VERSION + 2)), None);
}

proptest! {
    #[test]
    fn no_input_panics(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Hello::decode(&body);
        let _ = Accept::decode(&body);
        let _ = Refuse::decode(&body);
        let _ = Join::decode(&body);
        let _ = Reattach::decode(&body);
    }

    #[test]
    fn a_damaged_hello_never_panics(at in 0usize..150, to in any::<u8>()) {
        let mut body = hello().encode();
        let index = at % body.len();
        body[index] = to;
        let _ = Hello::decode(&body);
    }
}
