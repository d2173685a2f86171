//! Further connections of a migration that is under way, opened by somebody else.

use std::io;
use std::time::Duration;

use pagelift_engine::transport::{BindingProof, Connection, Role};
use pagelift_engine::units::Rate;
use pagelift_engine::wire::{FrameWriter, Join, Message, Reattach, SessionId};
use pagelift_transports::{Certificates, Security, Token};

use crate::authority::{Leaf, good, in_dir};
use crate::guest::{PAGES, Waiting, outgoing};
use crate::pairs::read;

/// Opens a connection as `security` has it, with this first message; how the target ends it.
fn open(target: &Waiting, security: &Security, message: &Message) -> io::Result<Vec<u8>> {
    let link = target.address.connect_with(security).unwrap();
    let mut connection = link.connect(Role::Control).unwrap();
    say(&mut connection, message);
    read(&mut connection)
}

fn say(connection: &mut Connection, message: &Message) {
    let nobody = Box::new(pagelift_engine::transport::WriteHalf::new(io::sink()));
    let tx = std::mem::replace(&mut connection.tx, nobody);
    FrameWriter::new(tx)
        .write(message.kind(), &message.encode())
        .unwrap();
}

/// The first messages of somebody who knows the session's number.
fn messages(session: SessionId, proof: Option<BindingProof>) -> [Message; 2] {
    [
        Message::Join(Join {
            session,
            channel: 0,
            proof,
        }),
        Message::Reattach(Reattach { session, proof }),
    ]
}

/// A guest moves slowly; others who may connect, and know the session, cannot get into its move.
#[test]
fn nobody_else_opens_a_connection_of_a_migration() {
    let (authority, dir) = good();
    let other_dir = authority.directory(
        Leaf {
            serial: 5,
            ..Leaf::default()
        },
        Leaf::default(),
    );
    let token = Token::generate().unwrap();
    let certificates = |own: Certificates| Security::Certificates(own);
    // The same token is in the hands of another process, and the same certificate may be.
    for (security, others) in [
        (Security::Token(token.clone()), vec![Security::Token(token)]),
        (
            certificates(in_dir(&dir)),
            vec![certificates(in_dir(&dir)), certificates(in_dir(&other_dir))],
        ),
    ] {
        let target = Waiting::new(&security);
        let outgoing = outgoing(PAGES, &target.address, &security).bandwidth(Rate(64 << 10));
        let job = outgoing.start().unwrap();
        let session = job.id().unwrap();
        while job.status().is_none_or(|status| status.round == 0) {
            std::thread::sleep(Duration::from_millis(20));
        }
        for other in &others {
            for proof in [None, Some([7; 32])] {
                for message in messages(session, proof) {
                    let ended = open(&target, other, &message);
                    assert!(matches!(&ended, Ok(bytes) if bytes.is_empty()) || ended.is_err());
                }
            }
        }
        job.controls().change(|settings| settings.bandwidth = None);
        job.wait().result.unwrap();
        target.arrived();
    }
}
