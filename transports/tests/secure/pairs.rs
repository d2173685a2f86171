//! Two ends that meet.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pagelift_engine::transport::{Connection, Listener, Role};
use pagelift_transports::{Endpoint, Security};

pub(crate) fn listen(security: &Security) -> Box<dyn Listener> {
    let any: Endpoint = "tcp://127.0.0.1:0".parse().unwrap();
    any.listen_with(security).unwrap()
}

/// Reads until something comes, or the connection ends.
pub(crate) fn read(connection: &mut Connection) -> io::Result<Vec<u8>> {
    let until = Instant::now() + Duration::from_secs(20);
    let mut bytes = vec![0; 64];
    loop {
        match connection.rx.read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {}
            Err(error) => return Err(error),
            Ok(count) => {
                bytes.truncate(count);
                return Ok(bytes);
            }
        }
    }
}

/// The next connection, and what comes over it.
pub(crate) fn serve(listener: &dyn Listener) -> io::Result<Vec<u8>> {
    let accepted = listener.accept(Duration::from_secs(20))?;
    let mut connection = accepted.expect("somebody comes");
    let read = read(&mut connection);
    connection.closer.close();
    read
}

/// Has a source connect and say something; what each end saw.
pub(crate) fn meet(
    source: &Security,
    listener: &dyn Listener,
) -> (io::Result<()>, io::Result<Vec<u8>>) {
    let address: Endpoint = listener.address().parse().unwrap();
    std::thread::scope(|scope| {
        let connecting = scope.spawn(|| {
            let link = address.connect_with(source)?;
            let mut connection = link.connect(Role::Control)?;
            connection.tx.send(Bytes::from_static(b"hello"))
        });
        let served = serve(listener);
        (connecting.join().unwrap(), served)
    })
}
