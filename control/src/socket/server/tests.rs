//! Clients that ask, change and cancel, bad ones, one too many, and what is at the path.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::AtomicU32;

use pagelift_engine::pipeline::Controls;

use super::*;

/// A path that no other test has; its file is gone with it.
struct TestPath(PathBuf);

impl TestPath {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pagelift-control-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn serve(&self) -> Result<ControlSocket, ControlSocketError> {
        ControlSocket::start(&self.0, JobStatus::new(Controls::default()))
    }

    fn connect(&self) -> BufReader<UnixStream> {
        BufReader::new(UnixStream::connect(&self.0).unwrap())
    }
}

impl Drop for TestPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn ask(client: &mut BufReader<UnixStream>, line: &str) -> Value {
    client.get_mut().write_all(line.as_bytes()).unwrap();
    client.get_mut().write_all(b"\n").unwrap();
    heard(client)
}

fn heard(client: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

#[test]
fn a_client_asks_and_changes_and_cancels() {
    let place = TestPath::new();
    let controls = Controls::default();
    let server = ControlSocket::start(&place.0, JobStatus::new(controls.clone())).unwrap();
    let mode = std::fs::metadata(&place.0).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (mut one, mut two) = (place.connect(), place.connect());
    assert_eq!(ask(&mut one, r#"{"command":"status"}"#)["ok"], true);
    let set = ask(
        &mut two,
        r#"{"command":"set","policy":"none","downtime":"1s"}"#,
    );
    assert_eq!(set["settings"]["policy"], "none");
    assert_eq!(set["settings"]["downtime_ms"], 1000.0);
    assert_eq!(set["note"], Value::Null);
    let status = ask(&mut one, r#"{"command":"status"}"#);
    assert_eq!(status["status"]["settings"], set["settings"]);
    // Of two changes one of which makes no sense neither is made.
    let refused = ask(
        &mut one,
        r#"{"command":"set","policy":"classic","downtime":"x"}"#,
    );
    assert_eq!(refused["ok"], false);
    assert_eq!(refused["error"]["code"], "bad-request");
    assert_eq!(controls.settings().limits.policy.name(), "none");
    assert!(!controls.cancel_token().is_cancelled());
    assert_eq!(ask(&mut two, r#"{"command":"cancel"}"#)["ok"], true);
    assert!(controls.cancel_token().is_cancelled());
    drop(server);
    assert!(!place.0.exists());
    let mut end = String::new();
    assert_eq!(one.read_line(&mut end).unwrap(), 0, "clients are let go");
}

#[test]
fn bad_clients_disturb_nobody() {
    let place = TestPath::new();
    let server = place.serve().unwrap();
    // One says nothing, one goes at once, one never reads, one has no end.
    let _silent = place.connect();
    drop(place.connect());
    let mut deaf = place.connect();
    deaf.get_mut().set_nonblocking(true).unwrap();
    let request = b"{\"command\":\"status\"}\n".repeat(10_000);
    // As much as it takes.
    let _ = deaf.get_mut().write(&request);
    let mut endless = place.connect();
    // The server may have closed it before all is written.
    let _ = endless
        .get_mut()
        .write_all(&vec![b' '; LONGEST_LINE as usize]);
    let refused = heard(&mut endless);
    let words = refused["error"]["message"].as_str().unwrap();
    assert!(words.contains("at most 16384 bytes"), "{words}");
    let mut polite = place.connect();
    assert_eq!(ask(&mut polite, r#"{"command":"status"}"#)["ok"], true);
    assert_eq!(ask(&mut polite, "rubbish")["ok"], false);
    assert_eq!(ask(&mut polite, r#"{"command":"status"}"#)["ok"], true);
    drop(server);
}

#[test]
fn one_too_many_is_told_so() {
    let place = TestPath::new();
    let server = place.serve().unwrap();
    let mut clients: Vec<_> = (0..MOST_CLIENTS).map(|_| place.connect()).collect();
    for client in &mut clients {
        assert_eq!(ask(client, r#"{"command":"status"}"#)["ok"], true);
    }
    assert_eq!(heard(&mut place.connect())["error"]["code"], "busy");
    drop(clients);
    drop(server);
}

#[test]
fn who_sees_the_socket_can_connect() {
    let place = TestPath::new();
    for _ in 0..100 {
        let path = place.0.clone();
        let seen = thread::spawn(move || {
            while !path.exists() {
                std::hint::spin_loop();
            }
            UnixStream::connect(&path).map(drop)
        });
        let server = place.serve().unwrap();
        seen.join().unwrap().unwrap();
        drop(server);
    }
}

#[test]
fn a_stale_socket_is_replaced_and_nothing_else_is() {
    let place = TestPath::new();
    drop(UnixListener::bind(&place.0).unwrap());
    assert!(place.0.exists(), "left by one that was killed");
    let server = place.serve().unwrap();
    let error = place.serve().unwrap_err().to_string();
    assert!(error.contains("another process listens there"), "{error}");
    assert!(place.0.exists());
    // Not ours any more: it is not removed.
    std::fs::remove_file(&place.0).unwrap();
    std::fs::write(&place.0, "precious").unwrap();
    drop(server);
    let error = place.serve().unwrap_err().to_string();
    assert!(error.contains("is no socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&place.0).unwrap(), "precious");
}
