//! The machines of both sides, as a plan wants them.

use std::sync::Arc;

use pagelift_engine::codec::dedup::DedupSetting;
use pagelift_engine::converge::{Limited, Policy, StopWhenFits, StopWhenFitsConfig};
use pagelift_engine::memory::{InFiles, ReadPages};
use pagelift_engine::migration::{Source, SourceConfig, Target, TargetConfig};
use pagelift_engine::pipeline::{BasePages, Deltas, Shared};
use pagelift_engine::units::{ByteCount, Instant, PageCount};
use pagelift_engine::wire::{Encoding, Encodings, GuestProperty, SessionId};

use super::World;
use crate::simulator::base_pages::SimBasePages;
use crate::simulator::plan::{Plan, PolicyPlan};
use crate::simulator::policies::{HoldsBack, Whim};

impl World {
    pub(super) fn source_machine(&mut self, plan: &Plan, now: Instant) -> Arc<Shared<Source>> {
        let policy: Box<dyn Policy> = match plan.policy {
            PolicyPlan::Fits { downtime, timeout } => {
                Box::new(StopWhenFits::new(StopWhenFitsConfig {
                    downtime,
                    timeout,
                    stall_time: timeout / 4,
                    ..StopWhenFitsConfig::default()
                }))
            }
            PolicyPlan::Limited(limits) => Box::new(Limited::new(limits)),
            PolicyPlan::Whim { stop_at, give_up } => Box::new(Whim { stop_at, give_up }),
        };
        let session = u128::from(self.rng.u64());
        let config = SourceConfig {
            session: SessionId(session),
            channels: plan.channels,
            frame_pages: plan.frame_pages,
            verify: plan.verify,
            downtime_limit: plan.downtime_limit,
            dedup: (plan.dedup != DedupSetting::Off)
                .then(|| plan.pages.saturating_sub(plan.seed % 3)),
            layout: self.source_memory.layout().clone(),
            files: self
                .source_memory
                .files()
                .iter()
                .map(|file| file.identity(session))
                .collect(),
            persistent: Vec::new(),
            properties: vec![GuestProperty::new("machine", "sim")],
            needs: Encodings::needed_by(plan.compress),
            policy: Box::new(HoldsBack {
                inner: policy,
                most: held_pages(plan.seed, plan.pages),
            }),
        };
        Arc::new(Shared::new(
            Source::new(config, now),
            Arc::new(self.clock.clone()),
        ))
    }

    /// What the target has of the guest.
    pub(super) fn base_pages(&mut self, plan: &Plan) -> Arc<BasePages> {
        let rng = self.rng.fork();
        let memory = plan
            .base_pages
            .map(|base_pages| SimBasePages::of(&self.source_memory, base_pages, rng));
        Arc::new(BasePages::new(memory, plan.seed.into()))
    }

    pub(super) fn target_machine(
        &self,
        plan: &Plan,
        base_pages: &BasePages,
        now: Instant,
    ) -> Arc<Shared<Target>> {
        let machine = if plan.facts_differ { "other" } else { "sim" };
        let config = TargetConfig {
            layout: self.target_memory.layout().clone(),
            files: self.target_memory.files(),
            persistent: Vec::new(),
            properties: vec![GuestProperty::new("machine", machine)],
            dedup: Some(base_pages.terms()),
            reads: target_reads(plan),
        };
        Arc::new(Shared::new(
            Target::new(config, now),
            Arc::new(self.clock.clone()),
        ))
    }
}

/// Half of the seeds hold nothing back, the others up to a quarter of the pages, or all.
fn held_pages(seed: u64, pages: u64) -> PageCount {
    PageCount(match seed / 3 % 4 {
        0 | 1 => 0,
        2 => pages / 4,
        _ => pages,
    })
}

/// What the target can read: now and then less than this build, but always what it must.
fn target_reads(plan: &Plan) -> Encodings {
    let reads = match plan.seed % 7 {
        0 => Encodings::BASIC,
        1 => Encodings::readable().without(Encoding::Zstd),
        _ => Encodings::readable(),
    };
    Encodings(reads.0 | Encodings::needed_by(plan.compress).0)
}

/// Where deltas are wanted, half of the seeds each have room for all pages and for few.
pub(super) fn deltas(plan: &Plan, pages: PageCount) -> Option<Arc<Deltas>> {
    let budget = match plan.seed % 2 {
        _ if !plan.compress.wants_deltas() => return None,
        0 => pages.bytes().0 * 2 + (1 << 20),
        _ => pages.bytes().0 / 4,
    };
    // What is too little for this guest is none.
    Deltas::new(pages, ByteCount(budget)).ok().map(Arc::new)
}
