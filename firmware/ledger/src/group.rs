//! Group commit: many writers wait for one sync.
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::LedgerError;

/// Who waits for what to be synced. Positions only grow.
#[derive(Debug, Default)]
pub(crate) struct GroupSync {
    state: Mutex<State>,
    turned: Condvar,
}

#[derive(Debug, Default)]
struct State {
    synced: u64,
    leading: bool,
    failed: bool,
}

impl GroupSync {
    /// Returns once everything up to `target` is synced: by this caller or by another whose sync covers it.
    ///
    /// `progress` tells how far writes have come before the sync starts. A sync that failed is never tried
    /// again: the kernel may have dropped the dirty pages and would report success for nothing.
    pub(crate) fn sync_to(
        &self,
        target: u64,
        progress: impl Fn() -> u64,
        sync: impl Fn() -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let mut state = self.lock();
        loop {
            if state.failed {
                return Err(LedgerError::ReadOnly { reason: "a sync failed".into() });
            }
            if state.synced >= target {
                return Ok(());
            }
            if state.leading {
                state = self.turned.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.leading = true;
            drop(state);
            let reached = progress();
            let result = sync();
            state = self.lock();
            state.leading = false;
            match &result {
                Ok(()) => state.synced = state.synced.max(reached),
                Err(_) => state.failed = true,
            }
            self.turned.notify_all();
            result?;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn one_sync_serves_all_who_wrote_before_it() {
        let (group, syncs, written) = (GroupSync::default(), AtomicU64::new(0), AtomicU64::new(5));
        let sync = || {
            syncs.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        for target in 1..=5 {
            group.sync_to(target, || written.load(Ordering::SeqCst), sync).unwrap();
        }
        assert_eq!(syncs.load(Ordering::SeqCst), 1);
        written.store(6, Ordering::SeqCst);
        group.sync_to(6, || written.load(Ordering::SeqCst), sync).unwrap();
        assert_eq!(syncs.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_failed_sync_is_never_believed_later() {
        let group = GroupSync::default();
        assert!(group.sync_to(1, || 1, || Err(LedgerError::Closed)).is_err());
        assert!(group.sync_to(1, || 1, || Ok(())).is_err());
    }
}
