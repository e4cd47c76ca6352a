//! Room for what comes in: sessions by what they ask of the box ([`load`]), memory for uploads, and how many lines one
//! peer may cause in the log.
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

pub mod load;

/// Uploads are accounted for in steps of this size.
const STEP: u64 = 64 * 1024;

/// Memory that all uploads together may hold.
#[derive(Debug, Clone)]
pub struct UploadMemory {
    steps: Arc<Semaphore>,
}

/// No memory is left for this upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("uploads hold all the memory they may")]
pub struct UploadMemoryFull;

impl UploadMemory {
    /// So many mebibytes.
    #[must_use]
    pub fn new(mib: usize) -> Self {
        let steps = mib.saturating_mul(16).min(Semaphore::MAX_PERMITS);
        Self { steps: Arc::new(Semaphore::new(steps)) }
    }

    /// Makes `held` cover an upload of this many bytes.
    ///
    /// # Errors
    /// [`UploadMemoryFull`]; `held` is unchanged.
    pub fn cover(&self, held: &mut Option<OwnedSemaphorePermit>, bytes: u64) -> Result<(), UploadMemoryFull> {
        let have = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let need = usize::try_from(bytes.div_ceil(STEP)).unwrap_or(usize::MAX);
        let Some(more) = need.checked_sub(have).filter(|more| *more > 0) else { return Ok(()) };
        let more = u32::try_from(more).map_err(|_| UploadMemoryFull)?;
        let permit = Arc::clone(&self.steps).try_acquire_many_owned(more).map_err(|_| UploadMemoryFull)?;
        match held {
            Some(held) => held.merge(permit),
            None => *held = Some(permit),
        }
        Ok(())
    }
}

/// Lines a peer may cause in the log …
const LINES: u32 = 10;
/// … within this time.
const WINDOW: Duration = Duration::from_secs(60);
/// Peers remembered; beyond that all of them share one allowance.
const PEERS: usize = 1024;

/// Keeps peers from filling the log.
#[derive(Debug, Default)]
pub struct LogLimit {
    peers: Mutex<HashMap<Option<IpAddr>, Allowance>>,
}

#[derive(Debug)]
struct Allowance {
    since: Instant,
    used: u32,
    suppressed: u64,
}

impl LogLimit {
    /// May this peer cause a line now? If so, how many of its lines were left out since the last one.
    pub fn allow(&self, peer: IpAddr) -> Option<u64> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= PEERS {
            peers.retain(|_, allowance| allowance.since.elapsed() < WINDOW);
        }
        let key = if peers.len() < PEERS || peers.contains_key(&Some(peer)) { Some(peer) } else { None };
        let fresh = || Allowance { since: Instant::now(), used: 0, suppressed: 0 };
        let allowance = peers.entry(key).or_insert_with(fresh);
        if allowance.since.elapsed() >= WINDOW {
            (allowance.since, allowance.used) = (Instant::now(), 0);
        }
        if allowance.used >= LINES {
            allowance.suppressed += 1;
            return None;
        }
        allowance.used += 1;
        Some(std::mem::take(&mut allowance.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_share_one_bound() {
        let memory = UploadMemory::new(1);
        let (mut one, mut two) = (None, None);
        memory.cover(&mut one, 1024 * 1024 - 1).unwrap();
        assert_eq!(memory.cover(&mut two, 1), Err(UploadMemoryFull));
        memory.cover(&mut one, 1024 * 1024).unwrap();
        assert_eq!(memory.cover(&mut one, 1024 * 1024 + 1), Err(UploadMemoryFull));
        drop(one);
        memory.cover(&mut two, 1).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_noisy_peer_is_quoted_now_and_then_with_a_count() {
        let limit = LogLimit::default();
        let peer = IpAddr::from([192, 0, 2, 1]);
        let allowed = (0..100).filter(|_| limit.allow(peer).is_some()).count();
        assert_eq!(allowed, 10);
        assert_eq!(limit.allow(IpAddr::from([192, 0, 2, 2])), Some(0));
        tokio::time::advance(WINDOW).await;
        assert_eq!(limit.allow(peer), Some(90));
    }
}
