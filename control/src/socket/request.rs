//! Requests on the control socket: one line of JSON each.

use pagelift_engine::converge::{AtDeadline, PolicyKind};
use pagelift_engine::pipeline::Settings;
use serde_json::{Map, Value};

use crate::job::values::{self, Deadline, MaxThrottle};

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub enum ControlRequest {
    /// Asks where the migration is.
    Status,
    /// Changes settings.
    Set(Vec<Change>),
    /// Ends the migration.
    Cancel,
}

/// One setting and its new position.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    setting: Setting,
    text: String,
}

/// What can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    AtDeadline,
    Bandwidth,
    Deadline,
    Downtime,
    MaxThrottle,
    Policy,
}

/// The settings by their names.
const SETTINGS: [(&str, Setting); 6] = [
    ("at_deadline", Setting::AtDeadline),
    ("bandwidth", Setting::Bandwidth),
    ("deadline", Setting::Deadline),
    ("downtime", Setting::Downtime),
    ("max_throttle", Setting::MaxThrottle),
    ("policy", Setting::Policy),
];

/// Why a line is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// It is no JSON.
    #[error("a request is one JSON object on a line: {0}")]
    NotJson(String),
    /// It has no known command.
    #[error("there is no command {0}; the commands are status, set and cancel")]
    NoCommand(String),
    /// A member that the command does not have.
    #[error("{command} takes no {name:?}; set takes {}", names())]
    Unknown {
        /// The command.
        command: &'static str,
        /// The member.
        name: String,
    },
    /// A value that makes no sense.
    #[error("{name}: {why}")]
    Value {
        /// The member.
        name: &'static str,
        /// Why not.
        why: String,
    },
    /// Nothing to set.
    #[error("set what? It takes {}", names())]
    NothingToSet,
}

fn names() -> String {
    SETTINGS.map(|(name, _)| name).join(", ")
}

impl ControlRequest {
    /// Reads a line.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(line: &[u8]) -> Result<Self, BadRequest> {
        let value: Value =
            serde_json::from_slice(line).map_err(|error| BadRequest::NotJson(error.to_string()))?;
        let Value::Object(mut members) = value else {
            return Err(BadRequest::NotJson("this is another kind of value".into()));
        };
        let command = members.remove("command").unwrap_or_default();
        match command.as_str() {
            Some("status") => nothing_else("status", &members).map(|()| Self::Status),
            Some("cancel") => nothing_else("cancel", &members).map(|()| Self::Cancel),
            Some("set") => changes(members).map(Self::Set),
            _ => Err(BadRequest::NoCommand(command.to_string())),
        }
    }
}

fn nothing_else(command: &'static str, members: &Map<String, Value>) -> Result<(), BadRequest> {
    members.keys().next().map_or(Ok(()), |name| {
        let name = name.clone();
        Err(BadRequest::Unknown { command, name })
    })
}

fn changes(members: Map<String, Value>) -> Result<Vec<Change>, BadRequest> {
    let change = |(name, value): (String, Value)| {
        let known = SETTINGS.into_iter().find(|(known, _)| *known == name);
        let (name, setting) = known.ok_or(BadRequest::Unknown {
            command: "set",
            name,
        })?;
        let text = match value {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Null => "none".into(),
            other => {
                let why = format!("write a text, not {other}");
                return Err(BadRequest::Value { name, why });
            }
        };
        let change = Change { setting, text };
        // Tried on what is there at the start, so that all of them are made or none.
        let tried = change.make(&mut Settings::default());
        tried.map_err(|why| BadRequest::Value { name, why })?;
        Ok(change)
    };
    let changes: Vec<_> = members.into_iter().map(change).collect::<Result<_, _>>()?;
    if changes.is_empty() {
        return Err(BadRequest::NothingToSet);
    }
    Ok(changes)
}

