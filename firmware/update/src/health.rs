//! The gate: is this version fit to stay? Only what this box can answer for itself is asked. A controller, a chain or a name
//! server that does not answer is no reason to go back to an older version.

use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_hal::{Clock as _, LinuxClock};
use serde::{Deserialize, Serialize};
use service::status::{NodeStatus, read_status};
use signer_protocol::SignerClient;
use tokio::time::Instant;

use crate::files::{self, FileError, Space};
use crate::machine::Image;
use crate::paths::Paths;
use crate::stage::text;

/// How often everything is looked at until all is well.
const LOOK: Duration = Duration::from_secs(1);
/// Percent of the state partition that must be free.
const FREE: u64 = 10;
/// So many bytes are enough however large the disk is.
const FREE_ENOUGH: u64 = 4 << 30;
/// The longest reason kept.
const REASON: usize = 200;

/// What to hold the box against.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    pub(crate) node_socket: PathBuf,
    pub(crate) signer_socket: PathBuf,
    /// The version the node must have.
    pub(crate) expected: String,
    pub(crate) deadline: Duration,
}

/// One look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The image that was looked at.
    pub(crate) version: String,
    pub(crate) healthy: bool,
    pub(crate) took_ms: u64,
    pub(crate) checks: Vec<Check>,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) ok: bool,
    pub(crate) reason: String,
}

impl Report {
    /// What is wrong, in one line.
    pub(crate) fn failures(&self) -> String {
        let failed = self.checks.iter().filter(|check| !check.ok);
        failed.map(|check| format!("{}: {}", check.name, check.reason)).collect::<Vec<_>>().join("; ")
    }
}

fn check(name: &str, found: Result<String, String>) -> Check {
    let (ok, reason) = match found {
        Ok(reason) => (true, reason),
        Err(reason) => (false, reason),
    };
    Check { name: name.to_owned(), ok, reason: reason.chars().take(REASON).collect() }
}

/// The last report of the gate.
pub(crate) fn last(paths: &Paths) -> Result<Option<Report>, FileError> {
    files::get_json(&paths.health().join("last.json"))
}

/// Looks until all is well, or time is up. The report is kept for the boot after a rollback.
pub(crate) async fn watch(paths: &Paths, gate: &Gate) -> Report {
    let begun = Instant::now();
    loop {
        let checks = look(paths, gate).await;
        let healthy = checks.iter().all(|check| check.ok);
        if healthy || begun.elapsed() >= gate.deadline {
            let version = Image::read(paths).map_or_else(|_| String::new(), |image| image.version.to_string());
            let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            let report = Report { version, healthy, took_ms, checks };
            if let Err(error) = files::put_json(&paths.health().join("last.json"), &report, 0o644) {
                tracing::warn!(reason = text(&error), "report could not be kept");
            }
            return report;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn look(paths: &Paths, gate: &Gate) -> Vec<Check> {
    let status = read_status(&gate.node_socket).await.map_err(|error| text(&error));
    if unprovisioned(paths) {
        let idle = |name| check(name, Ok("this box was not told where it stands yet: nothing to run".to_owned()));
        let mut checks: Vec<Check> = ["node", "worker", "ledger", "signer"].into_iter().map(idle).collect();
        checks.extend([check("disk", disk(&paths.health())), check("clock", clock(paths))]);
        return checks;
    }
    let socket = gate.signer_socket.clone();
    let on_chain = status.as_ref().is_ok_and(|status| status.network == "onchain");
    let signer = if on_chain {
        let asked = tokio::task::spawn_blocking(move || signer(&socket)).await;
        asked.unwrap_or_else(|_| Err("asking broke".to_owned()))
    } else if status.is_ok() {
        Ok("off-chain: none is needed".to_owned())
    } else {
        Err("unknown while the node does not answer".to_owned())
    };
    let of_node = |ask: &dyn Fn(&NodeStatus) -> Result<String, String>| match &status {
        Ok(status) => ask(status),
        Err(_) => Err("the node does not answer".to_owned()),
    };
    vec![
        check("node", status.as_ref().map_err(Clone::clone).and_then(|status| node(status, &gate.expected))),
        check("worker", of_node(&worker)),
        check("ledger", of_node(&ledger)),
        check("signer", signer),
        check("disk", disk(&paths.health())),
        check("clock", clock(paths)),
    ]
}

/// A box that nobody provisioned has no node to judge. One that was and lost its configuration is not such a box.
fn unprovisioned(paths: &Paths) -> bool {
    !paths.site().join("provisioned").exists() && !paths.at("etc/millrace/node.toml").exists()
}

fn node(status: &NodeStatus, expected: &str) -> Result<String, String> {
    match status.version.as_str() {
        version if version == expected => Ok(format!("version {version}, {}", status.mode)),
        version => Err(format!("it is version {version:?}, this image has {expected}")),
    }
}

/// A worker is only proved once it really encoded and decoded a clip of our own.
fn worker(status: &NodeStatus) -> Result<String, String> {
    let workers = &status.workers;
    match (workers.probe_age_s, &workers.unfit) {
        (Some(_), _) if !workers.engine.is_empty() => Ok(format!("encoded with {}", workers.engine)),
        (_, Some(why)) => Err(why.clone()),
        _ => Err("none has encoded anything yet".to_owned()),
    }
}

fn ledger(status: &NodeStatus) -> Result<String, String> {
    match status.ledger.as_str() {
        "open" => Ok("open".to_owned()),
        "none" => Ok("off-chain: none is needed".to_owned()),
        other => Err(format!("not open: {other:?}")),
    }
}

/// That it answers means that its key could be opened; nothing is signed.
fn signer(socket: &Path) -> Result<String, String> {
    let signer = SignerClient::connect(socket).map_err(|error| text(&error))?;
    Ok(format!("answers for {}", signer.address()))
}

fn disk(dir: &Path) -> Result<String, String> {
    let probe = dir.join("probe");
    files::put(&probe, b"millrace", 0o600).and_then(|()| files::remove(&probe)).map_err(|error| text(&error))?;
    let Space { free, all } = files::space(dir).map_err(|error| text(&error))?;
    let percent = free.saturating_mul(100) / all.max(1);
    let told = format!("{percent} percent free");
    if percent > FREE || free >= FREE_ENOUGH { Ok(told) } else { Err(format!("{told}, more than {FREE} are needed")) }
}

fn clock(paths: &Paths) -> Result<String, String> {
    let image = Image::read(paths).map_err(|error| text(&error))?;
    let now = LinuxClock.unix_seconds();
    if now >= image.built {
        Ok("after the image was made".to_owned())
    } else {
        Err("before the image was made".to_owned())
    }
}
