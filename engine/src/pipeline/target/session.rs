//! One receiving, step by step: the coordinator, until nobody asks for it any more.
//!
//! Connections that come in belong to the [`Acceptor`]. Like the other workers it never waits: a
//! thread or the simulator steps it.

use std::sync::Arc;

use super::acceptor::Acceptor;
use super::base_pages::BasePages;
use super::driver::TargetDriver;
use super::fences::Fences;
use crate::guest::TargetGuest;
use crate::memory::GuestMemory;
use crate::migration::{Failure, GuestLocation, IN_DOUBT, Target};
use crate::pipeline::Step;
use crate::pipeline::cancel::CancelToken;
use crate::pipeline::patience::Patience;
use crate::pipeline::shared::Shared;
use crate::units::Instant;

/// The coordinator of a receiving.
#[derive(Debug)]
pub struct TargetSession<'a> {
    acceptor: Arc<Acceptor>,
    driver: TargetDriver<'a>,
    cancel: CancelToken,
    /// The guest runs here; until when a source that did not hear so may ask.
    lingers_until: Option<Instant>,
    /// For the source's word.
    patience: Patience,
    /// It was cancelled when it could not be: that does not count later.
    overruled: bool,
}

impl<'a> TargetSession<'a> {
    /// Prepares to receive into `memory`; references may be to `base_pages`.
    ///
    /// # Errors
    /// When the guest cannot be taken in.
    pub fn new(
        shared: Arc<Shared<Target>>,
        memory: Arc<dyn GuestMemory>,
        base_pages: Arc<BasePages>,
        guest: &'a mut dyn TargetGuest,
        cancel: CancelToken,
        digest_threads: usize,
    ) -> Result<Self, Failure> {
        let fences = Arc::new(Fences::default());
        let driver = TargetDriver::new(
            Arc::clone(&shared),
            Arc::clone(&memory),
            guest,
            digest_threads,
            Arc::clone(&fences),
        );
        let (driver, state) = driver.map_err(|error| Failure {
            error,
            guest: GuestLocation::Source,
        })?;
        Ok(Self {
            acceptor: Arc::new(Acceptor::new(shared, memory, base_pages, state, fences)),
            driver,
            cancel,
            lingers_until: None,
            patience: Patience::default(),
            overruled: false,
        })
    }

    /// Where connections go in.
    pub fn acceptor(&self) -> &Arc<Acceptor> {
        &self.acceptor
    }

    /// Whether the source asked for digests to be compared.
    pub fn verify(&self) -> bool {
        self.acceptor.shared().look(Target::verify)
    }

    /// Does one thing. [`Step::Done`]: the guest runs here, and the source knows it or has had
    /// its time to ask.
    ///
    /// # Errors
    /// When the guest did not arrive.
    pub fn step(&mut self) -> Result<Step, Failure> {
        let shared = Arc::clone(self.acceptor.shared());
        if let Some(until) = self.lingers_until {
            let is_lost = shared.look(Target::is_lost);
            let over = shared.look(Target::is_settled) || shared.now() >= until;
            let over = over || self.is_cancelled(is_lost);
            if !over {
                return Ok(Step::Wait(until));
            }
            self.driver.finish();
            return Ok(Step::Done);
        }
        let may_cancel = shared.look(Target::may_cancel);
        if self.is_cancelled(may_cancel) {
            shared.with(Target::cancel);
        }
        let waits = shared.look(Target::waits_for_word);
        let is_cancelled = self.cancel.is_cancelled();
        if self.patience.is_over(shared.now(), waits, is_cancelled) {
            shared.with(Target::end_in_doubt);
        }
        match self.driver.step() {
            Ok(Step::Done) => {
                self.lingers_until = Some(shared.now().after(IN_DOUBT));
                Ok(Step::Worked)
            }
            Ok(step) => Ok(step),
            Err(error) => Err(self.driver.fail(error)),
        }
    }

    /// Whether somebody asks for the end, and it may come now.
    fn is_cancelled(&mut self, may_end: bool) -> bool {
        let asked = self.cancel.is_cancelled();
        self.overruled |= asked && !may_end;
        asked && !self.overruled
    }
}
