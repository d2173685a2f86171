//! Everybody who must not get in: each is refused with the reason, and the next one who may is served.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use pagelift_engine::transport::Listener;
use pagelift_transports::{AllowedPeer, Certificates, Endpoint, Security, Token};

use crate::authority::{Authority, Leaf, good, in_dir};
use crate::forwarder::socket_address;
use crate::guest::{Waiting, send};
use crate::pairs::{listen, meet, serve};

fn assert_says(what: &str, error: &io::Error, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{what}: no {word:?} in {text:?}");
    }
}

/// A source that is refused: both ends say why, and the listener then takes one that is all right.
fn refused(
    what: &str,
    listener: &dyn Listener,
    (source, good): (&Security, &Security),
    on_source: &[&str],
    on_target: &[&str],
) {
    let (connected, served) = meet(source, listener);
    assert_says(what, &connected.unwrap_err(), on_source);
    assert_says(what, &served.unwrap_err(), on_target);
    let (connected, served) = meet(good, listener);
    connected.unwrap();
    assert_eq!(served.unwrap(), b"hello", "{what}: the next one");
}

fn token() -> Security {
    Security::Token(Token::generate().unwrap())
}

#[test]
fn wrong_tokens_and_other_ways_to_be_known_are_refused() {
    let (right, wrong) = (token(), token());
    let listener = listen(&right);
    refused(
        "another token",
        &*listener,
        (&wrong, &right),
        &["the target refuses the token", "pagelift-receive"],
        &["the source does not have the token"],
    );
    let (_authority, dir) = good();
    let certificates = Security::Certificates(in_dir(&dir));
    refused(
        "certificates where a token is wanted",
        &*listener,
        (&certificates, &right),
        &["certificates", "the target probably a token"],
        &["a token", "the source probably certificates"],
    );
}

#[test]
fn certificates_that_are_not_in_order_are_refused_by_the_target() {
    let (authority, dir) = good();
    let good = Security::Certificates(in_dir(&dir));
    let target =
        |certificates: &Certificates| listen(&Security::Certificates(certificates.clone()));
    let with = |leaf: Leaf| authority.directory(leaf, Leaf::default());

    let stranger = Authority::new("stranger").directory(Leaf::default(), Leaf::default());
    // It trusts the target; the target does not trust it.
    authority.trusted_in(stranger.path());
    refused(
        "another authority",
        &*target(&in_dir(&dir)),
        (&Security::Certificates(in_dir(&stranger)), &good),
        &["the target refuses client-cert.pem", "ca-cert.pem"],
        &["source's certificate", "ca-cert.pem", "has signed it"],
    );
    let expired = with(Leaf {
        expired: true,
        ..Leaf::default()
    });
    refused(
        "expired",
        &*target(&in_dir(&dir)),
        (&Security::Certificates(in_dir(&expired)), &good),
        &["the target refuses client-cert.pem", "expired"],
        &["source's certificate", "expired"],
    );
    let pinned: AllowedPeer = fingerprint(&dir.path().join("client-cert.pem"))
        .parse()
        .unwrap();
    let other = with(Leaf {
        serial: 7,
        ..Leaf::default()
    });
    refused(
        "not pinned",
        &*target(&in_dir(&dir).allowed(vec![pinned])),
        (&Security::Certificates(in_dir(&other)), &good),
        &["the target refuses client-cert.pem"],
        &["source's certificate", "not among the peers", "sha256:"],
    );
    let elsewhere = with(Leaf {
        host: "other.example",
        serial: 8,
        ..Leaf::default()
    });
    let listed = vec![crate::authority::HOST.parse().unwrap()];
    refused(
        "not on the list of names",
        &*target(&in_dir(&dir).allowed(listed)),
        (&Security::Certificates(in_dir(&elsewhere)), &good),
        &["the target refuses client-cert.pem"],
        &["not among the peers"],
    );
    let revoked = with(Leaf {
        serial: 9,
        ..Leaf::default()
    });
    authority.revoke_in(dir.path(), 9);
    refused(
        "revoked",
        &*target(&in_dir(&dir)),
        (&Security::Certificates(in_dir(&revoked)), &good),
        &["the target refuses client-cert.pem", "revoked"],
        &["source's certificate", "revoked", "ca-crl.pem"],
    );
}

#[test]
fn certificates_that_are_not_in_order_are_refused_by_the_source() {
    let (authority, dir) = good();
    let good = Security::Certificates(in_dir(&dir));
    let with = |leaf: Leaf| authority.directory(Leaf::default(), leaf);
    let check = |what: &str, target: &Certificates, source: &Security, words: &[&str]| {
        let listener = listen(&Security::Certificates(target.clone()));
        let (connected, served) = meet(source, &*listener);
        assert_says(what, &connected.unwrap_err(), words);
        assert!(served.is_err(), "{what}");
    };

    let stranger = Authority::new("stranger").directory(Leaf::default(), Leaf::default());
    check(
        "another authority",
        &in_dir(&stranger),
        &good,
        &["target's certificate", "ca-cert.pem"],
    );
    let expired = with(Leaf {
        expired: true,
        ..Leaf::default()
    });
    check(
        "expired",
        &in_dir(&expired),
        &good,
        &["target's certificate", "expired"],
    );
    let elsewhere = with(Leaf {
        host: "other.example",
        ..Leaf::default()
    });
    let words = ["other.example", "127.0.0.1", "--tls-hostname"];
    check("another host", &in_dir(&elsewhere), &good, &words);
    let pinned = fingerprint(&dir.path().join("server-cert.pem"))
        .parse()
        .unwrap();
    let pinning = Security::Certificates(in_dir(&dir).allowed(vec![pinned]));
    let other = with(Leaf::default());
    check(
        "not pinned",
        &in_dir(&other),
        &pinning,
        &["target's certificate", "not among"],
    );
    let revoked = with(Leaf {
        serial: 9,
        ..Leaf::default()
    });
    authority.revoke_in(dir.path(), 9);
    check(
        "revoked",
        &in_dir(&revoked),
        &good,
        &["target's certificate", "revoked"],
    );

    // The name that the certificate is for can be given.
    let named = Security::Certificates(in_dir(&dir).host_name("other.example"));
    let listener = listen(&Security::Certificates(in_dir(&elsewhere)));
    let (connected, served) = meet(&named, &*listener);
    connected.unwrap();
    assert_eq!(served.unwrap(), b"hello");
}

