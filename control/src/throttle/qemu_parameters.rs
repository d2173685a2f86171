//! Throttling by QEMU itself, while QEMU moves the guest's RAM: auto-converge, led by its
//! parameters.
//!
//! What it can do: hold all vCPUs at one share, from 1 to 99 per cent, higher or lower than the
//! one before.
//!
//! What it cannot do:
//! - QEMU looks at the parameters only when it synchronises its dirty bitmap, at least a second
//!   apart, and moves the throttle only at every second look at which the guest wrote too much
//!   (QEMU's documentation of auto-converge). So a plan is in force seconds later, and so is a
//!   release: the end of the migration is what ends the throttle at once.
//! - It has no lease and no rhythm. If pagelift dies, QEMU goes on with the last plan until its
//!   migration ends, and the parameters stay as they are.
//! - All vCPUs get the largest share of a plan.
//! - It takes a migration of QEMU's own: in direct mode QEMU has none while RAM is moved.
//!
//! Names and ranges: QEMU's QMP reference, `MigrationParameters`.

use serde_json::{Map, Value, json};

use super::{Permille, Throttle, ThrottleError, ThrottlePlan};
use crate::driver::qemu::settings::set_auto_converge;
use crate::qmp::{Qmp, QmpError};

/// What is changed, and put back at the end.
const PARAMETERS: [&str; 5] = [
    "cpu-throttle-increment",
    "cpu-throttle-initial",
    "cpu-throttle-tailslow",
    "max-cpu-throttle",
    "throttle-trigger-threshold",
];

/// Leads QEMU's auto-converge. Dropped, it puts QEMU's settings back.
#[derive(Debug)]
pub struct QemuParametersThrottle {
    qmp: Qmp,
    found: Map<String, Value>,
    /// Whether auto-converge was off before.
    switched_on: bool,
    is_active: bool,
}

impl QemuParametersThrottle {
    /// Switches auto-converge on, with parameters that let it do nothing before the first plan:
    /// 1 % at most. To be called before QEMU's `migrate`.
    ///
    /// # Errors
    /// As QMP's; QEMU refuses while a migration runs, and together with `dirty-limit`.
    pub fn prepare(qmp: &Qmp) -> Result<Self, ThrottleError> {
        let current = qmp.execute("query-migrate-parameters", Value::Null)?;
        let found = PARAMETERS
            .iter()
            .filter_map(|&name| Some((name.to_owned(), current.get(name)?.clone())))
            .collect();
        let switched_on = set_auto_converge(qmp, true)?;
        let throttle = Self {
            qmp: qmp.clone(),
            found,
            switched_on,
            is_active: false,
        };
        throttle.lead(1, 100)?;
        Ok(throttle)
    }

    /// The share that QEMU holds the vCPUs at now; `None` while it does not throttle.
    ///
    /// # Errors
    /// As QMP's.
    pub fn in_force(&self) -> Result<Option<Permille>, ThrottleError> {
        let status = self.qmp.execute("query-migrate", Value::Null)?;
        let per_cent = status.get("cpu-throttle-percentage");
        let per_cent = per_cent.and_then(Value::as_u64).unwrap_or(0);
        let permille = u16::try_from(per_cent * 10).ok().and_then(Permille::new);
        Ok(permille.filter(|share| *share > Permille::ZERO))
    }

    /// Lets QEMU go to `per_cent` at its next sync, from wherever it is: it goes up by the
    /// increment, and down to the most.
    fn lead(&self, per_cent: u16, threshold: u16) -> Result<(), QmpError> {
        let mut wanted = Map::new();
        for (name, value) in [
            ("cpu-throttle-increment", json!(per_cent)),
            ("cpu-throttle-initial", json!(per_cent)),
            ("cpu-throttle-tailslow", json!(false)),
            ("max-cpu-throttle", json!(per_cent)),
            ("throttle-trigger-threshold", json!(threshold)),
        ] {
            // Others are unknown to this version.
            if self.found.contains_key(name) {
                wanted.insert(name.to_owned(), value);
            }
        }
        self.set(wanted)
    }

    fn set(&self, parameters: Map<String, Value>) -> Result<(), QmpError> {
        let arguments = Value::Object(parameters);
        self.qmp
            .execute("migrate-set-parameters", arguments)
            .map(drop)
    }

    /// Puts the parameters back, and switches auto-converge off if it was. To be called when the
    /// migration has ended.
    ///
    /// # Errors
    /// As QMP's; QEMU refuses to switch it off while a migration runs. The parameters are then
    /// back all the same, so that QEMU throttles by them.
    pub fn finish(mut self) -> Result<(), ThrottleError> {
        Ok(self.restore()?)
    }

    fn restore(&mut self) -> Result<(), QmpError> {
        if self.found.is_empty() {
            return Ok(());
        }
        let found = std::mem::take(&mut self.found);
        self.set(found)?;
        if std::mem::take(&mut self.switched_on) {
            set_auto_converge(&self.qmp, false)?;
        }
        Ok(())
    }
}

impl Throttle for QemuParametersThrottle {
    /// In force some seconds later, see the module. A share is rounded up to whole per cent.
    fn apply(&mut self, plan: &ThrottlePlan) -> Result<(), ThrottleError> {
        let per_cent = plan.max_share().get().div_ceil(10).clamp(1, 99);
        self.is_active = true;
        Ok(self.lead(per_cent, 1)?)
    }

    /// Leaves QEMU to the parameters that were found, if auto-converge was on before; otherwise
    /// with 1 % at most until the migration ends.
    fn release(&mut self) {
        if !std::mem::take(&mut self.is_active) {
            return;
        }
        // Nothing is left to try: a monitor that does not answer has no QEMU, or will have none.
        let _ = if self.switched_on {
            // The threshold of a plan, so that QEMU looks at it at all.
            self.lead(1, 1)
        } else {
            self.set(self.found.clone())
        };
    }
}

impl Drop for QemuParametersThrottle {
    fn drop(&mut self) {
        // As in `release`.
        let _ = self.restore();
    }
}
