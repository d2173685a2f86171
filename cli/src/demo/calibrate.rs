//! What stopping the demo's guest here and starting it there costs, measured by its own steps.
//!
//! The guest is stopped and run again a few times before it is moved, and a second one is set up
//! beside it, whose vCPUs never run: what the target will do with the device state.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pagelift_engine::converge::{Interval, SwitchoverCosts, ThrottleShare};
use pagelift_engine::units::Rate;

use super::guest::{DemoMemory, Guest, THROTTLE_PERIOD};
use super::pattern::Script;

/// How often each step is measured.
const TIMES: usize = 5;

/// Pause between two stops, in which the vCPUs are about their work again.
const PAUSE: Duration = Duration::from_millis(7);

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Calibrated {
    stop: Interval,
    load: Interval,
}

impl Calibrated {
    /// Measures with `guest`, which runs before and after, and its `memory`, which is not touched.
    pub fn new(guest: &mut Guest, memory: &Arc<DemoMemory>, script: Script, rate: Rate) -> Self {
        let (mut stops, mut loads) = (Vec::new(), Vec::new());
        for _ in 0..TIMES {
            std::thread::sleep(PAUSE);
            let began = Instant::now();
            guest.stop();
            stops.push(began.elapsed());
            let began = Instant::now();
            let second = Guest::new(Arc::clone(memory), script, rate, &guest.counts());
            loads.push(began.elapsed());
            guest.run();
            drop(second);
        }
        Self {
            stop: Interval::of_samples(&stops).unwrap_or_default(),
            load: Interval::of_samples(&loads).unwrap_or_default(),
        }
    }

    /// The costs under a throttle of `share`: a vCPU that is kept from running notices that it is
    /// to stop when it would run again, which is some time up to that part of a period.
    pub fn switchover_costs(&self, share: ThrottleShare) -> SwitchoverCosts {
        let kept = THROTTLE_PERIOD.mul_f64(share.as_fraction());
        let stop = self
            .stop
            .then(Interval::new(Duration::ZERO, kept / 2, kept));
        SwitchoverCosts {
            stop,
            // The first vCPUs stand still before the last one does.
            stop_latency: Interval::new(Duration::ZERO, stop.likely() / 2, stop.high()),
            state: self.load,
            hand_over: Interval::default(),
        }
    }
}
