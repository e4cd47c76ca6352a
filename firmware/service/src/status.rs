//! The node's status: the only view others get of it, served as one JSON document per connection.
//!
//! Walk 3, step 1. Counters are cumulative since the node started, money since the ledger began.
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// Largest status document anybody reads.
const MAX_DOCUMENT: u64 = 256 * 1024;
/// How long one exchange may take.
const EXCHANGE: Duration = Duration::from_secs(2);
/// How long to wait after a reader could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What `millrace-node` says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Version of the program.
    pub version: String,
    /// `starting`, `run`, `drain` or `stopping`.
    pub mode: String,
    /// Seconds since start.
    pub uptime_s: u64,
    /// Where gateways reach us.
    pub service_uri: String,
    /// `offchain`, `onchain` or `transcoder`.
    pub network: String,
    /// `open`, `none` where there is nothing to earn, or `waiting` for the signer, before it is opened.
    pub ledger: String,
    /// Sessions now.
    pub sessions: Sessions,
    /// Segments so far.
    pub segments: Segments,
    /// The workers.
    pub workers: Workers,
    /// Money so far.
    pub money: Money,
    /// What work costs, when it costs anything.
    pub prices: Option<Prices>,
    /// The chain, when we are on one.
    pub chain: Option<Chain>,
    /// What the box can carry, as it was measured.
    pub capacity: Capacity,
    /// How the box feels; `None` while nobody has looked.
    pub hardware: Option<Hardware>,
    /// Boxes that transcode for us.
    pub transcoders: Vec<AttachedTranscoder>,
    /// Orchestrators we transcode for, the preferred one first.
    pub orchestrators: Vec<OrchestratorLink>,
    /// Open alarms, by id.
    pub alarms: Vec<Alarm>,
}

/// A box that transcodes for us.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachedTranscoder {
    /// Where it dials in from.
    pub address: String,
    /// Its version.
    pub version: String,
    /// `fit`, `benched` (takes nothing for a while) or `probation` (takes one session).
    pub standing: String,
    /// Sessions it has.
    pub sessions: u32,
    /// Sessions it takes.
    pub capacity: u32,
    /// Pixel rate of its sessions over its measured speed; 1 is full.
    pub load: f64,
    /// Segments it did right.
    pub segments_ok: u64,
    /// Segments it failed.
    pub segments_failed: u64,
    /// Seconds since it attached.
    pub attached_s: u64,
}

/// An orchestrator we transcode for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OrchestratorLink {
    /// Its address.
    pub address: String,
    /// `attached`, `connecting`, `waiting` (to try again), `standby` (a preferred one has us) or `refused`.
    pub state: String,
    /// What went wrong last.
    pub error: Option<String>,
    /// Segments posted to it.
    pub segments_ok: u64,
    /// Segments we could not do, or could not post.
    pub segments_failed: u64,
}

/// What the box can carry. A decoded pixel counts as a sixth of an encoded one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capacity {
    /// Pixels the whole box encodes in a second; `None` before it was measured.
    pub pixels_per_second: Option<u64>,
    /// What sessions may take of that: headroom, heat and power taken off.
    pub sold_pixels_per_second: Option<u64>,
    /// What the open sessions ask for.
    pub demand_pixels_per_second: u64,
    /// Percent that heat and power leave; 0 admits nobody new.
    pub derate_percent: u8,
    /// Newcomers turned away for want of it, since start.
    pub refused: u64,
}

/// How the box feels.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hardware {
    /// Seconds since it was looked at.
    pub age_s: u64,
    /// Name of the hottest sensor.
    pub hottest: String,
    /// Its temperature in degrees Celsius.
    pub hottest_celsius: Option<f32>,
    /// Watts drawn by all that is measured.
    pub watts: Option<f32>,
    /// What holds the capacity down, the worst first.
    pub held_down_by: Vec<String>,
    /// The graphics processors.
    pub gpus: Vec<Gpu>,
}

/// How a graphics processor feels; what it does not tell is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpu {
    /// Where on the bus.
    pub address: String,
    /// Its name.
    pub name: String,
    /// Percent of the time in which it computed.
    pub busy_percent: Option<f32>,
    /// Percent of its encoders in use.
    pub encoder_percent: Option<f32>,
    /// Percent of its decoders in use.
    pub decoder_percent: Option<f32>,
    /// Sessions its encoders have open.
    pub encoder_sessions: Option<u32>,
    /// Percent of its memory in use.
    pub memory_percent: Option<f32>,
    /// Degrees Celsius of the chip.
    pub celsius: Option<f32>,
    /// Degrees Celsius of its hottest spot or its memory, whichever is hotter.
    pub inside_celsius: Option<f32>,
    /// Watts it draws.
    pub watts: Option<f32>,
    /// Watts it may draw.
    pub watts_limit: Option<f32>,
    /// Megahertz of the chip.
    pub megahertz: Option<u32>,
    /// Megahertz of its memory.
    pub memory_megahertz: Option<u32>,
    /// What holds it back, as bits: 1 heat, 2 power, 8 its hardware.
    pub throttle_bits: u8,
    /// Memory errors that were not set right.
    pub ecc_uncorrected: Option<u64>,
    /// Why it cannot be read at all.
    pub fault: Option<String>,
}

