//! Guests that move over every kind of address.

#[path = "../secure/guest.rs"]
#[allow(dead_code, reason = "it is shared with other tests")]
mod guest;

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use guest::{PAGES, Waiting, outgoing};
use pagelift_transports::{Endpoint, Security, Token, link_through};
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// Moves a guest from a source at `to` to a target at `here`.
fn moves(here: &str, to: &str, security: &Security) {
    let target = Waiting::at(here, security);
    let to: Endpoint = to.parse().unwrap();
    let report = outgoing(PAGES, &to, security).start().unwrap().wait();
    report.result.unwrap();
    target.arrived();
}

#[test]
fn over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("unix:{}/target", folder.path().display());
    moves(&address, &address, &Security::LocalOnly);
    let token = Security::Token(Token::generate().unwrap());
    moves(&address, &address, &token);
}

#[test]
fn over_one_socket_that_both_were_given() {
    for security in [
        Security::LocalOnly,
        Security::Token(Token::generate().unwrap()),
    ] {
        let (near, far) = UnixStream::pair().unwrap();
        let [near, far] = [near, far].map(|end| (format!("fd:{}", end.as_raw_fd()), end));
        moves(&far.0, &near.0, &security);
    }
}

/// Two programs that carry bytes to each other, as command lines.
fn carriers(folder: &std::path::Path) -> [String; 2] {
    let [there, back] = ["there", "back"].map(|name| {
        let path = folder.join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        path.display().to_string()
    });
    [
        format!("cat '{back}' & exec cat >'{there}'"),
        format!("cat '{there}' & exec cat >'{back}'"),
    ]
}

#[test]
fn through_programs_that_carry_the_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let [near, far] = carriers(folder.path()).map(|command| format!("exec:{command}"));
    moves(&far, &near, &Security::LocalOnly);
}

#[test]
fn through_a_child_of_the_program_that_sends() {
    let folder = tempfile::tempdir().unwrap();
    let [near, far] = carriers(folder.path());
    let target = Waiting::at(&format!("exec:{far}"), &Security::LocalOnly);
    let child = Command::new("/bin/sh")
        .args(["-c", &near])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let link = link_through(child, "a tunnel", &Security::LocalOnly).unwrap();
    guest::outgoing_over(PAGES, link)
        .start()
        .unwrap()
        .wait()
        .result
        .unwrap();
    target.arrived();
}

#[test]
fn a_program_that_carries_nothing_is_named_with_how_it_ended() {
    for (command, words) in [
        ("exit 3", "exit status: 3"),
        ("echo Welcome to this host; cat", "Welcome to this"),
    ] {
        let to: Endpoint = format!("exec:{command}").parse().unwrap();
        let failure = guest::send(&to, &Security::LocalOnly).unwrap_err();
        let text = failure.to_string();
        assert!(text.contains(command) && text.contains(words), "{text}");
    }
}

#[test]
fn a_target_whose_only_source_has_gone_ends() {
    let (near, far) = UnixStream::pair().unwrap();
    let target = Waiting::at(&format!("fd:{}", far.as_raw_fd()), &Security::LocalOnly);
    drop((near, far));
    let failure = target.job.wait().result.unwrap_err();
    assert!(failure.to_string().contains("fd:"), "{failure}");
}

#[test]
fn what_is_no_connection_is_refused() {
    let file = tempfile::tempfile().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let listener = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    for (fd, words) in [
        (file.as_raw_fd(), "no socket"),
        (listener.as_raw_fd(), "listens"),
        (1 << 20, "fd:1048576"),
    ] {
        let endpoint: Endpoint = format!("fd:{fd}").parse().unwrap();
        for error in [endpoint.connect().err(), endpoint.listen().err()] {
            let error = error.unwrap().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}

/// However slow the link is: the cap of the rate is the link's, also over one byte stream.
#[test]
fn the_rate_is_capped_over_one_byte_stream() {
    let (near, far) = UnixStream::pair().unwrap();
    let target = Waiting::at(&format!("fd:{}", far.as_raw_fd()), &Security::LocalOnly);
    let to: Endpoint = format!("fd:{}", near.as_raw_fd()).parse().unwrap();
    let began = std::time::Instant::now();
    let bytes = PAGES * 4096;
    let rate = pagelift_engine::units::Rate(bytes * 4);
    let outgoing = outgoing(PAGES, &to, &Security::LocalOnly).bandwidth(rate);
    outgoing.start().unwrap().wait().result.unwrap();
    assert!(began.elapsed() > Duration::from_millis(200));
    target.arrived();
}
