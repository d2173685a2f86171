//! Strangers who hold connections, and sources whose guest does not fit.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pagelift_transports::{Security, Token};

use crate::forwarder::socket_address;
use crate::guest::{PAGES, Waiting, outgoing, send};

/// How a frame begins, for those who send it a byte at a time.
const BEGINNING: &[u8] = b"pagelift\x01\0\0\0\xff\0\0\0\0\0\0\0\0\0\0\0";

/// 72 who send a byte now and then, and 80 who send nothing. Whoever is hung up on comes again.
struct Crowd {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    fn before(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let connect = move || TcpStream::connect(address).unwrap();
        let mut slow: Vec<_> = (0..72).map(|_| connect()).collect();
        let idle: Vec<_> = (0..80).map(|_| connect()).collect();
        let thread = thread::spawn(move || {
            for byte in BEGINNING.iter().cycle() {
                if stopped.load(Ordering::Acquire) {
                    break;
                }
                for stream in &mut slow {
                    if stream.write_all(&[*byte]).is_err() {
                        // The target has moved its guest, perhaps.
                        let Ok(again) = TcpStream::connect(address) else {
                            return;
                        };
                        *stream = again;
                    }
                }
                thread::sleep(Duration::from_millis(120));
            }
            drop(idle);
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn an_honest_source_gets_in_while_strangers_hold_connections() {
    for security in [
        Security::default(),
        Security::Token(Token::generate().unwrap()),
    ] {
        let target = Waiting::new(&security);
        let crowd = Crowd::before(socket_address(&target.address));
        send(&target.address, &security).unwrap();
        target.arrived();
        drop(crowd);
    }
}

#[test]
fn a_source_that_nobody_knows_and_whose_guest_does_not_fit_ends_nothing() {
    let plain = Security::default();
    let target = Waiting::new(&plain);
    for _ in 0..3 {
        let foreign = outgoing(PAGES / 2, &target.address, &plain)
            .start()
            .unwrap();
        let words = foreign.wait().result.unwrap_err().error.to_string();
        assert!(words.contains("memory layout differs"), "{words}");
        let size = (PAGES * 4096).to_string();
        assert!(
            !words.contains(&size),
            "what the target has is not said: {words}"
        );
    }
    send(&target.address, &plain).unwrap();
    target.arrived();
}

#[test]
fn a_source_that_is_known_and_whose_guest_does_not_fit_ends_the_wait() {
    let security = Security::Token(Token::generate().unwrap());
    let target = Waiting::new(&security);
    let foreign = outgoing(PAGES / 2, &target.address, &security)
        .start()
        .unwrap();
    let there = target.job.wait().result.unwrap_err().error.to_string();
    let here = foreign.wait().result.unwrap_err().error.to_string();
    for words in [here, there] {
        let size = (PAGES * 4096).to_string();
        assert!(
            words.contains("memory layout") && words.contains(&size),
            "{words}"
        );
    }
}
