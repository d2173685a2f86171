//! Somebody on the path: passes connections on, and keeps what goes by.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use pagelift_transports::{Endpoint, TcpAddress};

/// What went over one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) to_target: Vec<u8>,
    pub(crate) to_source: Vec<u8>,
}

pub(crate) struct Forwarder {
    pub(crate) address: Endpoint,
    recorded: Arc<Mutex<Vec<Recorded>>>,
}

impl Forwarder {
    /// Passes on to `target`, until the test's process ends.
    pub(crate) fn to(target: &Endpoint) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = socket_address(target);
        let recorded: Arc<Mutex<Vec<Recorded>>> = Arc::default();
        let keep = Arc::clone(&recorded);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let far = TcpStream::connect(target).unwrap();
                let number = {
                    let mut all = keep.lock().unwrap();
                    all.push(Recorded::default());
                    all.len() - 1
                };
                let (near_too, far_too) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                let (one, other) = (Arc::clone(&keep), Arc::clone(&keep));
                thread::spawn(move || {
                    pass(near, far, |bytes| {
                        one.lock().unwrap()[number]
                            .to_target
                            .extend_from_slice(bytes);
                    });
                });
                thread::spawn(move || {
                    pass(far_too, near_too, |bytes| {
                        other.lock().unwrap()[number]
                            .to_source
                            .extend_from_slice(bytes);
                    });
                });
            }
        });
        Self {
            address: format!("tcp://127.0.0.1:{port}").parse().unwrap(),
            recorded,
        }
    }

    pub(crate) fn recorded(&self) -> Vec<Recorded> {
        self.recorded.lock().unwrap().clone()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut keep: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        keep(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown(Shutdown::Write);
}

pub(crate) fn socket_address(endpoint: &Endpoint) -> SocketAddr {
    let Endpoint::Tcp(TcpAddress { host, port, .. }) = endpoint else {
        panic!("{endpoint} is not TCP");
    };
    format!("{host}:{port}").parse().unwrap()
}
