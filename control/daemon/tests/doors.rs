//! The ways in, with stock virsh where there is one: sockets, TCP, TLS.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use pagelift_rpc::calls::{Hostname, Open};
use pagelift_tests::require;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use support::{Client, Daemon, open_args, qemu, virsh, virsh_at};

#[test]
fn virsh_connects_and_asks() {
    require!(virsh());
    let daemon = Daemon::start("[host]\nname = \"here\"");
    assert_eq!(daemon.virsh_ok(&["hostname"]).trim(), "here");
    let node = daemon.virsh_ok(&["nodeinfo"]);
    assert!(node.contains("CPU(s):"), "{node}");
    let uri = daemon.virsh_ok(&["uri"]);
    assert!(uri.starts_with("qemu+unix:///system"), "{uri}");
}

#[test]
fn virsh_asks_for_versions_and_capabilities() {
    require!(virsh());
    require!(qemu());
    let daemon = Daemon::start("");
    let version = daemon.virsh_ok(&["version"]);
    assert!(version.contains("Using API: QEMU"), "{version}");
    assert!(version.contains("Running hypervisor: QEMU "), "{version}");
    let capabilities = daemon.virsh_ok(&["capabilities"]);
    assert!(
        capabilities.contains("<domain type='qemu'/>"),
        "{capabilities}"
    );
}

#[test]
fn virsh_comes_in_by_tcp() {
    require!(virsh());
    let daemon = Daemon::start("[tcp]\nlisten = [\"127.0.0.1:0\"]\n[host]\nname = \"here\"");
    let uri = format!("qemu+tcp://127.0.0.1:{}/system", daemon.port(false));
    let output = virsh_at(&uri, &["hostname"]);
    assert!(output.status.success(), "{output:?}");
    // The session's path leads to the same daemon.
    let uri = uri.replace("/system", "/session");
    assert!(virsh_at(&uri, &["hostname"]).status.success());
}

#[test]
fn tcp_beyond_loopback_is_refused_unless_told() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("c.toml");
    for (more, good) in [("", false), ("beyond_loopback = true\n", true)] {
        fs::write(&config, format!("[tcp]\nlisten = [\"0.0.0.0:0\"]\n{more}")).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_pageliftd"))
            .args([Path::new("--check"), Path::new("--config"), &config])
            .output()
            .unwrap();
        assert_eq!(output.status.success(), good, "{output:?}");
    }
}

/// An authority, certificates of it for a server and a client, and a client's of another authority.
fn certificates(dir: &Path) {
    let authority = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let sign = |by: &CertifiedIssuer<'_, KeyPair>, name: &str, to: &Path, file: &str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned(), "127.0.0.1".into()]).unwrap();
        let certificate = params.signed_by(&key, by).unwrap();
        fs::create_dir_all(to).unwrap();
        fs::write(to.join(format!("{file}cert.pem")), certificate.pem()).unwrap();
        let path = to.join(format!("{file}key.pem"));
        fs::write(&path, key.serialize_pem()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(to.join("cacert.pem"), ours.pem()).unwrap();
    };
    sign(&ours, "localhost", &dir.join("server"), "server");
    sign(&ours, "client", &dir.join("good"), "client");
    sign(&theirs, "client", &dir.join("bad"), "client");
}

#[test]
fn tls_lets_in_those_with_a_certificate_of_the_authority() {
    require!(virsh());
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let server = dir.path().join("server").display().to_string();
    let daemon = Daemon::start(&format!(
        "[host]\nname = \"here\"\n[tls]\nlisten = [\"127.0.0.1:0\"]\n\
         ca_certificate = \"{server}/cacert.pem\"\ncertificate = \"{server}/servercert.pem\"\n\
         key = \"{server}/serverkey.pem\"\nrevoked = \"{server}/cacrl.pem\"\n"
    ));
    let port = daemon.port(true);
    let uri = |who: &str| {
        let pki = dir.path().join(who).display().to_string();
        format!("qemu+tls://localhost:{port}/system?pkipath={pki}")
    };
    let output = virsh_at(&uri("good"), &["hostname"]);
    assert!(output.status.success(), "{output:?}\n{}", daemon.log());
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "here");
    let output = virsh_at(&uri("bad"), &["hostname"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn a_socket_for_looking_only_is_that() {
    let daemon = Daemon::start("");
    for (path, flags) in [(daemon.read_only_socket(), 0), (daemon.socket(), 1)] {
        let mut client = Client::connect(&path);
        client.call::<Open>(&open_args(flags)).unwrap();
        assert!(client.call::<Hostname>(&()).is_ok());
    }
}

#[test]
fn one_daemon_a_socket() {
    let daemon = Daemon::start("");
    let output = Command::new(env!("CARGO_BIN_EXE_pageliftd"))
        .arg("--config")
        .arg(daemon.dir().join("pageliftd.toml"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("another pageliftd uses it"), "{text}");
    Client::open(&daemon).call::<Hostname>(&()).unwrap();
}

#[test]
fn a_socket_that_was_left_behind_is_taken_over() {
    let mut daemon = Daemon::start("");
    daemon.crash();
    Client::open(&daemon).call::<Hostname>(&()).unwrap();
}

#[test]
fn the_service_manager_hears_when_it_is_ready() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("notify");
    let socket = UnixDatagram::bind(&place).unwrap();
    socket
        .set_read_timeout(Some(pagelift_tests::PATIENCE))
        .unwrap();
    let daemon = Daemon::start_with("", &[("NOTIFY_SOCKET", &place)]);
    let mut said = [0; 64];
    let length = socket.recv(&mut said).unwrap();
    assert_eq!(&said[..length], b"READY=1");
    daemon.terminate();
    let length = socket.recv(&mut said).unwrap();
    assert_eq!(&said[..length], b"STOPPING=1");
}
