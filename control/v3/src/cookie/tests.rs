//! Cookies that two libvirtds 11.3 were seen to exchange, and what a target requires of one.

use super::*;

const SOURCE: Uuid = Uuid([
    0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x41, 0x11, 0x81, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11,
]);
const TARGET: Uuid = Uuid([
    0x22, 0x22, 0x22, 0x22, 0x22, 0x22, 0x42, 0x22, 0x82, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22,
]);

macro_rules! recorded {
    ($($phase:ident: $($name:literal)*;)*) => {
        &[$($((Phase::$phase, $name, include_bytes!(concat!("../../tests/data/cookies/", $name, ".xml"))),)*)*]
    };
}

const RECORDED: &[(Phase, &str, &[u8])] = recorded! {
    Prepare: "live-a" "persistent-a" "storage-a" "xbzrle-a" "offline-a" "postcopy-a";
    Perform: "live-b" "persistent-b" "storage-b" "xbzrle-b" "postcopy-b";
    Finish: "live-c" "persistent-c" "storage-c" "xbzrle-c" "postcopy-c";
    Confirm: "live-d" "persistent-d" "storage-d" "xbzrle-d" "offline-d" "postcopy-d";
};

fn arrival(phase: Phase) -> Arrival<'static> {
    let own_host = match phase {
        Phase::Prepare | Phase::Finish => TARGET,
        Phase::Perform | Phase::Confirm => SOURCE,
    };
    let uuid = "aaaaaaaa-0000-4000-8000-000000000001".parse().unwrap();
    Arrival {
        phase,
        name: "g1",
        uuid,
        own_host,
        offline: false,
    }
}

fn recorded(name: &str) -> (Phase, &'static [u8]) {
    let (phase, _, bytes) = RECORDED.iter().find(|(_, n, _)| *n == name).unwrap();
    (*phase, bytes)
}

/// A recorded cookie with a text in it replaced, as it arrives in Prepare.
fn prepare(from: &str, to: &str) -> Result<Option<Cookie>, (i32, i32, String)> {
    let (phase, bytes) = recorded("live-a");
    let text = std::str::from_utf8(bytes).unwrap();
    assert!(text.contains(from), "{from}");
    Cookie::decode(text.replace(from, to).as_bytes(), &arrival(phase))
        .map_err(|e| (e.code.number(), e.domain.number(), e.message().to_owned()))
}

fn internal(words: &str) -> (i32, i32, String) {
    (1, 10, format!("internal error: {words}"))
}

#[test]
fn recorded_cookies_come_out_as_they_went_in() {
    for (phase, name, bytes) in RECORDED {
        let cookie = Cookie::decode(bytes, &arrival(*phase)).unwrap().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        assert_eq!(text(&cookie.encode()), text(bytes), "{name}");
    }
}

