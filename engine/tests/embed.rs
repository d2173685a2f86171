//! The example that docs/embedding.md walks through, run as a user would.

use std::path::PathBuf;
use std::process::Command;

/// The example's program: beside the tests, where cargo has put it, or built now.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    let program = profile.join("examples/embed");
    if !program.exists() {
        let cargo = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "pagelift-engine"])
            .args(["--example", "embed"])
            .status()
            .unwrap();
        assert!(cargo.success());
    }
    program
}

#[test]
fn a_guest_moves_between_two_processes() {
    let ran = Command::new("timeout")
        .arg("60")
        .arg(program())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{ran:?}");
    assert!(said.contains("left: DowntimeParts"), "{said}");
    assert!(said.contains("arrived: "), "{said}");
    assert!(said.contains("source: exit status: 0"), "{said}");
}

/// The lines of `text`, without what indents them.
fn unindented(text: &str) -> String {
    let lines = text.lines().map(str::trim_start);
    lines.fold(String::new(), |all, line| all + line + "\n")
}

#[test]
fn the_code_in_the_walk_through_is_code_that_runs() {
    let guide = include_str!("../../docs/embedding.md");
    let sources = [
        unindented(include_str!("../examples/embed.rs")),
        unindented(include_str!("job.rs")),
    ];
    let snippets: Vec<_> = guide.split("```rust\n").skip(1).collect();
    assert!(snippets.len() >= 5, "{} snippets", snippets.len());
    for snippet in snippets {
        let (code, _) = snippet.split_once("```").expect("a block that ends");
        let code = unindented(code);
        assert!(
            sources.iter().any(|source| source.contains(&code)),
            "in no program:\n{code}"
        );
    }
}
