//! A paying gateway: find an orchestrator, pay it, use it.
//!
//! The other side of walk 1. [`Gateway`] discovers, [`Session`] pays for one segment and fetches its renditions,
//! [`push()`] drives a whole stream and writes a playable ladder. It behaves as the stock gateway does where the
//! network depends on it, and holds no key: whoever uses it brings a [`TicketSigner`].
#![forbid(unsafe_code)]

mod bench;
mod chain_view;
mod decoder;
mod exact;
mod gateway;
mod http;
mod ingest;
mod inspect;
mod ladder;
mod needs;
mod offer;
mod purse;
mod push;
mod report;
mod rpc;
mod session;
mod sessions;
mod signer;
mod tls;
mod verify;
mod webhook;

pub use bench::{BenchError, BenchOptions, BenchReport, Clip, StreamFailure, bench};
pub use chain_view::{ChainSnapshot, ChainView};
pub use decoder::{DecodeError, Decoded, Decoder, Decoding};
pub use gateway::{DiscoveryError, Gateway, GatewayConfig, Refusal, Totals};
pub use http::HttpError;
pub use ingest::{Fed, Ingest, IngestError, IngestOptions, Listen, Protocol, Reply, read_rtmp};
pub use inspect::{Inspected, inspect};
pub use ladder::LadderError;
pub use needs::needs;
pub use offer::{Offer, OfferError, OfferLimits, Terms};
pub use purse::{Purse, PurseError, Reserved, estimate_pixels};
pub use push::{Pace, PushError, PushOptions, push};
pub use report::{FalseClaim, OrchestratorReport, PushReport, SegmentReport};
pub use rpc::RpcError;
pub use session::{RenditionFile, Session, SessionError, Transcoded, Upload};
pub use signer::{SignerError, TicketSigner};
pub use verify::VerifyError;
pub use webhook::{Webhook, WebhookError};
