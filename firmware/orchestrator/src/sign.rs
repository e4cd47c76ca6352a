//! Who signs for us: a process of its own that holds the hot key. We only ever ask.
use std::future::Future;

use livepeer::address::{Address, H256};
use livepeer::signature::Signature;
use livepeer::transaction::Transaction;
use signer_protocol::{SignedTransaction, SignerClient, SignerError};

/// Why nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// Not now; it may work later.
    #[error("{0}")]
    Later(String),
    /// Its policy forbids it; a person must act.
    #[error("{0}")]
    Refused(String),
}

impl From<SignerError> for SignError {
    fn from(error: SignerError) -> Self {
        let text = error.to_string();
        if error.is_retryable() { Self::Later(text) } else { Self::Refused(text) }
    }
}

/// Signs with the hot key what the signer's policy allows.
pub trait Signer: Send + Sync + 'static {
    /// The account of the hot key.
    fn account(&self) -> Address;

    /// Signs the digest of a result.
    fn sign_result(&self, digest: H256) -> impl Future<Output = Result<Signature, SignError>> + Send;

    /// Signs the value of a ping, as a node signature.
    fn sign_ping(&self, value: &[u8]) -> impl Future<Output = Result<Signature, SignError>> + Send;

    /// Signs a transaction. It must be recorded before it is sent.
    fn sign_transaction(
        &self,
        transaction: &Transaction,
    ) -> impl Future<Output = Result<SignedTransaction, SignError>> + Send;
}

impl Signer for SignerClient {
    fn account(&self) -> Address {
        self.address()
    }

    async fn sign_result(&self, digest: H256) -> Result<Signature, SignError> {
        Ok(Self::sign_result(self, digest).await?)
    }

    async fn sign_ping(&self, value: &[u8]) -> Result<Signature, SignError> {
        Ok(Self::sign_ping(self, value).await?)
    }

    async fn sign_transaction(&self, transaction: &Transaction) -> Result<SignedTransaction, SignError> {
        Ok(Self::sign_transaction(self, transaction).await?)
    }
}