/// Sessions now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sessions {
    /// Open now.
    pub active: u32,
    /// At most.
    pub capacity: u32,
    /// Opened since start.
    pub started: u64,
    /// Ended since start.
    pub ended: u64,
    /// Turned away since start.
    pub refused: u64,
}

/// Segments since start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Segments {
    /// Transcoded.
    pub ok: u64,
    /// Failed after they were accepted.
    pub failed: u64,
    /// The same, by reason.
    pub failures: std::collections::BTreeMap<String, u64>,
    /// Tried again on another worker.
    pub retried: u64,
    /// Encoded pixels.
    pub pixels: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes of renditions.
    pub bytes_out: u64,
    /// Segment duration ÷ time from last byte in to result out, median of the recent ones; below 1 is losing.
    pub realtime_ratio_p50: f64,
    /// The same, worst of twenty.
    pub realtime_ratio_p05: f64,
    /// Milliseconds from last byte in to result out, median of the recent ones.
    pub latency_ms_p50: u64,
    /// The same, 95th percentile.
    pub latency_ms_p95: u64,
}

/// The worker pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Workers {
    /// Alive now.
    pub alive: u32,
    /// At work now.
    pub busy: u32,
    /// Died without being asked to, since start.
    pub lost: u64,
    /// Replaced as a precaution, since start.
    pub recycled: u64,
    /// Segments that wait for one now.
    pub waiting: u32,
    /// Segments dropped while they waited, since they could not be done in time any more, since start.
    pub dropped: u64,
    /// Segments turned away since too many waited, since start.
    pub turned_away: u64,
    /// What they encode with.
    pub engine: String,
    /// All engines, best first.
    pub engines: Vec<EngineStatus>,
    /// Seconds since an encoder last proved itself.
    pub probe_age_s: Option<u64>,
    /// Layers of the jail in force.
    pub jail_layers: Vec<String>,
    /// Layers that could not be had, each with the reason.
    pub jail_missing: Vec<(String, String)>,
    /// Why there are no workers, when there are none.
    pub unfit: Option<String>,
}

/// What there is to say of an engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineStatus {
    /// Its name, such as `va` or `nvidia+software`.
    pub name: String,
    /// `in use`, `proved`, `unproved`, `suspect` (a worker was lost; it proves itself again), `quarantined` (left alone
    /// for a while), `refused` (something it takes is not here) or `ready` (software that is not in use).
    pub state: String,
    /// Why it is refused or left alone.
    pub reason: Option<String>,
    /// Since when it is left alone, in Unix seconds.
    pub since: Option<u64>,
    /// When it may prove itself again, in Unix seconds.
    pub until: Option<u64>,
    /// What it proved.
    pub proved: Vec<String>,
    /// Encoders it can have open at a time, where that is bounded.
    pub sessions: Option<u32>,
}

/// Money since the ledger began; amounts in wei as decimal text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Money {
    /// Tickets that earned credit.
    pub tickets_received: u64,
    /// Their expected value.
    pub received_ev_wei: String,
    /// Winning tickets.
    pub tickets_won: u64,
    /// Their face value.
    pub won_wei: String,
    /// Winners redeemed and confirmed.
    pub tickets_redeemed: u64,
    /// What the chain paid for them.
    pub paid_wei: String,
    /// Redemption attempts that failed.
    pub redemption_failures: u64,
    /// Winners not yet redeemed.
    pub tickets_pending: u64,
    /// Those of them whose redemption is on its way.
    pub tickets_submitted: u64,
    /// Their face value.
    pub pending_wei: String,
    /// Winners given up, which is money lost.
    pub tickets_abandoned: u64,
    /// Payments refused since start, by reason.
    pub payment_errors: std::collections::BTreeMap<String, u64>,
    /// Gateways that paid since start: so many of them singly, the others together under `other`.
    pub gateways: Vec<GatewayMoney>,
}

