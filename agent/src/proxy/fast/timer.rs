//! One timer for everything that a connection waits for, request after request.
//!
//! Setting and clearing a timer of the runtime for each request costs more than most of them are worth:
//! they hardly ever ring. This one is set anew only when it would ring too late, and rings in vain now and
//! then.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

/// A timer that is kept.
#[derive(Debug, Default)]
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: Option<Instant>,
}

impl Timer {
    /// Ready once `moment` has come; until then the task is woken, also in vain.
    pub(super) fn poll_at(&mut self, cx: &mut Context<'_>, moment: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(moment.into())));
        loop {
            if self.armed.is_none_or(|armed| armed > moment) {
                sleep.as_mut().reset(moment.into());
                self.armed = Some(moment);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let rang = self.armed.take();
            if rang.is_some_and(|rang| rang >= moment) {
                return Poll::Ready(());
            }
        }
    }
}
