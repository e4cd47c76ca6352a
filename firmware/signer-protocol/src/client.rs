//! How the node asks: one connection, one question at a time, every answer checked against the account.
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use livepeer::address::{Address, H256};
use livepeer::signature::{Signature, personal_hash};
use livepeer::transaction::{Transaction, transaction_hash};

use crate::frame::{self, FrameError};
use crate::request::{Identity, Refusal, Request, Response, Usage};

/// How long one exchange may take at each step. Signing takes well under a millisecond, recording a
/// transaction's cost as long as the disk takes.
pub const EXCHANGE: Duration = Duration::from_secs(10);

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// Nobody answers on the socket; it may come back.
    #[error("signer does not answer on {path}: is millrace-signer running, and is this user allowed to ask it?")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: FrameError,
    },
    /// Policy forbids it; asking again does not help.
    #[error("signer refused: {0}")]
    Refused(#[source] Refusal),
    /// The answer is not one to the question.
    #[error("signer gave an answer that does not fit the question")]
    Confused,
    /// The signature is not by the account the signer named at first.
    #[error("signer signed with another key than that of {expected}")]
    OtherKey {
        /// The account.
        expected: Address,
    },
}

impl SignerError {
    /// May the same question be answered later?
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Refused(Refusal::DailyLimit { .. } | Refusal::Unrecorded))
    }
}

/// A signed transaction, ready to be recorded and sent.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedTransaction {
    /// Hash by which the chain will know it.
    pub hash: H256,
    /// The bytes to send.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for SignedTransaction {
    /// The bytes of a redemption hold recipientRand, so only the hash is shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignedTransaction").field("hash", &self.hash).finish_non_exhaustive()
    }
}

/// A connection to the signer. Clones share it; it connects again by itself.
#[derive(Debug, Clone)]
pub struct SignerClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    identity: Identity,
    stream: Mutex<Option<UnixStream>>,
}

impl SignerClient {
    /// Connects and asks who signs. Blocks.
    ///
    /// # Errors
    /// [`SignerError`].
    pub fn connect(path: &Path) -> Result<Self, SignerError> {
        let stream = Mutex::new(None);
        match exchange(path, &stream, &Request::Hello)? {
            Response::Hello(identity) => Ok(Self(Arc::new(Inner { path: path.to_owned(), identity, stream }))),
            Response::Refused(refusal) => Err(SignerError::Refused(refusal)),
            Response::Usage(_) | Response::Signature(_) => Err(SignerError::Confused),
        }
    }

    /// The account of the hot key.
    #[must_use]
    pub fn address(&self) -> Address {
        self.0.identity.address
    }

    /// The chain transactions are signed for, if any.
    #[must_use]
    pub fn chain_id(&self) -> Option<u64> {
        self.0.identity.chain_id
    }

    /// Raw personal signature of a result's digest.
    ///
    /// # Errors
    /// [`SignerError`].
    pub async fn sign_result(&self, digest: H256) -> Result<Signature, SignerError> {
        self.ask(Request::SignResult { digest }, personal_hash(digest)).await
    }

    /// Node signature of a ping's value.
    ///
    /// # Errors
    /// [`SignerError`]; [`Refusal::PingTooLong`] for more than [`crate::MAX_PING`] bytes.
    pub async fn sign_ping(&self, value: &[u8]) -> Result<Signature, SignerError> {
        let hash = personal_hash(livepeer::address::keccak256(value));
        self.ask(Request::SignPing { value: value.to_vec() }, hash).await
    }

    /// Signs a transaction. It must be recorded before it is sent.
    ///
    /// # Errors
    /// [`SignerError`].
    pub async fn sign_transaction(&self, transaction: &Transaction) -> Result<SignedTransaction, SignerError> {
        let request = Request::SignTransaction { transaction: transaction.clone() };
        let signature = self.ask(request, transaction.sighash()).await?;
        let bytes = transaction.encode_signed(&signature);
        Ok(SignedTransaction { hash: transaction_hash(&bytes), bytes })
    }

    /// What the signer has signed so far.
    ///
    /// # Errors
    /// [`SignerError`].
    pub async fn usage(&self) -> Result<Usage, SignerError> {
        match self.send(Request::Usage).await? {
            Response::Usage(usage) => Ok(usage),
            Response::Refused(refusal) => Err(SignerError::Refused(refusal)),
            Response::Hello(_) | Response::Signature(_) => Err(SignerError::Confused),
        }
    }

    /// A signature, checked to be the account's over `hash`.
    async fn ask(&self, request: Request, hash: H256) -> Result<Signature, SignerError> {
        match self.send(request).await? {
            Response::Signature(signature) => {
                let expected = self.address();
                let right = signature.recover(hash) == Ok(expected);
                if right { Ok(signature) } else { Err(SignerError::OtherKey { expected }) }
            }
            Response::Refused(refusal) => Err(SignerError::Refused(refusal)),
            Response::Hello(_) | Response::Usage(_) => Err(SignerError::Confused),
        }
    }

    /// Not cancelled half-way: the exchange runs to its end on a thread of its own.
    async fn send(&self, request: Request) -> Result<Response, SignerError> {
        let inner = Arc::clone(&self.0);
        let exchanged = tokio::task::spawn_blocking(move || exchange(&inner.path, &inner.stream, &request)).await;
        exchanged.unwrap_or_else(|_| {
            let source = FrameError::Io(io::Error::other("the asking thread ended early"));
            Err(SignerError::Unreachable { path: self.0.path.clone(), source })
        })
    }
}

/// Asks over the open connection; a connection that broke meanwhile (the signer was restarted) is opened again
/// once. Asking twice is harmless: the signer counts a transaction it signed before only once.
fn exchange(path: &Path, shared: &Mutex<Option<UnixStream>>, request: &Request) -> Result<Response, SignerError> {
    let unreachable = |source| SignerError::Unreachable { path: path.to_owned(), source };
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(mut stream) = shared.take()
        && let Ok(response) = ask_over(&mut stream, request)
    {
        *shared = Some(stream);
        return Ok(response);
    }
    let mut stream = UnixStream::connect(path).map_err(|source| unreachable(source.into()))?;
    let timeouts = stream.set_read_timeout(Some(EXCHANGE)).and_then(|()| stream.set_write_timeout(Some(EXCHANGE)));
    timeouts.map_err(|source| unreachable(source.into()))?;
    let response = ask_over(&mut stream, request).map_err(unreachable)?;
    *shared = Some(stream);
    Ok(response)
}

fn ask_over(stream: &mut UnixStream, request: &Request) -> Result<Response, FrameError> {
    frame::write(stream, request)?;
    frame::read(stream)
}
