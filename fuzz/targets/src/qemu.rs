//! What QEMU says, by any of its ways.

use pagelift_agent_protocol::monitor::{Line, classify};
use pagelift_control::driver::qemu::ramblock;
use pagelift_control::driver::qemu::return_path::ReturnPath;
use pagelift_control::qmp::Event;
use serde_json::{Map, Value};

/// What has passed a return path, whether it is still one, and the verdict.
fn pass(pieces: &[&[u8]]) -> (Vec<u8>, bool, Option<u32>) {
    let (mut path, mut forward) = (ReturnPath::default(), Vec::new());
    let good = pieces
        .iter()
        .all(|piece| path.push(piece, &mut forward).is_ok());
    (forward, good, path.shut().map(|shut| shut.error))
}

/// The return path of QEMU's stream, after a byte that says where it is torn: all the same
/// however it arrives, and what passes is what came, but for the last message.
pub fn return_path(data: &[u8]) {
    let [at, stream @ ..] = data else {
        return;
    };
    let (head, tail) = stream.split_at(stream.len().min(usize::from(*at)));
    let whole = pass(&[stream]);
    assert_eq!(pass(&[head, tail]), whole);
    assert!(stream.starts_with(&whole.0));
}

/// A line of QEMU's monitor: the agent, which has no JSON library, sees what one sees.
pub fn monitor_line(data: &[u8]) {
    let line = String::from_utf8_lossy(data);
    let kind = classify(&line);
    let Ok(Value::Object(mut members)) = serde_json::from_str(&line) else {
        return;
    };
    // A name may be written with escapes, which QEMU does not.
    if !line.contains('\\') {
        assert!(kinds(&members).contains(&kind), "{kind:?}: {line}");
    }
    if let Some(event) = Event::from_line(&mut members) {
        if let Some(at) = event.at {
            at.system_time();
            assert_eq!(at.micros_since(at), 0);
        }
        assert!(!format!("{event:?}").is_empty() || event.name.is_empty());
    }
}

/// What a line with these members may be taken for.
fn kinds(members: &Map<String, Value>) -> Vec<Line> {
    let has = |name: &str| members.contains_key(name);
    if has("event") {
        return vec![Line::Other];
    }
    let mut kinds = Vec::new();
    if has("return") {
        kinds.push(Line::Return);
    }
    if has("error") {
        kinds.push(Line::Error);
    }
    if kinds.is_empty() {
        kinds.push(Line::Other);
    }
    kinds
}

/// The listing of `info ramblock`.
pub fn ramblock_listing(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(blocks) = ramblock::parse(&text) {
        assert!(blocks.len() <= text.lines().count());
        assert!(blocks.is_sorted_by(|a, b| a.name <= b.name));
        assert!(blocks.iter().all(|block| !block.name.is_empty()));
    }
}
