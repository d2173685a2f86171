//! The value of an option like `-object`: properties, as `key=value,...` or as JSON.
//!
//! Properties that nobody asks to change keep their bytes in the first form and their values
//! in the second (the order of members means nothing in JSON). In the first form a comma
//! inside a value is written twice, and a bare first word is the value of an implied key.

use serde_json::{Map, Value};

/// The properties of one option.
#[derive(Clone, Debug)]
pub(super) enum Properties {
    /// The pieces between single commas, each `key=value`, as written.
    KeyValue(Vec<String>),
    /// A JSON object.
    Json(Map<String, Value>),
}

impl Properties {
    /// Reads the value of an option; a bare first word becomes the value of `implied_key`.
    ///
    /// # Errors
    /// When the text begins like JSON and is none; says where.
    pub(super) fn parse(text: &str, implied_key: &str) -> Result<Self, serde_json::Error> {
        if text.starts_with('{') {
            return serde_json::from_str(text).map(Self::Json);
        }
        let mut pieces = pieces(text);
        if let Some(first) = pieces.first_mut()
            && !first.contains('=')
        {
            *first = format!("{implied_key}={first}");
        }
        Ok(Self::KeyValue(pieces))
    }

    /// The value of the last property `key`, its escapes resolved.
    pub(super) fn get(&self, key: &str) -> Option<String> {
        match self {
            Self::KeyValue(pieces) => pieces
                .iter()
                .rev()
                .find_map(|piece| value_of(piece, key))
                .map(|value| value.replace(",,", ",")),
            Self::Json(map) => map.get(key).map(|value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            }),
        }
    }

    /// Whether the property `key` is there and switched on.
    pub(super) fn is_on(&self, key: &str) -> bool {
        self.get(key)
            .is_some_and(|value| matches!(value.as_str(), "on" | "yes" | "true" | "y"))
    }

    /// Takes the property `key` away, however often it is there.
    pub(super) fn remove(&mut self, key: &str) {
        match self {
            Self::KeyValue(pieces) => pieces.retain(|piece| value_of(piece, key).is_none()),
            Self::Json(map) => {
                map.remove(key);
            }
        }
    }

    /// Sets the property `key` to a text, where it was or at the end.
    pub(super) fn set_text(&mut self, key: &str, value: &str) {
        match self {
            Self::KeyValue(pieces) => {
                let piece = format!("{key}={}", value.replace(',', ",,"));
                let place = pieces
                    .iter()
                    .position(|piece| value_of(piece, key).is_some());
                self.remove_and_put(key, place, piece);
            }
            Self::Json(map) => {
                map.insert(key.to_owned(), Value::from(value));
            }
        }
    }

    /// Switches the property `key` on.
    pub(super) fn set_on(&mut self, key: &str) {
        match self {
            Self::KeyValue(_) => self.set_text(key, "on"),
            Self::Json(map) => {
                map.insert(key.to_owned(), Value::from(true));
            }
        }
    }

    fn remove_and_put(&mut self, key: &str, place: Option<usize>, piece: String) {
        self.remove(key);
        if let Self::KeyValue(pieces) = self {
            let place = place.unwrap_or(pieces.len()).min(pieces.len());
            pieces.insert(place, piece);
        }
    }

    /// The value of the option, written out.
    pub(super) fn to_text(&self) -> String {
        match self {
            Self::KeyValue(pieces) => pieces.join(","),
            Self::Json(map) => Value::Object(map.clone()).to_string(),
        }
    }
}

/// Splits at single commas; doubled ones stay, doubled, inside their piece.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut piece = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != ',' {
            piece.push(c);
        } else if chars.next_if_eq(&',').is_some() {
            piece.push_str(",,");
        } else {
            pieces.push(std::mem::take(&mut piece));
        }
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

/// The value in `piece` if it is of `key`; `key` alone and `nokey` are old forms of on and off.
fn value_of<'a>(piece: &'a str, key: &str) -> Option<&'a str> {
    match piece.split_once('=') {
        Some((found, value)) => (found == key).then_some(value),
        None if piece == key => Some("on"),
        None => (piece.strip_prefix("no") == Some(key)).then_some("off"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Properties {
        Properties::parse(text, "type").unwrap()
    }

    #[test]
    fn both_forms_answer_alike() {
        let pairs = parse("pc,size=64M,share=on,path=/a,,b,share=off,merge,nodump");
        assert_eq!(pairs.get("type").as_deref(), Some("pc"));
        assert_eq!(pairs.get("path").as_deref(), Some("/a,b"));
        assert!(!pairs.is_on("share"), "the last one counts");
        assert!(pairs.is_on("merge"));
        assert_eq!(pairs.get("dump").as_deref(), Some("off"));
        assert_eq!(pairs.get("absent"), None);

        let json = parse(r#"{"type": "pc", "size": 67108864, "share": true}"#);
        assert_eq!(json.get("type").as_deref(), Some("pc"));
        assert_eq!(json.get("size").as_deref(), Some("67108864"));
        assert!(json.is_on("share"));
        assert!(Properties::parse("{broken", "type").is_err());
        assert!(Properties::parse("{} x", "type").is_err());
    }

    #[test]
    fn only_what_is_set_changes() {
        let mut pairs = parse("a=1,share=off,host-nodes=0,host-nodes=2,x=,,,share=off");
        pairs.set_on("share");
        pairs.set_text("mem-path", "/d,e");
        pairs.remove("a");
        assert_eq!(
            pairs.to_text(),
            "share=on,host-nodes=0,host-nodes=2,x=,,,mem-path=/d,,e"
        );
        let mut json = parse(r#"{"b":[0,2],"a":null}"#);
        json.set_on("share");
        json.set_text("mem-path", "/d,e");
        assert_eq!(
            json.to_text(),
            r#"{"a":null,"b":[0,2],"mem-path":"/d,e","share":true}"#
        );
    }
}