#[test]
fn keys_that_others_may_read_are_refused() {
    let (_authority, dir) = good();
    let key = dir.path().join("server-key.pem");
    let any: Endpoint = "tcp://127.0.0.1:0".parse().unwrap();
    let security = Security::Certificates(in_dir(&dir));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let error = any.listen_with(&security).err().unwrap();
    assert_says("0644", &error, &["server-key.pem", "0644", "chmod 600"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    any.listen_with(&security).unwrap();
    fs::remove_file(&key).unwrap();
    let error = any.listen_with(&security).err().unwrap();
    assert_says("none", &error, &["server-key.pem", "No such file"]);
    fs::write(dir.path().join("ca-cert.pem"), "nothing").unwrap();
    let error = any.connect_with(&security).err().unwrap();
    assert_says(
        "no authority",
        &error,
        &["ca-cert.pem", "no certificate in it"],
    );
}

/// The first bytes of a client that speaks TLS 1.2 and nothing newer.
fn tls12_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    // No session; ECDHE-ECDSA with AES-128-GCM; no compression.
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    // P-256, uncompressed points, ECDSA with SHA-256.
    let extensions = [
        0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 4, 3,
    ];
    body.extend([0, extensions.len() as u8]);
    body.extend(extensions);
    let mut record = vec![22, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
    record.extend(body);
    record
}

#[test]
fn who_speaks_something_else_is_refused() {
    let security = token();
    let listener = listen(&security);
    let address = socket_address(&listener.address().parse().unwrap());
    for (what, bytes, words) in [
        (
            "plain",
            b"pagelift\x01\0\0\0\0\0\0\0".to_vec(),
            "does not speak TLS",
        ),
        (
            "HTTP",
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            "does not speak TLS",
        ),
        ("TLS 1.2", tls12_hello(), "does not speak TLS 1.3"),
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&bytes).unwrap();
        let error = serve(&*listener).unwrap_err();
        assert_says(what, &error, &["the source", words]);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 16, "{what}: an alert, at most: {answer:?}");
    }
    let (connected, served) = meet(&security, &*listener);
    connected.unwrap();
    assert_eq!(served.unwrap(), b"hello");
}

/// A source that was given a token, and a target that was not; and the other way round.
#[test]
fn a_side_that_was_not_told_says_so() {
    let plain = Waiting::new(&Security::default());
    let failure = send(&plain.address, &token()).unwrap_err();
    let text = failure.error.to_string();
    assert!(
        text.contains("closed the connection while TLS was being set up"),
        "{text}"
    );
    send(&plain.address, &Security::default()).unwrap();
    plain.arrived();

    let right = token();
    let secure = Waiting::new(&right);
    let failure = send(&secure.address, &Security::default()).unwrap_err();
    let text = failure.error.to_string();
    assert!(
        text.contains("speaks TLS") && text.contains("token"),
        "{text}"
    );
    send(&secure.address, &right).unwrap();
    secure.arrived();
}

/// Nothing answers: the source gives up.
#[test]
fn a_target_that_says_nothing_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let held = thread::spawn(move || {
        silent
            .accept()
            .map(|_| thread::sleep(Duration::from_secs(12)))
    });
    let target: Endpoint = format!("tcp://{address}").parse().unwrap();
    let failure = send(&target, &token()).unwrap_err();
    assert!(
        failure.error.to_string().contains("does not answer"),
        "{failure:?}"
    );
    drop(held);
}

/// Beyond this host nothing goes in clear by chance. No packet leaves: 192.0.2.1 is nobody's (RFC 5737).
#[test]
fn plain_connections_end_at_this_host() {
    let there: Endpoint = "tcp://192.0.2.1:7000".parse().unwrap();
    let error = there.connect().err().unwrap();
    let words = ["tcp://192.0.2.1:7000", "token", "--tls-dir", "--insecure"];
    assert_says("connect", &error, &words);
    assert!(there.connect_with(&Security::Insecure).is_ok());
    let everywhere: Endpoint = "tcp://0.0.0.0:0".parse().unwrap();
    assert_says(
        "listen",
        &everywhere.listen().err().unwrap(),
        &["0.0.0.0", "token"],
    );
    assert!(everywhere.listen_with(&token()).is_ok());
    assert!(!everywhere.is_local());
    assert!(
        "tcp://[::ffff:127.0.0.1]:1"
            .parse::<Endpoint>()
            .unwrap()
            .is_local()
    );
}

/// As `openssl x509 -fingerprint -sha256` gives it.
fn fingerprint(path: &std::path::Path) -> String {
    let pem = fs::read_to_string(path).unwrap();
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64(&body);
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    let digits: Vec<_> = hash
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    format!("sha256:{}", digits.join(":"))
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let value = |digit: u8| DIGITS.iter().position(|other| *other == digit);
    let values: Vec<u32> = text
        .bytes()
        .filter_map(value)
        .map(|value| value as u32)
        .collect();
    let mut bytes = Vec::new();
    for group in values.chunks(4) {
        let bits = group.iter().fold(0, |bits, value| bits << 6 | value) << (6 * (4 - group.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}