/// What a gateway paid since start, and what it was last offered; amounts in wei as decimal text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GatewayMoney {
    /// Its account, or `other`.
    pub address: String,
    /// Tickets that earned credit.
    pub tickets: u64,
    /// Their expected value.
    pub value_wei: String,
    /// Winning tickets.
    pub winners: u64,
    /// Face value of the tickets it was last asked for; empty for `other`.
    pub face_value_wei: String,
    /// The most we could redeem of it at that time; empty for `other`.
    pub max_float_wei: String,
}

/// What work costs now, in wei per pixel as text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Prices {
    /// What a gateway without a price of its own is asked, with the cost of redeeming on top; empty while there is no
    /// price.
    pub asked: String,
    /// The same without that cost.
    pub base: String,
    /// The most that is asked; empty when there is no such bound.
    pub ceiling: String,
    /// What single gateways are asked, by address.
    pub per_gateway: std::collections::BTreeMap<String, String>,
    /// What an ether costs, as the price feed tells; empty when none is asked or believed.
    pub ether: String,
}

/// The chain as the node sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Chain {
    /// L1 block the contracts see.
    pub l1_block: u64,
    /// Block of the chain we transact on.
    pub l2_block: u64,
    /// Current round.
    pub round: u64,
    /// Is it initialised?
    pub round_initialized: bool,
    /// Are we in the active set?
    pub active: bool,
    /// Seconds since the chain was last read.
    pub poll_age_s: u64,
    /// Who is paid.
    pub recipient: String,
    /// The hot account that pays for gas.
    pub hot_account: String,
    /// Its balance, in wei as decimal text.
    pub hot_balance_wei: String,
    /// Base price of gas, in wei as decimal text.
    pub gas_price_wei: String,
    /// Calls of the reward that failed, since start.
    pub reward_call_errors: u64,
}

/// Something a person or the fleet should know.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Alarm {
    /// Id of the fleet's event table, such as `RPC-DOWN`.
    pub id: String,
    /// `crit`, `err`, `warn` or `info`.
    pub severity: String,
    /// What it is about, such as `worker-2`; may be empty.
    pub instance: String,
    /// What is wrong and what to do.
    pub text: String,
}

/// Why a status could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nobody answers there.
    #[error("no status from {path}: is millrace-node running?")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It took too long.
    #[error("no status from {path} within {EXCHANGE:?}: millrace-node hangs or is overloaded")]
    Timeout {
        /// The socket.
        path: PathBuf,
    },
    /// The answer makes no sense.
    #[error("status from {path} cannot be read: are node and reader of the same version?")]
    Malformed {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Reads the node's status from its socket.
///
/// # Errors
/// [`StatusError`] when nobody answers, in time, sensibly.
pub async fn read_status(path: &Path) -> Result<NodeStatus, StatusError> {
    let exchange = async {
        let stream = UnixStream::connect(path).await?;
        let mut document = Vec::new();
        stream.take(MAX_DOCUMENT).read_to_end(&mut document).await?;
        Ok(document)
    };
    let document = tokio::time::timeout(EXCHANGE, exchange)
        .await
        .map_err(|_| StatusError::Timeout { path: path.to_owned() })?
        .map_err(|source| StatusError::Unreachable { path: path.to_owned(), source })?;
    serde_json::from_slice(&document).map_err(|source| StatusError::Malformed { path: path.to_owned(), source })
}

/// Serves a status on a socket until the returned future is dropped: each connection gets one document.
///
/// # Errors
/// When the socket cannot be bound.
pub async fn serve_status(
    path: &Path,
    status: watch::Receiver<NodeStatus>,
) -> std::io::Result<std::convert::Infallible> {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    loop {
        let mut stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Descriptors may have run out; the daemon is worth more than its status.
                tracing::warn!(%error, "status reader was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let document = serde_json::to_vec(&*status.borrow()).map_err(std::io::Error::other)?;
        let answer = async { stream.write_all(&document).await };
        match tokio::time::timeout(EXCHANGE, answer).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "status reader went away"),
            Err(_) => tracing::debug!("status reader was too slow"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_gets_what_the_node_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.sock");
        let said = NodeStatus { mode: "run".into(), ..NodeStatus::default() };
        let (_keep, status) = watch::channel(said.clone());
        let server = serve_status(&path, status);
        let reader = async {
            while !path.exists() {
                tokio::task::yield_now().await;
            }
            read_status(&path).await
        };
        tokio::select! {
            got = reader => assert_eq!(got.unwrap(), said),
            ended = server => panic!("the server ended: {ended:?}"),
        }
    }

    #[tokio::test]
    async fn a_missing_node_is_named() {
        let error = read_status(Path::new("/nonexistent/node.sock")).await.unwrap_err();
        assert!(error.to_string().contains("is millrace-node running?"));
    }
}
