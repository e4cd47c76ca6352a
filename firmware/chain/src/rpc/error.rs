//! Why the chain did not answer, or what it answered instead of a result.
use std::time::Duration;

use ethers::types::Bytes;
use serde_json::Value;

use crate::config::Endpoint;

/// A call that brought no result.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// There is no endpoint to ask.
    #[error("no rpc endpoint is configured")]
    NoEndpoint,
    /// The trusted authorities for `https` could not be read.
    #[error("certificate authorities for https endpoints unreadable: {path}")]
    Tls {
        /// The PEM file.
        path: String,
        /// What was wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An endpoint gave no usable answer.
    #[error("rpc endpoint {endpoint} {fault}")]
    Transport {
        /// Which.
        endpoint: Endpoint,
        /// How it went wrong.
        #[source]
        fault: TransportFault,
    },
    /// An endpoint serves another chain than configured: nothing is read from it and nothing sent to it.
    #[error("rpc endpoint {endpoint} serves chain {found}, this node is set to chain {expected}")]
    WrongChain {
        /// Which.
        endpoint: Endpoint,
        /// The configured chain.
        expected: u64,
        /// The endpoint's chain.
        found: u64,
    },
    /// The chain answered with an error: a revert, a refused transaction, a limit.
    #[error("{method} was refused: {message} (code {code})")]
    Response {
        /// The call.
        method: &'static str,
        /// The JSON-RPC error code.
        code: i64,
        /// The endpoint's words.
        message: String,
        /// Revert data, where there is some.
        data: Option<Bytes>,
    },
    /// The endpoint answered fewer calls than asked.
    #[error("{method} was not answered")]
    NoAnswer {
        /// The call.
        method: &'static str,
    },
    /// The result does not have the expected shape.
    #[error("{method} answered with an unexpected shape")]
    Unexpected {
        /// The call.
        method: &'static str,
        /// Where it differs.
        #[source]
        source: serde_json::Error,
    },
}

/// How an endpoint failed to answer.
#[derive(Debug, thiserror::Error)]
pub enum TransportFault {
    /// No connection, or it broke.
    #[error("could not be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No answer in time.
    #[error("gave no answer within {0:?}")]
    Timeout(Duration),
    /// An HTTP error.
    #[error("answered with http status {0}")]
    Status(u16),
    /// More bytes than we take.
    #[error("answered with more than {0} bytes")]
    TooLarge(usize),
    /// Not JSON-RPC.
    #[error("answered with something that is not json-rpc")]
    Shape,
}

impl RpcError {
    pub(super) fn transport(endpoint: &Endpoint, fault: TransportFault) -> Self {
        Self::Transport { endpoint: endpoint.clone(), fault }
    }

    pub(super) fn response(method: &'static str, error: &Value) -> Self {
        let message = error.get("message").and_then(Value::as_str).unwrap_or("no message").to_owned();
        let code = error.get("code").and_then(Value::as_i64).unwrap_or_default();
        Self::Response { method, code, message, data: revert_data(error.get("data")) }
    }

    /// Did the chain itself answer, so that asking another endpoint the same would bring the same?
    #[must_use]
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Response { .. })
    }

    /// Must a person change something before this can work?
    #[must_use]
    pub fn needs_operator(&self) -> bool {
        matches!(self, Self::WrongChain { .. } | Self::NoEndpoint | Self::Tls { .. })
    }
}

/// Finds revert data where the different nodes put it: a hex string, or an object holding one.
fn revert_data(data: Option<&Value>) -> Option<Bytes> {
    let text = match data? {
        Value::String(text) => text.as_str(),
        object => object.get("data").or_else(|| object.get("result"))?.as_str()?,
    };
    let digits = text.strip_prefix("Reverted ").unwrap_or(text).strip_prefix("0x")?;
    hex::decode(digits).ok().map(Bytes::from)
}
