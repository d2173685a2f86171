//! The steps of a rollback script: a closed list, so that a script can undo a migration and do
//! nothing else.
//!
//! Each becomes one command of QEMU's monitor ([`RollbackStep::command`]). What a step takes from
//! outside is a name of a small alphabet or a value that is escaped: no command can be built in
//! it.

use std::fmt::Write;

use crate::MAX_NAME_BYTES;
use crate::bytes::{DecodeError, Reader};

/// Most settings in one step: their number is one byte.
const MAX_SETTINGS: usize = 255;

/// Longest text of a parameter in bytes: its length is one byte.
const MAX_TEXT_BYTES: usize = 255;

/// A name in QEMU: of a setting, or of a node of its block graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// A name of letters, digits and `-._#`, 1 to [`MAX_NAME_BYTES`] of them.
    ///
    /// # Errors
    /// For any other text.
    pub fn new(text: &str) -> Result<Self, DecodeError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._#".contains(&byte);
        if text.is_empty() || text.len() > MAX_NAME_BYTES || !text.bytes().all(is_plain) {
            let rule = "must have 1 to 64 letters, digits, '-', '.', '_' or '#'";
            return Err(DecodeError::Field("name", rule));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The value of a parameter of QEMU's migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParameterValue {
    /// A number.
    Number(u64),
    /// On or off.
    Flag(bool),
    /// A text of at most 255 bytes without control characters.
    Text(String),
}

/// One step of a rollback script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RollbackStep {
    /// `migrate_cancel`: ends a migration that is under way, and with it the guest's stop.
    CancelMigration,
    /// `cont`: lets the guest go on.
    Continue,
    /// `migrate-set-capabilities`: at most 255.
    SetCapabilities(Vec<(Name, bool)>),
    /// `migrate-set-parameters`: at most 255.
    SetParameters(Vec<(Name, ParameterValue)>),
    /// Lets the disk with this node bypass the host's page cache again.
    DirectDisk(Name),
    /// `quit`: ends a target's QEMU, which has some of a guest that was not promised to it.
    Quit,
}

const CANCEL_MIGRATION: u8 = 1;
const CONTINUE: u8 = 2;
const SET_CAPABILITIES: u8 = 3;
const SET_PARAMETERS: u8 = 4;
const DIRECT_DISK: u8 = 5;
const QUIT: u8 = 6;

const NUMBER: u8 = 1;
const FLAG: u8 = 2;
const TEXT: u8 = 3;

impl RollbackStep {
    /// The step as one line for QEMU's monitor, without the line break.
    pub fn command(&self) -> String {
        match self {
            Self::CancelMigration => r#"{"execute":"migrate_cancel"}"#.into(),
            Self::Continue => r#"{"execute":"cont"}"#.into(),
            Self::SetCapabilities(list) => {
                let item = |(name, state): &(Name, bool)| {
                    format!(r#"{{"capability":"{}","state":{state}}}"#, name.0)
                };
                let list: Vec<String> = list.iter().map(item).collect();
                format!(
                    r#"{{"execute":"migrate-set-capabilities","arguments":{{"capabilities":[{}]}}}}"#,
                    list.join(",")
                )
            }
            Self::SetParameters(list) => {
                let item = |(name, value): &(Name, ParameterValue)| {
                    format!(r#""{}":{}"#, name.0, value.json())
                };
                let list: Vec<String> = list.iter().map(item).collect();
                format!(
                    r#"{{"execute":"migrate-set-parameters","arguments":{{{}}}}}"#,
                    list.join(",")
                )
            }
            Self::DirectDisk(node) => format!(
                r#"{{"execute":"human-monitor-command","arguments":{{"command-line":"qemu-io {} \"reopen -o cache.direct=on\""}}}}"#,
                node.0
            ),
            Self::Quit => r#"{"execute":"quit"}"#.into(),
        }
    }

    /// That the step keeps the limits of the format.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        let settings = match self {
            Self::SetCapabilities(list) => list.len(),
            Self::SetParameters(list) => {
                list.iter().try_for_each(|(_, value)| value.check())?;
                list.len()
            }
            Self::CancelMigration | Self::Continue | Self::DirectDisk(_) | Self::Quit => 1,
        };
        if settings == 0 || settings > MAX_SETTINGS {
            return Err(DecodeError::Field("settings", "must be 1 to 255"));
        }
        Ok(())
    }

