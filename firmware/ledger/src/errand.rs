//! Errands: transactions that redeem nothing but must be sent, such as calling the reward. One at a time.
//!
//! They are recorded before they are sent, as redemptions are, so that a restart neither loses one nor gives its
//! account nonce away. They carry no money of their own: what was done is the chain's to say, so a damaged store
//! may forget them.
use livepeer::address::H256;
use livepeer::broker::Errand;
use serde::{Deserialize, Serialize};

use crate::error::LedgerError;
use crate::open::Ledger;
use crate::redemption::Submission;
use crate::store::{Changes, Kind};

/// Where the errand is kept.
pub(crate) const KEY: &[u8] = b"errand";

/// An errand that is on disk: its bytes may be sent, now or again after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnErrand {
    /// What for.
    pub errand: Errand,
    /// The transaction.
    pub submission: Submission,
    /// Earlier transactions with the same account nonce; one of them may be mined instead.
    pub replaced: Vec<H256>,
}

impl Ledger {
    /// The errand under way.
    #[must_use]
    pub fn errand(&self) -> Option<OnErrand> {
        self.0.lock().errand.clone()
    }

    /// Records the signed transaction of an errand, or a dearer one for the errand under way. Durable on return: now
    /// it may be sent.
    ///
    /// # Errors
    /// [`LedgerError::ErrandUnderWay`] when another is, or the same with another account nonce;
    /// [`LedgerError::AccountNonceTaken`] when an unconfirmed redemption has that nonce;
    /// [`LedgerError::WrongTransactionHash`]; what the disk said.
    pub fn send_on_errand(&self, errand: Errand, submission: Submission) -> Result<OnErrand, LedgerError> {
        if !submission.hash_matches() {
            return Err(LedgerError::WrongTransactionHash);
        }
        let _moving = self.0.moving.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut writer = self.0.write()?;
        let nonce = submission.account_nonce;
        if let Some(holder) = writer.holder_of(nonce, &[]) {
            return Err(LedgerError::AccountNonceTaken { account_nonce: nonce, holder });
        }
        let replaced = match &writer.errand {
            None => Vec::new(),
            Some(old) if old.errand == errand && old.submission.account_nonce == nonce => {
                old.replaced.iter().copied().chain([old.submission.hash]).collect()
            }
            Some(_) => return Err(LedgerError::ErrandUnderWay),
        };
        let sent = OnErrand { errand, submission, replaced };
        let mut changes = Changes::default();
        changes.put(Kind::Meta, KEY, &serde_json::to_vec(&sent).expect("an errand is plain data"));
        let commit = self.0.health.note(self.0.store.apply(changes))?;
        writer.errand = Some(sent.clone());
        drop(writer);
        self.0.health.note(self.0.store.sync_to(commit))?;
        Ok(sent)
    }

    /// The errand is over, whatever came of it: its account nonce is used. Durable on return.
    ///
    /// # Errors
    /// What the disk said.
    pub fn end_errand(&self) -> Result<(), LedgerError> {
        let mut writer = self.0.write()?;
        if writer.errand.take().is_none() {
            return Ok(());
        }
        let mut changes = Changes::default();
        changes.remove(Kind::Meta, KEY);
        let commit = self.0.health.note(self.0.store.apply(changes))?;
        drop(writer);
        self.0.health.note(self.0.store.sync_to(commit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenOptions;
    use livepeer::transaction::transaction_hash;
    use livepeer::units::{L2Block, Round};

    fn submission(nonce: u64, fee: u8) -> Submission {
        let signed = vec![2, u8::try_from(nonce).unwrap(), fee];
        Submission {
            hash: transaction_hash(&signed),
            account_nonce: nonce,
            signed,
            at: L2Block(1),
            attempt: 0,
            tickets: Vec::new(),
        }
    }

    #[test]
    fn an_errand_survives_a_restart_and_keeps_its_nonce() {
        let dir = tempfile::tempdir().unwrap();
        let reward = Errand::Reward(Round(7));
        let ledger = Ledger::open(dir.path(), OpenOptions::default()).unwrap();
        assert_eq!(ledger.errand(), None);
        let sent = ledger.send_on_errand(reward, submission(3, 1)).unwrap();
        drop(ledger);

        let ledger = Ledger::open(dir.path(), OpenOptions::default()).unwrap();
        assert_eq!(ledger.errand(), Some(sent.clone()));
        let other = ledger.send_on_errand(Errand::InitializeRound(Round(8)), submission(4, 1));
        assert!(matches!(other, Err(LedgerError::ErrandUnderWay)));
        let again = ledger.send_on_errand(reward, submission(4, 2));
        assert!(matches!(again, Err(LedgerError::ErrandUnderWay)), "one intent, one nonce");
        let dearer = ledger.send_on_errand(reward, submission(3, 2)).unwrap();
        assert_eq!(dearer.replaced, [sent.submission.hash]);
        ledger.end_errand().unwrap();
        ledger.close().unwrap();
        drop(ledger);

        let ledger = Ledger::open(dir.path(), OpenOptions::default()).unwrap();
        assert_eq!(ledger.errand(), None);
        let wrong = Submission { hash: H256::zero(), ..submission(5, 1) };
        assert!(matches!(ledger.send_on_errand(reward, wrong), Err(LedgerError::WrongTransactionHash)));
    }
}
