//! The source: Begin, Perform, Confirm.

use super::{Answer, Client, Refusal};
use crate::domain::words::words;

/// Who goes from one side to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A client that is connected to both; the migration ends with its connection.
    Managed(Client),
    /// This daemon; clients come and go.
    PeerToPeer,
}

/// What the source has to do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceAction {
    /// QEMU is to stop sending; [`Source::performed`] follows with a failure.
    Cancel,
    /// The guest goes on here, if it ran when it was sent.
    Resume,
    /// The guest is the target's: QEMU ends here.
    Destroy,
    /// The target is to be asked; [`Source::answered`] follows, or [`Source::unanswered`].
    Ask,
    /// The guest stands still until the target answers or somebody decides: that is to be said.
    SayHeld,
    /// Nothing binds the guest to a migration any more: the record is removed.
    EndJob,
}

words! {
    /// What a daemon has to know of a source after it was killed.
    pub enum SourceRecord {
        /// Nothing was sent.
        Begun = "begun",
        /// Memory is being sent; the target cannot run the guest.
        Performing = "performing",
        /// The target has all of the guest, and may run it.
        Performed = "performed",
    }
}

/// The source of one guest.
///
/// Between a successful Perform and an answer the guest is nobody's to run here: no method leads from
/// there to [`SourceAction::Resume`] but those that have the target's word, or a person's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Source {
    /// The guest is not being moved.
    #[default]
    Idle,
    /// Begin was called.
    Begun {
        /// Who called.
        mode: Mode,
        /// Whether only the definition is moved.
        offline: bool,
    },
    /// Memory is being sent.
    Performing {
        /// Who called.
        mode: Mode,
        /// Whether QEMU was told to stop sending.
        cancelled: bool,
        /// Whether there is no way back (post-copy).
        bound: bool,
    },
    /// The target has all of the guest; Confirm is waited for.
    Performed {
        /// Who called.
        mode: Mode,
    },
    /// Whoever would have confirmed is gone, or says that the target does not have the guest: the
    /// target is asked.
    Asking {
        /// Whether the last time there was no answer.
        held: bool,
    },
}

type Step = Result<Vec<SourceAction>, Refusal>;

impl Source {
    /// Begin, with change protection: the guest is bound from here on.
    ///
    /// # Errors
    ///
    /// [`Refusal::AlreadyMoving`].
    pub const fn begin(&mut self, mode: Mode, offline: bool) -> Result<(), Refusal> {
        match self {
            Self::Idle => {
                *self = Self::Begun { mode, offline };
                Ok(())
            }
            _ => Err(Refusal::AlreadyMoving),
        }
    }

    /// Perform. Without change protection (`unprotected`) no Begin has bound the guest.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotMoving`] without Begin, [`Refusal::AlreadyMoving`] while memory is sent,
    /// [`Refusal::AlreadyPerformed`] after that.
    pub const fn perform(&mut self, mode: Mode, unprotected: bool) -> Result<(), Refusal> {
        match self {
            Self::Idle if !unprotected => Err(Refusal::NotMoving),
            Self::Idle | Self::Begun { offline: false, .. } => {
                *self = Self::Performing {
                    mode,
                    cancelled: false,
                    bound: false,
                };
                Ok(())
            }
            Self::Begun { offline: true, .. } => Err(Refusal::NotMoving),
            Self::Performing { .. } => Err(Refusal::AlreadyMoving),
            Self::Performed { .. } | Self::Asking { .. } => Err(Refusal::AlreadyPerformed),
        }
    }

    /// The target runs the guest before it has all of it: from here on only the target can fail.
    pub const fn postcopy(&mut self) {
        if let Self::Performing { bound, .. } = self {
            *bound = true;
        }
    }

    /// Perform has ended: with all of the guest on the target, or without.
    pub fn performed(&mut self, sent: bool) -> Vec<SourceAction> {
        let Self::Performing {
            mode,
            cancelled,
            bound,
        } = *self
        else {
            return Vec::new();
        };
        if sent || bound {
            // A client that was lost meanwhile could not cancel any more.
            if cancelled {
                return self.ask();
            }
            *self = Self::Performed { mode };
            return Vec::new();
        }
        *self = Self::Idle;
        vec![SourceAction::Resume, SourceAction::EndJob]
    }

    /// Confirm: the target runs the guest, or the caller believes that it does not (`cancelled`).
    ///
    /// # Errors
    ///
    /// [`Refusal::NotMoving`] without a migration, [`Refusal::AlreadyMoving`] while memory is sent,
    /// [`Refusal::NotPerformed`] for a guest that was not sent and is not to go on here.
    pub fn confirm(&mut self, cancelled: bool) -> Step {
        match *self {
            Self::Idle => Err(Refusal::NotMoving),
            Self::Begun { offline, .. } if cancelled || offline => {
                *self = Self::Idle;
                Ok(vec![SourceAction::EndJob])
            }
            Self::Begun { .. } => Err(Refusal::NotPerformed),
            Self::Performing { .. } => Err(Refusal::AlreadyMoving),
            Self::Performed { .. } if cancelled => Ok(self.ask()),
            Self::Asking { .. } if cancelled => Ok(Vec::new()),
            Self::Performed { .. } | Self::Asking { .. } => Ok(self.gone()),
        }
    }

