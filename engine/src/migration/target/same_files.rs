//! Comparison of the two sides' files: clearing a shared one would end the guest.
//!
//! Their identities are compared first. Those that identities cannot tell apart are marked: the
//! target writes a random word behind the end of its file and asks the source whether it shows
//! there. Nothing else is written before the answer.
//!
//! Files that the guest keeps data in, as on a disk, are the other way round: they are not sent, so
//! both sides must have the same ones.

use super::Target;
use super::memory::Memory;
use super::types::TargetStep;
use crate::memory::{KnownFile, Mark, PersistentFile, Sameness};
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
        let data = hello.persistent.iter().map(|(_, file)| file);
        let theirs = hello.files.iter().chain(data);
        let verdicts = theirs.map(|theirs| own.compare(theirs));
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

/// Why the files that the guest keeps data in are not the same on both sides.
pub(super) fn compare_persistent(hello: &Hello, here: &[PersistentFile]) -> Vec<String> {
    let mut reasons = Vec::new();
    for own in here {
        let name = &own.file.name;
        let theirs = hello.persistent.iter().find(|(theirs, _)| theirs == name);
        let identity = own.file.identity(hello.session.0);
        let sameness = theirs.map(|(_, theirs)| identity.compare(theirs));
        reasons.extend(match sameness {
            Some(Sameness::Same) => None,
            Some(Sameness::Unclear) if own.assume_same => None,
            Some(_) if own.is_ram => Some(format!(
                "RAM {name}: the target has another file than the source, so it cannot be handed over; \
                 start the target's QEMU by `pagelift run --memory-of MONITOR` on the source's host, or \
                 move the guest without --same-memory"
            )),
            Some(Sameness::Unclear) => Some(format!(
                "persistent memory {name}: whether its file is the source's cannot be told on this \
                 file system; if it is, say so on both sides with --persistent-memory shared"
            )),
            Some(Sameness::Different) => Some(format!(
                "persistent memory {name}: it is a disk, and the target has another file than the \
                 source; give both the same file, or, unless it is read-only, say \
                 --persistent-memory copy on both sides and give the target an empty file"
            )),
            None => Some(one_sided(name, "target")),
        });
    }
    let is_here = |name: &str| here.iter().any(|own| own.file.name == name);
    let missing = hello.persistent.iter().filter(|(name, _)| !is_here(name));
    reasons.extend(missing.map(|(name, _)| one_sided(name, "source")));
    reasons
}

fn one_sided(name: &str, side: &str) -> String {
    format!(
        "persistent memory {name}: only the {side} has it, or leaves it alone; start both QEMUs, and \
         both sides of the move, with the same options"
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

    fn hello(source: &[KnownFile]) -> Hello {
        let region = Region {
            name: "ram".into(),
            pages: PageCount(1),
            backing_page: ByteCount(4096),
        };
        Hello {
            versions: (1, 1),
            session: SessionId(3),
            channels: 1,
            verify: false,
            dedup: None,
            layout: Layout::new(vec![region]).unwrap(),
            files: source.iter().map(|file| file.identity(3)).collect(),
            persistent: Vec::new(),
            properties: Vec::new(),
            needs: Encodings::none(),
        }
    }

    fn compare(source: &[KnownFile], target: &[KnownFile]) -> Compared {
        compare_files(&hello(source), target)
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

    #[test]
    fn ram_is_not_to_be_put_where_the_guest_keeps_its_data() {
        let data = file(1, 10, Reach::Kernel);
        let mut hello = hello(&[file(1, 11, Reach::Kernel)]);
        hello.persistent = vec![("nv0".into(), data.identity(3))];
        let reasons = compare_files(&hello, &[data]).shared;
        assert_eq!(reasons.len(), 1);
    }

    #[test]
    fn persistent_memory_must_be_the_same_file_on_both_sides() {
        let source = |files: &[&KnownFile]| {
            let mut hello = hello(&[]);
            let shown = |file: &&KnownFile| (file.name.clone(), file.identity(3));
            hello.persistent = files.iter().map(shown).collect();
            hello
        };
        let own = |file: &KnownFile, assume_same| PersistentFile {
            file: file.clone(),
            assume_same,
            is_ram: false,
        };
        let (local, wider) = (file(1, 5, Reach::Kernel), file(1, 6, Reach::Wider));
        let both = [own(&local, false), own(&wider, false)];
        let none: [String; 0] = [];
        assert_eq!(compare_persistent(&source(&[&wider, &local]), &both), none);

        let reasons = compare_persistent(&source(&[&local]), &both);
        assert!(
            reasons.len() == 1 && reasons[0].contains("only the target"),
            "{reasons:?}"
        );
        let reasons = compare_persistent(&source(&[&local, &wider]), &both[..1]);
        assert!(
            reasons.len() == 1 && reasons[0].contains("only the source"),
            "{reasons:?}"
        );

        let elsewhere = KnownFile::new("ram5".into(), 2, (9, 5), Reach::Kernel);
        for assumed in [false, true] {
            let reasons = compare_persistent(&source(&[&elsewhere]), &[own(&local, assumed)]);
            assert!(
                reasons[0].contains("--persistent-memory copy"),
                "{reasons:?}"
            );
        }
        let unclear = KnownFile::new("ram6".into(), 2, (9, 6), Reach::Wider);
        let reasons = compare_persistent(&source(&[&unclear]), &both[1..]);
        assert!(
            reasons[0].contains("--persistent-memory shared"),
            "{reasons:?}"
        );
        let reasons = compare_persistent(&source(&[&unclear]), &[own(&wider, true)]);
        assert_eq!(reasons, none);
    }
}
