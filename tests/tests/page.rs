//! `--report`: the page about a move, as a browser shows it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use pagelift_tests::{Bed, Browser, Finished, Programs, Run, Theme, require};

/// A demo that writes a page, beside the page.
fn demo(bed: &Bed, options: &[&str]) -> Result<(Finished, PathBuf)> {
    let page = bed.dir().join("page.html");
    let mut command = Programs::built()?.command(bed, "pagelift");
    command.arg("demo").args(options).arg("--report").arg(&page);
    Ok((Run::start(bed, "demo", command)?.wait()?, page))
}

/// What the browser makes of the page; the page must not have been complained of.
fn read(bed: &Bed, browser: Browser, page: &Path) -> Result<String> {
    let (elements, complaints) = browser.elements(bed.dir(), page)?;
    assert!(
        !complaints.contains("Content Security Policy"),
        "{complaints}"
    );
    assert!(!complaints.contains("Refused to"), "{complaints}");
    Ok(elements)
}

fn occurrences(text: &str, words: &str) -> usize {
    text.matches(words).count()
}

#[test]
fn a_page_shows_a_move_in_a_browser() -> Result<()> {
    let browser = require!(Browser::find());
    let bed = Bed::new()?;
    let options = ["--memory=32MiB", "--link=400Mbit/s", "--json"];
    let (finished, page) = demo(&bed, &options)?;
    assert_eq!(finished.code(), 0, "{finished:?}");
    let report = finished.json()?;
    let elements = read(&bed, browser, &page)?;
    for id in ["why", "timeline", "downtime", "pages", "stages", "rounds"] {
        assert_eq!(
            occurrences(&elements, &format!(" id=\"{id}\"")),
            1,
            "{id}: {elements}"
        );
    }
    let downtime = format!("{:.1} ms", report["downtime_ms"].as_f64().unwrap_or(-1.0));
    for words in [
        "<h1>The guest runs on the target</h1>",
        &downtime,
        "(limit 50 ms)",
        ">\nLeft to send\n<",
        ">\nDowntime if stopped then\n<",
        ">\nThrottle\n<",
        ">Device state<",
        ">Never populated<",
        ">stop the guest<",
    ] {
        assert!(elements.contains(words), "{words}: {elements}");
    }
    // The browser has read the plot as a picture: text of the library is text of the page.
    assert_eq!(occurrences(&elements, "<svg "), 1);
    assert!(occurrences(&elements, "<polyline ") > 10, "{elements}");
    // One row of the table for each round but the last, which no decision ended.
    let rows = report["rounds"].as_u64().unwrap_or(0) as usize - 1;
    let table = elements.split(" id=\"rounds\"").nth(1).unwrap_or_default();
    assert_eq!(occurrences(table, "<tr>"), rows + 1, "{elements}");

    // Nothing is loaded from elsewhere, and nothing runs.
    let text = fs::read_to_string(&page)?;
    for words in [
        "<script", "href=", "src=", "url(", "@import", "http://", "https://",
    ] {
        let allowed = usize::from(words == "http://");
        assert_eq!(occurrences(&text, words), allowed, "{words}: {text}");
    }
    assert!(
        text.contains("xmlns=\"http://www.w3.org/2000/svg\""),
        "{text}"
    );

    let light = browser.picture(bed.dir(), &page, Theme::Light)?;
    let dark = browser.picture(bed.dir(), &page, Theme::Dark)?;
    for picture in [&light, &dark] {
        assert!(picture.starts_with(b"\x89PNG"));
        assert!(
            picture.len() > 30_000,
            "{} bytes: an empty page",
            picture.len()
        );
    }
    assert_ne!(light, dark, "a dark page is another one");
    bed.finish();
    Ok(())
}

#[test]
fn a_page_shows_why_a_guest_did_not_move() -> Result<()> {
    let browser = require!(Browser::find());
    let bed = Bed::new()?;
    let options = [
        "--memory=16MiB",
        "--link=8Mbit/s",
        "--deadline=2s",
        "--json",
    ];
    let (finished, page) = demo(&bed, &options)?;
    assert_eq!(finished.code(), 1, "{finished:?}");
    let elements = read(&bed, browser, &page)?;
    for words in [
        ">failed<",
        "<h1>The guest is on the source</h1>",
        "The time limit of 2 s is over",
        " id=\"timeline\"",
        " id=\"stages\"",
    ] {
        assert!(elements.contains(words), "{words}: {elements}");
    }
    assert!(!elements.contains(" id=\"downtime\""), "{elements}");
    bed.finish();
    Ok(())
}

/// A guest is not stopped, nor a target kept waiting, for a page that cannot be written.
#[test]
fn a_page_that_cannot_be_written_is_refused_at_once() -> Result<()> {
    let bed = Bed::new()?;
    let mut command = Programs::built()?.command(&bed, "pagelift");
    command.args(["demo", "--report=/dev/null/page.html"]);
    let finished = Run::start(&bed, "demo", command)?.wait()?;
    assert_eq!(finished.code(), 1, "{finished:?}");
    for words in [
        "cannot write the report /dev/null/page.html",
        "yours to write",
    ] {
        assert!(finished.stderr.contains(words), "{finished:?}");
    }
    assert_eq!(finished.stdout, "");
    bed.finish();
    Ok(())
}
