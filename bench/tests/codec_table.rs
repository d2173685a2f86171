//! The quick mode of `codec-table`: with every codec setting all memory arrives, and what
//! compresses takes fewer bytes.

use anyhow::{Context, Result};
use pagelift_tests::{Bed, Run};
use serde_json::Value;

const CONTENTS: [&str; 3] = ["mixed", "incompressible", "mostly-zero"];
const SETTINGS: [&str; 8] = [
    "none", "lz4", "zstd:-50", "zstd:-20", "zstd:1", "zstd:3", "zstd:7", "auto",
];

/// The bytes on the wire of the one move with this content and setting.
fn wire_bytes(results: &Value, content: &str, setting: &str) -> Result<u64> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let group = list(&results["groups"])
        .into_iter()
        .find(|group| group["content"] == content)
        .with_context(|| format!("no {content} in {results}"))?;
    let cell = list(&group["cells"])
        .into_iter()
        .find(|cell| cell["setting"] == setting)
        .with_context(|| format!("no {setting} in {group}"))?;
    let runs = list(&cell["runs"]);
    assert_eq!(runs.len(), 1, "{content}, {setting}");
    let bytes = runs[0]["wire_bytes"].as_u64();
    bytes.with_context(|| format!("no bytes in {}", runs[0]))
}

/// The program ends with an error if the digests of the memory differ after any of its moves.
#[test]
fn every_setting_brings_all_memory_over_and_compressing_saves_bytes() -> Result<()> {
    let bed = Bed::new()?;
    let mut command = bed.command(env!("CARGO_BIN_EXE_codec-table"));
    command.args(["--quick", "--json"]);
    let finished = Run::start(&bed, "codec-table", command)?.wait()?;
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    let results = finished.json()?;
    for content in CONTENTS {
        let raw = wire_bytes(&results, content, "none")?;
        for setting in SETTINGS {
            let bytes = wire_bytes(&results, content, setting)?;
            // Not even headers may cost more than a thousandth.
            assert!(
                bytes <= raw + raw / 1000,
                "{content}, {setting}: {bytes} bytes, raw {raw}"
            );
        }
    }
    let raw = wire_bytes(&results, "mixed", "none")?;
    for setting in ["lz4", "zstd:-50", "zstd:-20", "zstd:1", "zstd:3", "zstd:7"] {
        let bytes = wire_bytes(&results, "mixed", setting)?;
        assert!(bytes < raw, "{setting}: {bytes} bytes, raw {raw}");
    }
    bed.finish();
    Ok(())
}