    /// A client's connection has ended.
    pub fn client_lost(&mut self, client: Client) -> Vec<SourceAction> {
        match self {
            Self::Begun {
                mode: Mode::Managed(by),
                ..
            } if *by == client => {
                *self = Self::Idle;
                vec![SourceAction::EndJob]
            }
            Self::Performing {
                mode: Mode::Managed(by),
                ..
            } if *by == client => self.cancel().unwrap_or_default(),
            Self::Performed {
                mode: Mode::Managed(by),
            } if *by == client => self.ask(),
            _ => Vec::new(),
        }
    }

    /// Somebody wants the migration to end.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoJob`] where nothing is being sent, [`Refusal::InPostcopy`].
    pub fn abort(&mut self) -> Step {
        match self {
            Self::Performing { bound: true, .. } => Err(Refusal::InPostcopy),
            Self::Performing { .. } => Ok(self.cancel().unwrap_or_default()),
            Self::Performed { .. } | Self::Asking { .. } => Err(Refusal::AlreadyPerformed),
            Self::Begun { .. } | Self::Idle => Err(Refusal::NoJob),
        }
    }

    /// The target's answer: its word counts, whatever a client believes.
    pub fn answered(&mut self, answer: Answer) -> Vec<SourceAction> {
        match (*self, answer) {
            (Self::Asking { .. }, Answer::Runs) => self.gone(),
            (Self::Asking { .. }, Answer::Dropped) => {
                *self = Self::Idle;
                vec![SourceAction::Resume, SourceAction::EndJob]
            }
            _ => Vec::new(),
        }
    }

    /// The target did not answer. The guest stands still; the target is asked again when the caller
    /// thinks fit ([`Self::ask_again`]).
    pub fn unanswered(&mut self) -> Vec<SourceAction> {
        match self {
            Self::Asking { held } if !*held => {
                *held = true;
                vec![SourceAction::SayHeld]
            }
            _ => Vec::new(),
        }
    }

    /// Asks again, if there is something to ask.
    #[must_use]
    pub fn ask_again(&self) -> Vec<SourceAction> {
        match self {
            Self::Asking { .. } => vec![SourceAction::Ask],
            _ => Vec::new(),
        }
    }

    /// A person has made sure that the guest does not run on the target (`resume` on a held guest), and
    /// takes it on that word.
    ///
    /// # Errors
    ///
    /// [`Refusal::AlreadyPerformed`] as long as the target has not been asked in vain,
    /// [`Refusal::BeingSent`] before that.
    pub fn decided_to_stay(&mut self) -> Step {
        match self {
            Self::Asking { held: true } => Ok(self.answered(Answer::Dropped)),
            Self::Asking { held: false } | Self::Performed { .. } => Err(Refusal::AlreadyPerformed),
            Self::Performing { .. } => Err(Refusal::BeingSent),
            _ => Err(Refusal::NotMoving),
        }
    }

    /// QEMU has ended here by itself, or somebody has ended it.
    pub fn guest_died(&mut self) -> Vec<SourceAction> {
        match std::mem::take(self) {
            Self::Idle => Vec::new(),
            _ => vec![SourceAction::EndJob],
        }
    }

    /// Whether somebody has ended what is being sent.
    #[must_use]
    pub const fn is_cancelled(&self) -> bool {
        matches!(
            self,
            Self::Performing {
                cancelled: true,
                ..
            }
        )
    }

    /// Whether the guest is bound to a migration, so that others may not change it.
    #[must_use]
    pub const fn is_bound(&self) -> bool {
        !matches!(self, Self::Idle)
    }

    /// Whether the guest may be let run here by anybody but this machine. While memory is sent it may not
    /// either: QEMU may have sent the last of it, and this machine not know yet.
    #[must_use]
    pub const fn may_run(&self) -> bool {
        matches!(self, Self::Idle | Self::Begun { .. })
    }

    /// What is to be known after the daemon was killed.
    #[must_use]
    pub const fn record(&self) -> Option<SourceRecord> {
        match self {
            Self::Idle => None,
            Self::Begun { .. } => Some(SourceRecord::Begun),
            // In post-copy the target may run the guest before Perform has ended.
            Self::Performing { bound: false, .. } => Some(SourceRecord::Performing),
            Self::Performing { bound: true, .. } | Self::Performed { .. } | Self::Asking { .. } => {
                Some(SourceRecord::Performed)
            }
        }
    }

    /// The machine of a daemon that was killed with this record, and what it has to do first.
    ///
    /// `sent` says whether QEMU has finished sending: a guest whose memory had all left when the daemon
    /// was killed may have been called for on the target meanwhile.
    #[must_use]
    pub fn restored(record: SourceRecord, sent: bool) -> (Self, Vec<SourceAction>) {
        match record {
            SourceRecord::Begun => (Self::Idle, vec![SourceAction::EndJob]),
            SourceRecord::Performing if !sent => {
                let actions = vec![
                    SourceAction::Cancel,
                    SourceAction::Resume,
                    SourceAction::EndJob,
                ];
                (Self::Idle, actions)
            }
            SourceRecord::Performing | SourceRecord::Performed => {
                (Self::Asking { held: false }, vec![SourceAction::Ask])
            }
        }
    }

    fn cancel(&mut self) -> Option<Vec<SourceAction>> {
        match self {
            Self::Performing {
                cancelled, bound, ..
            } if !*cancelled => {
                *cancelled = true;
                (!*bound).then(|| vec![SourceAction::Cancel])
            }
            _ => None,
        }
    }

    fn ask(&mut self) -> Vec<SourceAction> {
        *self = Self::Asking { held: false };
        vec![SourceAction::Ask]
    }

    fn gone(&mut self) -> Vec<SourceAction> {
        *self = Self::Idle;
        vec![SourceAction::Destroy, SourceAction::EndJob]
    }
}
