//! Whether the files of the two sides are the same ones: clearing them would end the guest.
//!
//! Their identities are compared first. Those that identities cannot tell apart are marked: the
//! target writes a random word behind the end of its file and asks the source whether it shows
//! there. Nothing else is written before the answer.

use super::Target;
use super::memory::Memory;
use super::types::TargetStep;
use crate::memory::{KnownFile, Mark, Sameness};
use crate::migration::error::{MigrationError, misbehaved};
use crate::units::Instant;
use crate::wire::{Hello, Message};

/// How the marking of files stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Marking {
    /// These are to be marked.
    ToPlace { files: Vec<usize>, asked: bool },
    /// The source was asked whether it has the marks of these.
    Placed { files: Vec<usize> },
    /// It has none.
    ToTakeBack { asked: bool },
}

impl Marking {
    /// `files` are to be marked.
    pub(super) fn of(files: Vec<usize>) -> Self {
        let asked = false;
        Self::ToPlace { files, asked }
    }

    /// What the caller must do. Each thing is asked for once.
    pub(super) fn next_step(&mut self) -> Option<TargetStep> {
        let (asked, step) = match self {
            Self::ToPlace { files, asked } => (asked, TargetStep::PlaceMarks(files.clone())),
            Self::ToTakeBack { asked } => (asked, TargetStep::TakeMarksBack),
            Self::Placed { .. } => return None,
        };
        (!std::mem::replace(asked, true)).then_some(step)
    }
}

/// What the identities of files say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Compared {
    /// Why the guest cannot come: a reason for each file of this side that is the source's.
    pub(super) shared: Vec<String>,
    /// Files of this side that may be the source's.
    pub(super) unclear: Vec<usize>,
}

/// Compares each file of this side with all of the source's.
pub(super) fn compare_files(hello: &Hello, here: &[KnownFile]) -> Compared {
    let mut compared = Compared::default();
    for (number, file) in here.iter().enumerate() {
        let own = file.identity(hello.session.0);
        let verdicts = hello.files.iter().map(|theirs| own.compare(theirs));
        let verdicts: Vec<_> = verdicts.collect();
        if verdicts.contains(&Sameness::Same) {
            compared.shared.push(is_shared(&file.name));
        } else if verdicts.contains(&Sameness::Unclear) {
            compared.unclear.push(number);
        }
    }
    compared
}

fn is_shared(name: &str) -> String {
    format!(
        "memory: the target's file of {name} is the very file that the guest runs on, and clearing \
         it would end the guest; start the target with a RAM file of its own"
    )
}

impl Target {
    /// The files are marked, in the order in which they were asked for.
    pub fn marks_placed(&mut self, now: Instant, marks: Vec<Mark>) {
        if let Memory::Marking(marking) = &mut self.memory
            && let Marking::ToPlace { files, .. } = marking
        {
            *marking = Marking::Placed {
                files: std::mem::take(files),
            };
            self.peer.send(now, Message::Marks(marks));
        }
    }

    /// The files are as they were.
    pub fn marks_taken_back(&mut self) {
        if matches!(self.memory, Memory::Marking(Marking::ToTakeBack { .. })) {
            self.memory = Memory::Clearing { asked: false };
        }
    }

    /// The source has looked for the marks.
    pub(super) fn mark_answered(
        &mut self,
        now: Instant,
        shows: Option<u16>,
    ) -> Result<(), MigrationError> {
        let Memory::Marking(Marking::Placed { files }) = &self.memory else {
            return Err(misbehaved("it answers for marks that nobody asked for"));
        };
        let Some(place) = shows else {
            self.memory = Memory::Marking(Marking::ToTakeBack { asked: false });
            return Ok(());
        };
        let file = files.get(usize::from(place)).copied();
        let file = file.ok_or_else(|| misbehaved(&format!("it found mark {place} of no file")))?;
        let reason = is_shared(&self.config.files[file].name);
        Err(self.refuse(now, vec![reason]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Layout, Reach, Region};
    use crate::units::{ByteCount, PageCount};
    use crate::wire::{Encodings, SessionId};

    fn file(kernel: u128, inode: u64, reach: Reach) -> KnownFile {
        KnownFile::new(format!("ram{inode}"), kernel, (9, inode), reach)
    }

    fn compare(source: &[KnownFile], target: &[KnownFile]) -> Compared {
        let region = Region {
            name: "ram".into(),
            pages: PageCount(1),
            backing_page: ByteCount(4096),
        };
        let hello = Hello {
            versions: (1, 1),
            session: SessionId(3),
            channels: 1,
            verify: false,
            dedup: None,
            layout: Layout::new(vec![region]).unwrap(),
            files: source.iter().map(|file| file.identity(3)).collect(),
            properties: Vec::new(),
            needs: Encodings::none(),
        };
        compare_files(&hello, target)
    }

    #[test]
    fn any_file_of_this_side_may_be_any_of_the_sources() {
        let (local, wider) = (Reach::Kernel, Reach::Wider);
        let here = [file(1, 10, local), file(1, 11, wider)];
        let none = Compared::default();
        assert_eq!(compare(&[], &here), none, "a source that does not say");
        let crossed = compare(&[file(1, 11, wider), file(1, 12, local)], &here);
        assert_eq!(crossed.shared.len(), 1);
        assert!(
            crossed.shared[0].contains("file of ram11 is"),
            "{crossed:?}"
        );
        assert_eq!(crossed.unclear, [0], "it may be seen there as well");
        let others = compare(&[file(2, 10, local), file(2, 12, local)], &here[..1]);
        assert_eq!(others, none, "the same numbers of another kernel");
        assert_eq!(compare(&[file(2, 5, local)], &here).unclear, [1]);
    }
}
