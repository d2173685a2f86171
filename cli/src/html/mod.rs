//! `--report`: one page about one move, for people, in a file of its own.
//!
//! The page needs nothing from elsewhere and runs no script; its policy forbids both. It follows
//! the reader's light or dark theme. All text is escaped by the template language.

mod bars;
mod figures;
mod rounds;

use std::fs::OpenOptions;
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::Args;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use pagelift_control::driver::Side;
use pagelift_engine::migration::{Failure, GuestLocation, MigrationError, Report};

use crate::advice::advice;
use crate::plot;
use crate::print;
use crate::recording::{Recorded, Recording};
use crate::report::{Extra, summary};

const STYLE: &str = include_str!("style.css");

/// What the page may load: styles and pictures of its own, and nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// Whether a page is written.
#[derive(Args, Clone, Debug)]
pub struct PageOptions {
    /// Write a page about the move, with a timeline: one HTML file that needs nothing else
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

impl PageOptions {
    /// What the page needs to be recorded; `None`: none is wanted.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn begin(&self) -> Result<Option<Recording>> {
        let Some(path) = &self.report else {
            return Ok(None);
        };
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path);
        opened.map_err(|error| {
            let path = path.display();
            anyhow!("cannot write the report {path}: {error}; name a file that is yours to write")
        })?;
        Ok(Some(Recording::default()))
    }

    /// Writes the page, if one is wanted. The move has ended: that it cannot be written is said, and
    /// changes nothing.
    pub fn write(&self, this: &Move<'_>) {
        if let Some(path) = &self.report
            && let Err(error) = std::fs::write(path, page(this))
        {
            let path = path.display();
            print::note(format_args!(
                "warning: cannot write the report {path}: {error}"
            ));
        }
    }
}

/// A move that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Move<'a> {
    /// What moved and where, in a few words.
    pub title: &'a str,
    /// How it ended.
    pub outcome: Result<&'a Report, &'a Failure>,
    /// What the program knows of it beside that.
    pub extra: &'a Extra,
    /// What was recorded meanwhile.
    pub recorded: &'a Recorded,
}

/// The page about `this` move.
pub fn page(this: &Move<'_>) -> String {
    let (word, good) = word(this.outcome);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "pagelift: " (this.title) ", " (word) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    span class=@if good { "pill" } @else { "pill bad" } { (word) }
                    h1 { (capitalized(headline(this.outcome))) }
                    p.faint { (this.title) }
                    (lead(this))
                }
                main {
                    (figures::figures(this))
                    section #timeline {
                        h2 { "Timeline" }
                        (PreEscaped(plot::svg(&this.recorded.timeline(this.ended_s()), None)))
                    }
                    @if let Ok(report) = this.outcome {
                        (bars::downtime(report, this.extra))
                        div.pair {
                            (bars::pages(report))
                            (bars::stages(&report.stages))
                        }
                    } @else if let Some(status) = &this.extra.status {
                        (bars::stages(&status.stages))
                    }
                    (rounds::rounds(&this.recorded.records))
                }
                footer {
                    "pagelift " (env!("CARGO_PKG_VERSION"))
                    @if let Some(session) = this.extra.session { ", migration " (session) }
                }
            }
        }
    };
    page.into_string()
}

impl Move<'_> {
    /// Seconds from its beginning to its end.
    fn ended_s(&self) -> f64 {
        let time = self
            .outcome
            .map_or(self.extra.elapsed, |report| report.total);
        time.as_secs_f64()
    }
}

/// The outcome in one word, and whether it is a good one.
fn word(outcome: Result<&Report, &Failure>) -> (&'static str, bool) {
    match outcome {
        Ok(_) => ("completed", true),
        Err(failure) => match (&failure.error, failure.guest) {
            (_, GuestLocation::Unknown) => ("unknown", false),
            (MigrationError::Cancelled, _) => ("cancelled", false),
            _ => ("failed", false),
        },
    }
}

fn headline(outcome: Result<&Report, &Failure>) -> &'static str {
    match outcome {
        Ok(_) => "the guest runs on the target",
        Err(failure) => summary::place(failure),
    }
}

/// Why it ended so, or what bounded it, and what to do now.
fn lead(this: &Move<'_>) -> Markup {
    match this.outcome {
        Ok(report) => html! {
            @if let Some(sentence) = summary::sentence(report, this.extra) {
                p.lead #why { (capitalized(&sentence)) "." }
            }
        },
        Err(failure) => {
            let (why, remedy) = summary::why(failure);
            html! {
                p.lead #why { (capitalized(&why)) "." }
                @if let Some(remedy) = remedy { p.lead { (capitalized(&remedy)) "." } }
                @if let Some(advice) = advice(failure, Side::Source) {
                    p.lead { (capitalized(advice)) "." }
                }
            }
        }
    }
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_wherever_it_comes_from() {
        let failure = Failure {
            error: MigrationError::Guest("<script>alert(1)</script> & \"more\"".into()),
            guest: GuestLocation::Unknown,
        };
        let page = page(&Move {
            title: "to <b>host</b>",
            outcome: Err(&failure),
            extra: &Extra::default(),
            recorded: &Recorded::default(),
        });
        assert!(!page.contains("<script") && !page.contains("<b>"), "{page}");
        assert!(page.contains("to &lt;b&gt;host&lt;/b&gt;"), "{page}");
        assert!(
            page.contains("&lt;script&gt;alert(1)&lt;/script&gt; &amp;"),
            "{page}"
        );
        // What to do about a guest whose place is not known is on the page as well.
        assert!(page.contains("Look at the target"), "{page}");
    }

    #[test]
    fn a_completed_move_has_all_sections() {
        let report = Report::default();
        let page = page(&Move {
            title: "",
            outcome: Ok(&report),
            extra: &Extra::default(),
            recorded: &Recorded::default(),
        });
        for id in ["timeline", "downtime", "pages", "stages", "rounds"] {
            assert!(page.contains(&format!("id=\"{id}\"")), "{id}: {page}");
        }
        assert!(page.contains(POLICY.replace('\'', "&#39;").as_str()) || page.contains(POLICY));
    }
}
