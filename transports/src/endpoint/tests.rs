use std::time::Duration;

use pagelift_engine::transport::Role;

use super::*;

#[test]
fn endpoints_read_back_as_written() {
    for text in [
        "tcp://127.0.0.1:7000",
        "tcp://[::1]:7000",
        "tcp://host.example:1",
        "tcp://[fe80::1%eth0]:7000?bind=eth0&dscp=46",
        "tcp://host.example:1?dscp=0",
        "rdma://10.0.0.1:7000",
        "rdma://[fd00::1]:7000?pin-all",
        "rdma://target:7000?dscp=46&pin-all",
        "unix:/run/pagelift/target",
        "unix:target",
        "vsock:2:7000",
        "vsock:any:7000",
        "fd:7",
        "exec:ssh -T host 'pagelift-receive --qmp a?b --listen stdio:'",
        "stdio:",
    ] {
        assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
    }
}

#[test]
fn other_spellings_are_read_too() {
    for (text, read) in [
        ("unix:///run/target", "unix:/run/target"),
        ("vsock://1:2", "vsock:1:2"),
        ("tcp://[fe80::1%25eth0]:7/", "tcp://[fe80::1%eth0]:7"),
        (
            "tcp://a:1?dscp=cs1&bind=10.0.0.1",
            "tcp://a:1?bind=10.0.0.1&dscp=8",
        ),
        ("tcp://a:1?", "tcp://a:1"),
    ] {
        assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), read);
    }
}

#[test]
fn what_is_wrong_in_an_address_is_said() {
    for (text, why) in [
        ("unix:", "unix:PATH"),
        ("vsock:7000", "vsock:CID:PORT"),
        ("vsock:x:1", "vsock:CID:PORT"),
        ("fd:", "a descriptor"),
        ("fd:-1", "a descriptor"),
        ("exec:", "exec:COMMAND"),
        ("tcp://a:1?dscp=64", "af11"),
        ("tcp://a:1?tos=1", "bind=WHERE"),
        ("tcp://a:1?bind=", "bind=WHERE"),
        ("tcp://a:1?pin-all", "bind=WHERE"),
        ("rdma://a:1?all", "bind=WHERE"),
    ] {
        let error = text.parse::<Endpoint>().unwrap_err();
        assert!(matches!(error, EndpointError::Wrong { .. }), "{error:?}");
        let error = error.to_string();
        assert!(error.contains(text) && error.contains(why), "{error}");
    }
}

#[test]
fn what_is_no_endpoint_is_refused_with_an_example() {
    for text in [
        "127.0.0.1:7000",
        "tcp:a:1",
        "stdio:x",
        "tcp://",
        "tcp://:1",
        "tcp://a",
        "tcp://a:b",
        "tcp://::1:2",
        "tcp://[[::1]]:2",
        "tcp://a/b:1",
    ] {
        assert_eq!(
            text.parse::<Endpoint>(),
            Err(EndpointError::Malformed(text.into()))
        );
    }
    let quic = "quic://host:1".parse::<Endpoint>();
    assert_eq!(
        quic,
        Err(EndpointError::Unsupported {
            scheme: "quic".into()
        })
    );
}

#[test]
fn a_listener_names_an_address_that_can_be_connected_to() {
    let any: Endpoint = "tcp://127.0.0.1:0".parse().unwrap();
    let listener = any.listen().unwrap();
    let chosen: Endpoint = listener.address().parse().unwrap();
    assert_ne!(chosen, any);
    let link = chosen.connect().unwrap();
    let near = link.connect(Role::Control).unwrap();
    assert!(listener.accept(Duration::from_secs(10)).unwrap().is_some());
    drop(near);

    let error = chosen.listen().err().unwrap().to_string();
    for part in [&listener.address(), "in use", "another port"] {
        assert!(error.contains(part), "{error}");
    }
    let address = listener.address();
    drop(listener);
    let error = link.connect(Role::Data(0)).unwrap_err().to_string();
    let address = address.strip_prefix("tcp://").unwrap();
    for part in [address, "refused", "pagelift-receive"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_name_without_an_address_is_named() {
    // It does not exist by its very name (RFC 6761).
    let nobody: Endpoint = "tcp://host.invalid:1".parse().unwrap();
    let text = nobody.connect().err().unwrap().to_string();
    assert!(
        text.contains("tcp://host.invalid:1") && text.contains("check the name"),
        "{text}"
    );
}

#[test]
fn only_a_port_that_others_reach_takes_more_than_its_address() {
    for (text, is_local) in [
        ("tcp://127.0.0.1:0", true),
        ("tcp://192.0.2.1:1", false),
        ("unix:/run/target", true),
        ("vsock:1:7000", true),
        ("vsock:2:7000", false),
        ("vsock:any:7000", false),
        ("fd:7", true),
        ("exec:true", true),
        ("stdio:", true),
    ] {
        let endpoint: Endpoint = text.parse().unwrap();
        assert_eq!(endpoint.is_local(), is_local, "{text}");
    }
    let host: Endpoint = "vsock:2:7000".parse().unwrap();
    for refused in [host.connect().err(), host.listen().err()] {
        let refused = refused.unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    let endpoint: Endpoint = "tcp://127.0.0.1:1?bind=nothere0".parse().unwrap();
    for error in [endpoint.connect().err(), endpoint.listen().err()] {
        let error = error.unwrap().to_string();
        assert!(error.contains("nothere0"), "{error}");
    }
}

#[test]
fn connections_go_by_the_interface_and_come_from_the_address() {
    let any: Endpoint = "tcp://127.0.0.1:0?bind=lo&dscp=cs1".parse().unwrap();
    let listener = any.listen().unwrap();
    let address = listener.address();
    for bind in ["127.0.0.1", "lo", "127.0.0.3"] {
        let there: Endpoint = format!("{address}?bind={bind}&dscp=af41").parse().unwrap();
        let near = there.connect().unwrap().connect(Role::Control).unwrap();
        let far = listener.accept(Duration::from_secs(10)).unwrap().unwrap();
        let from = far.peer.address().split_once(':').unwrap().0;
        assert_eq!(from, if bind == "lo" { "127.0.0.1" } else { bind });
        drop(near);
    }
    let elsewhere: Endpoint = format!("{address}?bind=192.0.2.1").parse().unwrap();
    let link = elsewhere.connect().unwrap();
    let error = link.connect(Role::Control).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
}
