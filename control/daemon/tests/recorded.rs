//! What a client sent to libvirtd 11.3 is sent here, and the answers are compared with libvirtd's: the same
//! bytes, but for numbers of guests, times, and descriptions.

mod support;

use std::collections::HashMap;
use std::path::Path;

use pagelift_rpc::calls::{
    DomainDefineXml, DomainGetInfo, DomainGetState, DomainGetXmlDesc, DomainInfo,
    DomainLookupByName, DomainLookupByUuid, DomainSuspend, ListAllDomains, ListAllDomainsReply,
    Procedure, recode_body,
};
use pagelift_rpc::frame::FrameReader;
use pagelift_rpc::message::{Kind, Message};
use pagelift_rpc::types::Domain;
use pagelift_rpc::xdr::Xdr;
use pagelift_tests::require;
use support::{Client, Daemon, guest_xml, qemu};

/// The calls of a recording, each with its answer; every connection begins with AUTH_LIST.
fn recorded(name: &str) -> Vec<Vec<(Message, Message)>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rpc/tests/recorded");
    let text = std::fs::read_to_string(dir.join(format!("{name}.hex"))).unwrap();
    let mut connections: Vec<Vec<(Message, Message)>> = Vec::new();
    let mut calls: HashMap<u32, Message> = HashMap::new();
    for line in text.lines() {
        let (_, digits) = line.split_once(' ').unwrap();
        let bytes: Vec<u8> = (0..digits.len() / 2)
            .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        let mut frames = FrameReader::default();
        frames.push(&bytes);
        let message = frames.next_message().unwrap().unwrap();
        let serial = message.header.serial;
        match message.header.kind {
            Kind::Call => {
                if serial == 0 {
                    connections.push(Vec::new());
                }
                calls.insert(serial, message);
            }
            _ => {
                let call = calls.remove(&serial).unwrap();
                connections.last_mut().unwrap().push((call, message));
            }
        }
    }
    connections
}

/// The answer with what differs from host to host and run to run taken out of it.
fn shape(reply: &Message) -> Vec<u8> {
    let without_id = |domain: Domain| Domain { id: 0, ..domain };
    let mut out = Vec::new();
    match reply.header.procedure {
        DomainLookupByName::NUMBER | DomainLookupByUuid::NUMBER | DomainDefineXml::NUMBER => {
            without_id(reply.decode().unwrap()).put(&mut out);
        }
        ListAllDomains::NUMBER => {
            let ListAllDomainsReply { domains, count } = reply.decode().unwrap();
            domains
                .into_vec()
                .into_iter()
                .for_each(|d| without_id(d).put(&mut out));
            count.put(&mut out);
        }
        DomainGetInfo::NUMBER => {
            let info: DomainInfo = reply.decode().unwrap();
            DomainInfo {
                cpu_time: 0,
                ..info
            }
            .put(&mut out);
        }
        // The reason depends on how the recorded guest came there.
        DomainGetState::NUMBER => out.extend_from_slice(&reply.body[..4]),
        DomainGetXmlDesc::NUMBER => {
            let xml: String = reply.decode().unwrap();
            xml.split_inclusive('>')
                .next()
                .unwrap()
                .split(" id=")
                .next()
                .unwrap()
                .to_owned()
                .put(&mut out);
        }
        _ => out.clone_from(&reply.body),
    }
    out
}

/// Sends what was recorded, and compares.
fn replay(daemon: &Daemon, name: &str) {
    for calls in recorded(name) {
        let mut client = Client::connect(&daemon.socket());
        for (call, expected) in calls {
            client.send_message(&call);
            let reply = client.reply().unwrap();
            assert_eq!(reply.header, expected.header, "{name}");
            assert_eq!(
                shape(&reply),
                shape(&expected),
                "{name}: {:?}",
                reply.header
            );
            assert_eq!(recode_body(&reply), Some(Ok(reply.body.clone())), "{name}");
        }
        // After CLOSE it is the daemon that closes.
        assert_eq!(client.receive(), None, "{name}");
    }
}

#[test]
fn answers_are_those_of_libvirtd() {
    require!(qemu());
    if !rustix::process::geteuid().is_root() {
        pagelift_tests::skip!("the recorded daemon ran as root, and says so of its guests");
    }
    let daemon = Daemon::start("");
    let with_memory = |name, number| guest_xml(name, number).replace("32768", "131072");
    daemon.start_guest(&with_memory("g1", 1));
    replay(&daemon, "basic-list");
    replay(&daemon, "basic-dominfo");
    replay(&daemon, "basic-dumpxml");
    // The recorded description names files that are not here: it can be defined, and not started.
    replay(&daemon, "basic-define");
    let mut client = Client::open(&daemon);
    client
        .call::<DomainDefineXml>(&with_memory("g2", 2))
        .unwrap();
    replay(&daemon, "basic-start");
    let g2 = client.call::<DomainLookupByName>(&"g2".into()).unwrap();
    assert!(g2.id > 0);
    client.call::<DomainSuspend>(&g2).unwrap();
    replay(&daemon, "basic-destroy");
    replay(&daemon, "basic-undefine");
    assert!(client.call::<DomainLookupByName>(&"g2".into()).is_err());
}