#[test]
fn what_is_in_a_cookie_is_understood() {
    let read = |name| {
        let (phase, bytes) = recorded(name);
        Cookie::decode(bytes, &arrival(phase)).unwrap().unwrap()
    };
    let a = read("live-a");
    assert_eq!(
        (a.identity.hostname.as_str(), a.identity.hostuuid),
        ("src", SOURCE)
    );
    assert_eq!(a.features, [Feature::Lockstate]);
    assert_eq!(a.cpu.unwrap().features.len(), 2);
    let auto = |cookie: &Cookie| {
        let auto = cookie.capabilities.iter().filter(|c| c.auto);
        auto.map(|c| c.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(a.capabilities.len(), 13);
    assert_eq!(auto(&read("live-a")), ["pause-before-switchover"]);
    assert_eq!(auto(&read("live-b")), ["late-block-activate"]);
    let nbd = Nbd {
        port: Some(49153),
        disks: vec![("vda".into(), 16_777_216)],
    };
    assert_eq!(read("storage-b").nbd, Some(nbd));
    let c = read("persistent-c");
    assert_eq!(c.persistent.unwrap().name, "g1");
    assert_eq!(c.statistics.unwrap().get("memory_page_size"), Some(4096));
    assert_eq!(
        read("xbzrle-c")
            .statistics
            .unwrap()
            .get("compression_cache"),
        Some(67_108_864)
    );
}

#[test]
fn the_target_completes_the_sources_numbers() {
    let (phase, bytes) = recorded("live-c");
    let c = Cookie::decode(bytes, &arrival(phase))
        .unwrap()
        .unwrap()
        .statistics
        .unwrap();
    let (phase, bytes) = recorded("live-d");
    let d = Cookie::decode(bytes, &arrival(phase))
        .unwrap()
        .unwrap()
        .statistics
        .unwrap();
    let sent = c.get("sent").unwrap();
    let completed = c.completed_on_target(sent + 4);
    for name in ["time_elapsed", "downtime", "sent", "memory_total"] {
        assert_eq!(completed.get(name), d.get(name), "{name}");
    }
    let earlier = c.completed_on_target(sent - 1000);
    assert_eq!(
        earlier.get("downtime"),
        c.get("downtime"),
        "clocks may differ"
    );
}

#[test]
fn an_extension_goes_along_and_is_passed_over() {
    let (phase, bytes) = recorded("live-a");
    let mut cookie = Cookie::decode(bytes, &arrival(phase)).unwrap().unwrap();
    cookie.extension = Some(Extension {
        id: Some(Uuid([3; 16])),
        engines: vec![Engine::Direct, Engine::Native],
        token: Some(Uuid([4; 16])),
        ask: Some("qemu+tcp://src/system".into()),
    });
    let encoded = cookie.encode();
    assert_eq!(Cookie::decode(&encoded, &arrival(phase)), Ok(Some(cookie)));
    let later = String::from_utf8(encoded)
        .unwrap()
        .replace("'direct'", "'teleport'");
    let read = Cookie::decode(later.as_bytes(), &arrival(phase))
        .unwrap()
        .unwrap();
    assert_eq!(read.extension.unwrap().engines, [Engine::Native]);
}

// What a target requires of a cookie, and the words of a libvirtd 11.3.

#[test]
fn identity_alone_is_enough() {
    let text = "<qemu-migration><name>g1</name><uuid>aaaaaaaa-0000-4000-8000-000000000001</uuid>\
                <hostname>src</hostname><hostuuid>11111111-1111-4111-8111-111111111111</hostuuid>\
                </qemu-migration>\0";
    assert!(
        Cookie::decode(text.as_bytes(), &arrival(Phase::Prepare))
            .unwrap()
            .is_some()
    );
}

#[test]
fn an_unknown_capability_is_taken() {
    let cookie = prepare(
        "<cap name='xbzrle' auto='no'/>",
        "<cap name='frob' auto='yes'/>",
    );
    assert_eq!(cookie.unwrap().unwrap().capabilities[0].name, "frob");
}

/// A libvirtd 11.3 dies of it.
#[test]
fn nothing_is_refused_where_something_has_to_be() {
    for phase in [Phase::Prepare, Phase::Perform] {
        let error = Cookie::decode(b"", &arrival(phase)).unwrap_err();
        assert_eq!((error.code.number(), error.domain.number()), (8, 10));
    }
    for phase in [Phase::Finish, Phase::Confirm] {
        assert_eq!(Cookie::decode(b"", &arrival(phase)), Ok(None));
    }
    let offline = Arrival {
        offline: true,
        ..arrival(Phase::Prepare)
    };
    assert_eq!(Cookie::decode(b"", &offline), Ok(None));
}

#[test]
fn a_missing_terminator_is_refused() {
    let refused = prepare("\0", "").unwrap_err();
    assert_eq!(
        refused,
        internal("Migration cookie was not NULL terminated")
    );
}

#[test]
fn what_is_no_xml_is_refused() {
    for bytes in [&b"junk\0"[..], b"\0", b"<a>\0", b"\xff\xfe\0"] {
        let error = Cookie::decode(bytes, &arrival(Phase::Prepare)).unwrap_err();
        assert_eq!(
            (error.code.number(), error.domain.number()),
            (35, 10),
            "{bytes:?}"
        );
    }
}

#[test]
fn a_cookie_without_identity_is_refused() {
    let missing = |what| internal(&format!("missing {what} element in migration data"));
    let root = Cookie::decode(b"<other/>\0", &arrival(Phase::Prepare)).unwrap_err();
    assert_eq!(root.message(), missing("name").2);
    assert_eq!(prepare("<name>g1</name>", "").unwrap_err(), missing("name"));
    let host = "<hostuuid>11111111-1111-4111-8111-111111111111</hostuuid>";
    assert_eq!(prepare(host, "").unwrap_err(), missing("hostuuid"));
}

#[test]
fn a_cookie_of_another_guest_is_refused() {
    assert_eq!(
        prepare("<name>g1<", "<name>zz<").unwrap_err(),
        internal("Incoming cookie data had unexpected name zz vs g1")
    );
    assert_eq!(
        prepare("<uuid>aaaaaaaa", "<uuid>baaaaaaa").unwrap_err(),
        internal(
            "Incoming cookie data had unexpected UUID baaaaaaa-0000-4000-8000-000000000001 vs \
             aaaaaaaa-0000-4000-8000-000000000001"
        )
    );
}

#[test]
fn a_cookie_of_this_very_host_is_refused() {
    let own = "22222222-2222-4222-8222-222222222222";
    assert_eq!(
        prepare("11111111-1111-4111-8111-111111111111", own).unwrap_err(),
        internal(&format!("Attempt to migrate guest to the same host {own}"))
    );
}

#[test]
fn features_that_this_side_does_not_have_are_refused() {
    assert_eq!(
        prepare("name='lockstate'", "name='frob'").unwrap_err(),
        internal("Unknown migration cookie feature frob")
    );
    assert_eq!(
        prepare("name='lockstate'", "name='persistent'").unwrap_err(),
        internal("Unsupported migration cookie feature persistent")
    );
    let driver = "<feature name='lockstate'/><lockstate driver='sanlock'/>";
    let refused = prepare("<feature name='lockstate'/>", driver).unwrap_err();
    assert_eq!(refused.0, 1, "{}", refused.2);
}

#[test]
fn two_descriptions_are_refused() {
    let (phase, bytes) = recorded("persistent-c");
    let text = std::str::from_utf8(bytes).unwrap();
    let doubled = text.replace("</domain>", "</domain><domain/>");
    let error = Cookie::decode(doubled.as_bytes(), &arrival(phase)).unwrap_err();
    assert_eq!(error.code.number(), 1, "{error}");
}
