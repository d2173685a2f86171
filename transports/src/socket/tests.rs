use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use bytes::Bytes;
use pagelift_engine::transport::{Link, Listener, Role};

use super::*;

#[test]
fn a_unix_socket_is_for_its_owner_and_goes_with_its_listener() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("target");
    let address = SocketAddress::Unix(path.clone());
    let server = SocketServer::bind(address.clone(), Owner::SameUser).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let link = SocketLink::new(address.clone(), Owner::SameUser);
    let mut near = link.connect(Role::Control).unwrap();
    let mut far = server.accept(Duration::from_secs(10)).unwrap().unwrap();
    assert!(far.peer.address().contains(&std::process::id().to_string()));
    near.tx.send(Bytes::from_static(b"there")).unwrap();
    far.tx.send(Bytes::from_static(b"back")).unwrap();
    let mut bytes = [0; 5];
    far.rx.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"there");
    near.rx.read_exact(&mut bytes[..4]).unwrap();
    assert_eq!(&bytes[..4], b"back");
    let nothing = near.rx.read(&mut bytes).unwrap_err();
    assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    near.closer.close();
    assert_eq!(far.rx.read(&mut bytes).unwrap(), 0);

    let taken = SocketServer::bind(address, Owner::SameUser).unwrap_err();
    assert!(taken.to_string().contains("another process"), "{taken}");
    drop(server);
    assert!(!path.exists());
    let gone = link.connect(Role::Control).unwrap_err().to_string();
    assert!(gone.contains("pagelift-receive"), "{gone}");
}

#[test]
fn only_the_loopback_of_vsock_stays_within_this_host() {
    let at = |cid| SocketAddress::Vsock { cid, port: 7000 };
    assert!(at(1).is_local());
    for cid in [2, 3, u32::MAX] {
        assert!(!at(cid).is_local());
    }
}

#[test]
fn another_user_is_taken_only_where_something_else_tells_who_it_is() {
    assert!(Owner::SameUser.takes(1000, 1000));
    assert!(Owner::SameUser.takes(0, 1000));
    assert!(!Owner::SameUser.takes(1000, 0));
    assert!(!Owner::SameUser.takes(1001, 1000));
    assert!(Owner::Anybody.takes(1001, 1000));
}
