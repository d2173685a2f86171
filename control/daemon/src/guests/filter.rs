//! The filter of a list of guests: in each group of flags, those of any that is set; all if none is.

use super::Inner;

/// Whether `flags` of ListAllDomains take the guest.
pub(super) fn takes(flags: u32, guest: &Inner) -> bool {
    let active = guest.active.is_some();
    let persistent = guest.definition.is_some();
    let paused = guest.state.0 == 3;
    let groups: [&[(u32, bool)]; 7] = [
        &[(1, active), (2, !active)],
        &[(4, persistent), (8, !persistent)],
        &[
            (16, active && !paused),
            (32, active && paused),
            (64, !active),
            (128, false),
        ],
        // A saved state, snapshots, checkpoints: nothing has them.
        &[(256, false), (512, true)],
        &[(1024, guest.autostart), (2048, !guest.autostart)],
        &[(4096, false), (8192, true)],
        &[(16384, false), (32768, true)],
    ];
    groups.into_iter().all(|group| {
        let mut asked = group.iter().filter(|(bit, _)| flags & bit != 0).peekable();
        asked.peek().is_none() || asked.any(|(_, is)| *is)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_flags() {
        let off = Inner::new("g".into());
        for (flags, taken) in [
            (0, true),
            (1, false),
            (2, true),
            (3, true),
            (66, true),
            (18, false),
        ] {
            assert_eq!(takes(flags, &off), taken, "{flags}");
        }
        assert!(takes(8, &off) && !takes(4, &off));
        assert!(takes(2048 | 8192, &off) && !takes(1024, &off));
    }
}
