//! Text from outside (a peer, a hypervisor, an agent), made fit to be shown.
//!
//! Such text may hold what a terminal takes for commands, or line breaks behind which it forges
//! words of ours. Whoever puts it into an error, a report or a log passes it through [`line()`];
//! whatever reaches a terminal passes [`lines`] at last, which keeps our own line breaks.

/// Most characters that are kept of one text; more say nothing more to a reader.
const CHARS_MAX: usize = 4096;

/// `text` in one line: what is not printable is escaped as in Rust (`\n`, `\u{1b}`), and what is
/// beyond 4096 characters is cut off, with `...` in its place.
pub fn line(text: &str) -> String {
    let mut plain = escaped(text.chars().take(CHARS_MAX), |_| false);
    if text.chars().nth(CHARS_MAX).is_some() {
        plain.push_str("...");
    }
    plain
}

/// `text`, whose line breaks and tabs are meant: all else that is not printable is escaped.
pub fn lines(text: &str) -> String {
    escaped(text.chars(), |character| matches!(character, '\n' | '\t'))
}

fn escaped(text: impl Iterator<Item = char>, is_kept: impl Fn(char) -> bool) -> String {
    let mut plain = String::new();
    for character in text {
        if is_kept(character) || is_printable(character) {
            plain.push(character);
        } else {
            plain.extend(character.escape_debug());
        }
    }
    plain
}

/// Whether a terminal shows a character where it stands, and as itself: no control characters,
/// and none that change the direction of what follows, end a line, or are not seen.
fn is_printable(character: char) -> bool {
    let is_unseen = matches!(
        character,
        '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{e0000}'..='\u{e0fff}'
    );
    !character.is_control() && !is_unseen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(
            line("\u{1b}[2J\r\nerror: \u{202e}x\u{9b}1m"),
            "\\u{1b}[2J\\r\\nerror: \\u{202e}x\\u{9b}1m"
        );
        assert_eq!(lines("a\n\tb\u{1b}c\u{7}"), "a\n\tb\\u{1b}c\\u{7}");
        // Ordinary text is as it was.
        for text in ["", "it's \"pc.ram\" \\ 50 \u{b5}s, \u{4e2d}\u{6587}"] {
            assert_eq!(
                (line(text), lines(text)),
                (text.to_owned(), text.to_owned())
            );
        }
    }

    #[test]
    fn a_long_text_is_cut() {
        let cut = line(&"\u{e9}".repeat(CHARS_MAX + 1));
        assert_eq!(cut.chars().count(), CHARS_MAX + 3);
        assert!(cut.ends_with("\u{e9}..."));
        assert!(!line(&"x".repeat(CHARS_MAX)).ends_with("..."));
    }

    proptest! {
        #[test]
        fn nothing_unprintable_is_left(text in any::<String>()) {
            prop_assert!(line(&text).chars().all(is_printable));
            prop_assert!(lines(&text).chars().all(|c| is_printable(c) || "\n\t".contains(c)));
        }
    }
}
