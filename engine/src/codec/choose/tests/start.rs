//! What the chooser does before the target has told how fast it places anything.

use super::super::*;

/// Over 100 Mbit/s it takes a quarter of a second until enough is acknowledged to tell the rate.
/// What the thread itself got rid of tells a slow link from a fast one before that, and a single
/// write that was held up is no slow link.
#[test]
fn a_slow_link_is_noticed_before_the_target_tells_its_rate() {
    let cell = ContentClass::default();
    // The codec after frames of two raw blocks, whose writes waited for so long.
    let next_after = |frames_waited: &[Duration]| {
        let mut chooser = Chooser::new(CompressSetting::Auto, 2, CpuLimit::default());
        let mut now = Instant(0);
        for frame_waited in frames_waited {
            let waited = *frame_waited / 2;
            now = now.after(*frame_waited);
            for _ in 0..2 {
                let choice = chooser.choose_for(cell, 1 << 18);
                let outcome = Outcome {
                    input_bytes: 1 << 18,
                    wire_bytes: 1 << 18,
                    read: Duration::from_micros(30),
                    send: Duration::from_micros(60),
                    waited,
                    done: now,
                    unsent_bytes: Some(0),
                    buffer_bytes: Some(1 << 18),
                    ..Outcome::default()
                };
                chooser.record(choice, outcome);
            }
        }
        chooser.observe(now, LinkConditions::default());
        chooser.choose_for(cell, 1 << 18).codec()
    };
    // As measured on one of two connections over 100 Mbit/s.
    assert_ne!(next_after(&[Duration::from_millis(64)]), Codec::Raw);
    // No limit: waits of 0.2 ms, and one in which the target had no processor.
    let mut stalled = [Duration::from_micros(200); 120];
    stalled[119] = Duration::from_millis(6);
    assert_eq!(next_after(&stalled), Codec::Raw);
}