    /// Appends a step that was checked.
    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::CancelMigration => bytes.push(CANCEL_MIGRATION),
            Self::Continue => bytes.push(CONTINUE),
            Self::SetCapabilities(list) => {
                bytes.extend([SET_CAPABILITIES, one_byte(list.len())]);
                for (name, state) in list {
                    push_text(bytes, &name.0);
                    bytes.push(u8::from(*state));
                }
            }
            Self::SetParameters(list) => {
                bytes.extend([SET_PARAMETERS, one_byte(list.len())]);
                for (name, value) in list {
                    push_text(bytes, &name.0);
                    value.encode(bytes);
                }
            }
            Self::DirectDisk(node) => {
                bytes.push(DIRECT_DISK);
                push_text(bytes, &node.0);
            }
            Self::Quit => bytes.push(QUIT),
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match reader.u8()? {
            CANCEL_MIGRATION => Self::CancelMigration,
            CONTINUE => Self::Continue,
            SET_CAPABILITIES => {
                let count = reader.u8()?;
                let item = |_| Ok((name(reader)?, flag(reader)?));
                Self::SetCapabilities((0..count).map(item).collect::<Result<_, DecodeError>>()?)
            }
            SET_PARAMETERS => {
                let count = reader.u8()?;
                let item = |_| Ok((name(reader)?, ParameterValue::decode(reader)?));
                Self::SetParameters((0..count).map(item).collect::<Result<_, DecodeError>>()?)
            }
            DIRECT_DISK => Self::DirectDisk(name(reader)?),
            QUIT => Self::Quit,
            _ => return Err(DecodeError::Field("step", "must be 1 to 6")),
        })
    }
}

impl ParameterValue {
    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Text(text) if text.len() > MAX_TEXT_BYTES => {
                Err(DecodeError::Field("text", "has at most 255 bytes"))
            }
            Self::Text(text) if text.chars().any(char::is_control) => Err(DecodeError::Field(
                "text",
                "must be without control characters",
            )),
            _ => Ok(()),
        }
    }

    fn json(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::Text(text) => {
                let mut json = String::from('"');
                for character in text.chars() {
                    match character {
                        '"' | '\\' => write!(json, "\\{character}"),
                        _ => write!(json, "{character}"),
                    }
                    .expect("a String takes everything");
                }
                json + "\""
            }
        }
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Number(number) => {
                bytes.push(NUMBER);
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            Self::Flag(flag) => bytes.extend([FLAG, u8::from(*flag)]),
            Self::Text(text) => {
                bytes.push(TEXT);
                push_text(bytes, text);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match reader.u8()? {
            NUMBER => Self::Number(reader.u64()?),
            FLAG => Self::Flag(flag(reader)?),
            TEXT => Self::Text(text(reader)?.to_owned()),
            _ => return Err(DecodeError::Field("kind of value", "must be 1 to 3")),
        })
    }
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(one_byte(text.len()));
    bytes.extend_from_slice(text.as_bytes());
}

fn one_byte(count: usize) -> u8 {
    u8::try_from(count).expect("names, texts and lists are capped at 255")
}

fn text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let bytes = usize::from(reader.u8()?);
    std::str::from_utf8(reader.take(bytes)?)
        .map_err(|_| DecodeError::Field("text", "must be UTF-8"))
}

fn name(reader: &mut Reader<'_>) -> Result<Name, DecodeError> {
    Name::new(text(reader)?)
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Field("flag", "must be 0 or 1")),
    }
}