impl Change {
    /// Makes the change.
    ///
    /// # Errors
    /// When its text makes no sense, whatever the settings: [`ControlRequest::parse`] has refused it.
    pub fn make(&self, settings: &mut Settings) -> Result<(), String> {
        let (text, limits) = (self.text.as_str(), &mut settings.limits);
        match self.setting {
            Setting::AtDeadline => {
                let action = AtDeadline::from_name(text);
                let names = AtDeadline::ALL.map(AtDeadline::name).join(", ");
                limits.at_deadline = action.ok_or_else(|| no_such(text, &names))?;
            }
            Setting::Bandwidth => {
                settings.bandwidth = match text {
                    "none" => None,
                    _ => Some(values::rate(text).map_err(|why| format!("{why}; or none"))?),
                };
            }
            Setting::Deadline => {
                let Deadline(deadline) = values::deadline(text)?;
                limits.deadline = deadline;
            }
            Setting::Downtime => limits.downtime = values::downtime(text)?,
            Setting::MaxThrottle => {
                let MaxThrottle(most) = values::max_throttle(text)?;
                limits.throttle_most = most;
            }
            Setting::Policy => {
                let names = PolicyKind::ALL.map(PolicyKind::name).join(", ");
                let policy = PolicyKind::from_name(text);
                limits.policy = policy.ok_or_else(|| no_such(text, &names))?;
            }
        }
        Ok(())
    }
}

fn no_such(text: &str, names: &str) -> String {
    format!("{text:?} is none of {names}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagelift_engine::converge::{Downtime, ThrottleShare};
    use pagelift_engine::units::Rate;
    use std::time::Duration;

    fn set(line: &str) -> Settings {
        let Ok(ControlRequest::Set(changes)) = ControlRequest::parse(line.as_bytes()) else {
            panic!("{line}")
        };
        let mut settings = Settings::default();
        for change in changes {
            change.make(&mut settings).unwrap();
        }
        settings
    }

    #[test]
    fn every_knob_can_be_turned() {
        let ms = Duration::from_millis;
        let settings = set(
            r#"{"command":"set","downtime":"50ms..500ms","bandwidth":"8Mbit/s","policy":"classic",
                "deadline":"30s","at_deadline":"stop-trying","max_throttle":"40"}"#,
        );
        let limits = settings.limits;
        assert_eq!(Some(limits.downtime), Downtime::growing(ms(50), ms(500)));
        assert_eq!(settings.bandwidth, Some(Rate(1_000_000)));
        assert_eq!(limits.policy, PolicyKind::Classic);
        assert_eq!(limits.deadline, Some(ms(30_000)));
        assert_eq!(limits.at_deadline, AtDeadline::StopTrying);
        assert_eq!(limits.throttle_most, Some(ThrottleShare::permille(400)));
        let lifted =
            set(r#"{"command":"set","bandwidth":null,"deadline":"none","max_throttle":0}"#);
        assert_eq!((lifted.bandwidth, lifted.limits.deadline), (None, None));
        assert_eq!(lifted.limits.throttle_most, Some(ThrottleShare::NONE));
        let auto = set(r#"{"command":"set","max_throttle":"auto"}"#);
        assert_eq!(auto.limits.throttle_most, None);
    }

    #[test]
    fn the_other_commands_stand_alone() {
        let parse = |line: &str| ControlRequest::parse(line.as_bytes());
        assert_eq!(parse(r#"{"command":"status"}"#), Ok(ControlRequest::Status));
        assert_eq!(
            parse(r#" {"command":"cancel"} "#),
            Ok(ControlRequest::Cancel)
        );
        assert!(parse(r#"{"command":"cancel","now":true}"#).is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_way_out() {
        for (line, words) in [
            ("", "one JSON object on a line"),
            ("status", "one JSON object on a line"),
            ("[]", "another kind of value"),
            (
                "{}",
                "there is no command null; the commands are status, set",
            ),
            (r#"{"command":"stop"}"#, "no command \"stop\""),
            (
                r#"{"command":"set"}"#,
                "set what? It takes at_deadline, bandwidth",
            ),
            (r#"{"command":"set","speed":"1"}"#, "set takes no \"speed\""),
            (r#"{"command":"set","downtime":"50"}"#, "downtime: "),
            (
                r#"{"command":"set","downtime":"9ms..1ms"}"#,
                "must be the longer one",
            ),
            (
                r#"{"command":"set","bandwidth":"0MiB/s"}"#,
                "bandwidth: a rate of zero",
            ),
            (
                r#"{"command":"set","policy":"best"}"#,
                "none of predictive, classic, none",
            ),
            (
                r#"{"command":"set","at_deadline":"x"}"#,
                "cancel, stop-trying, force",
            ),
            (r#"{"command":"set","max_throttle":"100"}"#, "from 0 to 99"),
            (r#"{"command":"set","max_throttle":-1}"#, "from 0 to 99"),
            (
                r#"{"command":"set","deadline":[1]}"#,
                "deadline: write a text",
            ),
        ] {
            let error = ControlRequest::parse(line.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
