//! What the agent reads that is not its own format: tells the reply to a QMP command from the
//! events around it, without a JSON library.
//!
//! A line of QMP is one object. A reply has a top-level member `return` or `error`, an event
//! has `event`; the same words inside strings and nested values mean nothing (QMP
//! specification, "Commands responses" and "Asynchronous events"). QEMU writes valid JSON;
//! of anything else the answer is just [`Line::Other`].

/// What a line of QMP is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// The command succeeded.
    Return,
    /// The command failed.
    Error,
    /// An event, the greeting, or no QMP at all.
    Other,
}

/// Looks at the names of the members of the outermost object.
pub fn classify(line: &str) -> Line {
    let mut depth = 0_usize;
    let mut name_start = None;
    let mut is_escaped = false;
    let mut is_in_string = false;
    let mut last_string = "";
    let mut found = Line::Other;
    for (at, byte) in line.bytes().enumerate() {
        if is_in_string {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => {
                    is_in_string = false;
                    last_string = name_start.map_or("", |start| &line[start..at]);
                }
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => {
                is_in_string = true;
                name_start = Some(at + 1);
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b':' if depth == 1 => match last_string {
                "event" => return Line::Other,
                "return" => found = Line::Return,
                "error" => found = Line::Error,
                _ => {}
            },
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_outermost_names_decide() {
        let table = [
            (r#"{"return": {}}"#, Line::Return),
            (
                r#"{"return": {"event": "x", "error": 1}, "id": 1}"#,
                Line::Return,
            ),
            (r#"{"id": "error", "return": []}"#, Line::Return),
            (
                r#"{"error": {"class": "GenericError", "desc": "\"return\": {"}}"#,
                Line::Error,
            ),
            (
                r#"{"event": "BLOCK_JOB_COMPLETED", "data": {"error": "x"}}"#,
                Line::Other,
            ),
            (r#"{"data": {"return": 1}, "event": "E"}"#, Line::Other),
            (r#"{"error": 1, "event": "E"}"#, Line::Other),
            (
                r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#,
                Line::Other,
            ),
            (r#"{"a": "\\", "return": 1}"#, Line::Return),
            (r#"{"a": "\"return\":"}"#, Line::Other),
            (r#"}}]]{"return":"#, Line::Return),
            ("", Line::Other),
            ("\"", Line::Other),
            ("\u{e9}\"\u{e9}\":", Line::Other),
        ];
        for (line, kind) in table {
            assert_eq!(classify(line), kind, "{line}");
        }
    }
}
