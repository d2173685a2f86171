//! A reason why a guest cannot come, in two wordings.
//!
//! The target's user, and a source that is authenticated, read all of it. A source that nobody knows
//! is told what differs, and not what the target has: it could ask for one guest after the other
//! until it knows the host.

use crate::plain_text;

/// Why a guest cannot come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    whole: String,
    /// Without what the target has, where that is in the reason.
    public: Option<String>,
}

impl Misfit {
    /// `what` is not the same on both sides; `how` says what each has.
    pub(super) fn differs(what: &str, how: &str) -> Self {
        Self::veiled(&format!("{what}: {how}"), &format!("{what} differs"))
    }

    /// A reason that says nothing of the target but that it is one.
    pub(super) fn open(words: &str) -> Self {
        Self {
            whole: plain_text::line(words),
            public: None,
        }
    }

    /// A reason that says what the target has, and what is left of it without that.
    pub(super) fn veiled(whole: &str, public: &str) -> Self {
        // Names and values are the source's words.
        Self {
            whole: plain_text::line(whole),
            public: Some(plain_text::line(public)),
        }
    }

    /// In all words.
    pub fn whole(&self) -> &str {
        &self.whole
    }

    /// Without what the target has.
    pub fn public(&self) -> &str {
        self.public.as_deref().unwrap_or(&self.whole)
    }

    /// What a source that nobody knows is told: all reasons, and who knows more.
    pub fn all_public(misfits: &[Self]) -> Vec<String> {
        let mut reasons: Vec<_> = misfits.iter().map(|it| it.public().to_owned()).collect();
        if misfits.iter().any(|misfit| misfit.public.is_some()) {
            reasons.push(
                "what each side has is in the target's output; a source with a token or a certificate \
                 is told as well"
                    .into(),
            );
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_is_told_what_differs_in_whole_sentences() {
        let misfits = [
            Misfit::differs("machine type", "source pc, target q35"),
            Misfit::open("memory: it is the guest's own file; take another"),
        ];
        assert_eq!(misfits[0].whole(), "machine type: source pc, target q35");
        assert_eq!(misfits[1].whole(), misfits[1].public());
        let told = Misfit::all_public(&misfits);
        assert_eq!(told[..2], ["machine type differs", misfits[1].whole()]);
        assert!(told[2].contains("the target's output"));
        assert_eq!(Misfit::all_public(&misfits[1..]).len(), 1);
    }
}
