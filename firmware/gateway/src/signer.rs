//! Signing, as the gateway asks for it; keys live elsewhere.
use livepeer::address::{Address, H256};
use livepeer::signature::Signature;

/// Whoever holds the gateway's key.
pub trait TicketSigner: Send + Sync + std::fmt::Debug {
    /// The account that pays.
    fn address(&self) -> Address;

    /// Node signature of a message: for requests and segments.
    ///
    /// # Errors
    /// [`SignerError`] when the key cannot be used.
    fn sign_node(&self, message: &[u8]) -> Result<Signature, SignerError>;

    /// Raw personal signature of a digest: for tickets.
    ///
    /// # Errors
    /// [`SignerError`] when the key cannot be used.
    fn sign_personal(&self, digest: H256) -> Result<Signature, SignerError>;
}

/// A signature could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the gateway's signer did not sign")]
pub struct SignerError(#[from] pub Box<dyn std::error::Error + Send + Sync>);
