//! What stock clients and daemons sent each other: everything decodes, and encodes to the same bytes.
//!
//! `recorded/*.hex` has a message a line: who sent it (`c` a client, `s` a daemon) and its bytes in
//! hexadecimal. The files `basic-*` are whole; in the others a message is left out that differs from an
//! earlier one in nothing but its serial number. Pieces of streams are cut to their header. `virsh` 11.3.0
//! and `libvirtd` 11.3.0.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use pagelift_rpc::calls::{self, MigratePrepare3Params, PrepareParamsArgs, Procedure};
use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};
use pagelift_rpc::frame::FrameReader;
use pagelift_rpc::message::{KEEPALIVE_PROGRAM, Kind, Message, REMOTE_PROGRAM, Status};

/// Every recorded message, with the file that it is in and its bytes.
fn recorded() -> Vec<(String, Message, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded");
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        for line in fs::read_to_string(&file).unwrap().lines() {
            let (_, digits) = line.split_once(' ').unwrap();
            let bytes: Vec<u8> = (0..digits.len() / 2)
                .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
                .collect();
            let mut reader = FrameReader::default();
            reader.push(&bytes);
            let message = reader.next_message().unwrap().expect("a whole message");
            assert_eq!(reader.held(), 0, "{name}: a line is one message");
            all.push((name.clone(), message, bytes));
        }
    }
    assert!(all.len() >= 400, "{} messages", all.len());
    all
}

#[test]
fn every_message_comes_out_as_it_went_in() {
    let mut procedures = BTreeSet::new();
    for (file, message, bytes) in recorded() {
        let context = || format!("{file}: {:?}", message.header);
        assert_eq!(message.encode().unwrap(), bytes, "{}", context());
        match message.header.program {
            KEEPALIVE_PROGRAM => assert!(message.body.is_empty(), "{}", context()),
            REMOTE_PROGRAM => match calls::recode_body(&message) {
                Some(body) => {
                    assert_eq!(body.as_ref(), Ok(&message.body), "{}", context());
                    procedures.insert(message.header.procedure);
                }
                None => assert_eq!(message.header.kind, Kind::Stream, "{}", context()),
            },
            other => panic!("program {other:#x} in {}", context()),
        }
    }
    assert_eq!(procedures.len(), 52, "{procedures:?}");
}

#[test]
fn messages_are_found_in_a_stream_however_it_is_cut() {
    let recorded = recorded();
    for step in [7, 4096] {
        let mut reader = FrameReader::default();
        let mut found = 0;
        let stream: Vec<u8> = recorded.iter().flat_map(|(_, _, b)| b).copied().collect();
        for piece in stream.chunks(step) {
            reader.push(piece);
            while let Some(message) = reader.next_message().unwrap() {
                assert_eq!(message, recorded[found].1);
                found += 1;
            }
        }
        assert_eq!(found, recorded.len());
    }
}

#[test]
fn errors_are_made_as_they_were_recorded() {
    let mut seen = 0;
    for (file, message, _) in recorded() {
        if message.header.status != Status::Error {
            continue;
        }
        let error: Error = message.decode().unwrap();
        let detail = error.strings[1].clone().unwrap_or_default();
        assert_eq!(
            Error::new(error.code, error.domain, detail),
            error,
            "{file}"
        );
        assert!(
            !matches!(error.code, ErrorCode::Other(_)),
            "{file}: {error:?}"
        );
        assert!(
            !matches!(error.domain, ErrorDomain::Other(_)),
            "{file}: {error:?}"
        );
        seen += 1;
    }
    assert!(seen >= 10, "{seen} errors");
}

#[test]
fn a_message_that_is_cut_off_is_refused() {
    for (file, message, _) in recorded() {
        let Some(Ok(whole)) = calls::recode_body(&message) else {
            continue;
        };
        // Each length would be a test of its own; these are the ends of words, where values end.
        for length in (0..whole.len()).step_by(4).rev().take(64) {
            let mut cut = message.clone();
            cut.body.truncate(length);
            let recoded = calls::recode_body(&cut).unwrap();
            assert!(recoded.is_err(), "{file}: {length} of {:?}", message.header);
        }
    }
}

#[test]
fn arguments_are_what_was_sent() {
    let args = recorded().into_iter().find_map(|(file, message, _)| {
        let prepare = message.header.procedure == MigratePrepare3Params::NUMBER
            && message.header.kind == Kind::Call
            && file == "migrate-live-managed";
        prepare.then(|| message.decode::<PrepareParamsArgs>().unwrap())
    });
    let args = args.unwrap();
    assert_eq!(args.params.len(), 1);
    assert_eq!(args.params[0].name, "destination_xml");
    assert_eq!(args.flags, 1);
    assert!(args.cookie.0.starts_with(b"<qemu-migration>\n"));
    assert!(args.cookie.0.ends_with(b"</qemu-migration>\n\0"));
}
