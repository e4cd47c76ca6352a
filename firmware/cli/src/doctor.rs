//! `millrace doctor`: what a box needs, checked one by one, each with what to do.
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args as ClapArgs;
use millrace_hal::sensors::{LinuxSensors, Sensors};
use serde::Serialize;
use service::status::NodeStatus;

use crate::failure::{self, Outcome};
use crate::{status, table, text, worker};

/// Less free space than this will soon hurt.
const ENOUGH_DISK: u64 = 1 << 30;
/// How long a small program or a socket may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Check what a box needs to work.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Ends with 1 when something is bad; a warning alone is no failure.

Examples:
  millrace doctor
  millrace doctor --json | jq '.[] | select(.verdict == \"bad\")'")]
pub(crate) struct Args {
    /// The node's status socket. Default: /run/millrace/node.sock, else millrace-state/node.sock here
    #[arg(long, value_name = "PATH", env = "MILLRACE_NODE_SOCKET")]
    socket: Option<PathBuf>,
    /// The signer's socket; needed on chain only
    #[arg(long, value_name = "PATH", default_value = "/run/millrace-signer/signer.sock")]
    signer_socket: PathBuf,
    /// Where the node keeps its state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/millrace")]
    state: PathBuf,
    /// The worker program. Default: millrace-worker beside this program, or in PATH
    #[arg(long, value_name = "PATH", env = "MILLRACE_WORKER")]
    worker: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Bad,
}

#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    verdict: Verdict,
    finding: String,
    advice: String,
}

impl Check {
    fn new(check: &'static str, verdict: Verdict, finding: impl Into<String>, advice: &str) -> Self {
        Self { check, verdict, finding: finding.into(), advice: advice.to_owned() }
    }
}

pub(crate) async fn run(args: &Args) -> failure::Result {
    let told = args.worker.clone();
    let fitness = tokio::task::spawn_blocking(move || fitness(told.as_deref()));
    let node = status::read(args.socket.as_deref()).await;
    let on_chain = node.as_ref().is_ok_and(|node| node.network == "onchain");
    let mut checks = vec![
        fitness
            .await
            .unwrap_or_else(|error| Check::new("worker", Verdict::Bad, format!("the check broke: {error}"), "")),
    ];
    checks.extend(match &node {
        Ok(node) => judge(node),
        Err(failure) => vec![Check::new("node", Verdict::Bad, failure.to_string(), "")],
    });
    checks.push(signer(&args.signer_socket, on_chain).await);
    checks.push(clock().await);
    checks.push(disk(&args.state));
    if args.json {
        table::json(&checks)?;
    } else {
        print(&checks);
    }
    let bad = checks.iter().any(|check| check.verdict == Verdict::Bad);
    Ok(if bad { Outcome::Partly } else { Outcome::Done })
}

fn fitness(told: Option<&Path>) -> Check {
    let ready = match worker::find(told).and_then(|program| worker::start(&program, false)) {
        Ok((_worker, ready)) => ready,
        Err(failure) => return Check::new("worker", Verdict::Bad, failure.to_string(), ""),
    };
    let found = format!("engine {}, proved {}", ready.engine, ready.proved.join(" "));
    if ready.missing_layers.is_empty() {
        return Check::new("worker", Verdict::Ok, found, "");
    }
    let lacking: Vec<_> = ready.missing_layers.iter().map(|(layer, why)| format!("{layer} ({why})")).collect();
    let found = format!("{found}; its jail lacks {}", lacking.join(", "));
    Check::new("worker", Verdict::Warn, found, "the node's unit gives what an ordinary account cannot have")
}

fn judge(node: &NodeStatus) -> Vec<Check> {
    let found = format!("{} {}, {} workers, {}", node.version, node.mode, node.workers.alive, node.service_uri);
    let mut checks = vec![match &node.workers.unfit {
        Some(why) => Check::new("node", Verdict::Bad, format!("{found}; no workers: {why}"), "run `millrace hw`"),
        None if node.mode != "run" => Check::new("node", Verdict::Warn, found, "it takes no new streams in this mode"),
        None => Check::new("node", Verdict::Ok, found, ""),
    }];
    for alarm in &node.alarms {
        let verdict = if matches!(alarm.severity.as_str(), "crit" | "err") { Verdict::Bad } else { Verdict::Warn };
        checks.push(Check::new("alarm", verdict, format!("{} {}: {}", alarm.id, alarm.instance, alarm.text), ""));
    }
    if let Some(chain) = &node.chain {
        let found = format!("round {}, L1 block {}, read {} s ago", chain.round, chain.l1_block, chain.poll_age_s);
        checks.push(if chain.active {
            Check::new("chain", Verdict::Ok, found, "")
        } else {
            let found = format!("{found}; the recipient is not in the active set");
            Check::new("chain", Verdict::Bad, found, "no payment is accepted until it is: see its stake")
        });
    }
    checks
}

async fn signer(socket: &Path, needed: bool) -> Check {
    let answer = tokio::time::timeout(PATIENCE, tokio::net::UnixStream::connect(socket)).await;
    match answer {
        Ok(Ok(_)) => Check::new("signer", Verdict::Ok, format!("listens at {}", socket.display()), ""),
        Ok(Err(_)) | Err(_) if !needed => {
            Check::new("signer", Verdict::Ok, "not running, and not needed off-chain", "")
        }
        Ok(Err(error)) => {
            let found = format!("{}: {error}", socket.display());
            Check::new("signer", Verdict::Bad, found, "systemctl start millrace-signer")
        }
        Err(_) => {
            Check::new("signer", Verdict::Bad, "does not accept connections", "systemctl restart millrace-signer")
        }
    }
}

async fn clock() -> Check {
    let mut command = tokio::process::Command::new("timedatectl");
    command.args(["show", "--property=NTPSynchronized", "--value"]).kill_on_drop(true);
    let unknown = |why: String| {
        Check::new(
            "clock",
            Verdict::Warn,
            format!("cannot tell whether it is synchronised: {why}"),
            "check it: timedatectl",
        )
    };
    match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) if output.status.success() => match String::from_utf8_lossy(&output.stdout).trim() {
            "yes" => Check::new("clock", Verdict::Ok, "synchronised", ""),
            _ => Check::new("clock", Verdict::Warn, "not synchronised", "timedatectl set-ntp true"),
        },
        Ok(Ok(output)) => unknown(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Ok(Err(error)) => unknown(format!("timedatectl: {error}")),
        Err(_) => unknown("timedatectl hangs".to_owned()),
    }
}

fn disk(state: &Path) -> Check {
    let existing = state.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let readings = LinuxSensors::new("/", vec![existing.to_owned()]).read();
    let Some(disk) = readings.disks.get(existing) else {
        return Check::new("disk", Verdict::Warn, format!("cannot read {}", existing.display()), "");
    };
    let found = format!("{} free at {}", text::bytes(disk.free.0), existing.display());
    if disk.free.0 < ENOUGH_DISK {
        return Check::new("disk", Verdict::Bad, found, "make room: a full disk stops payments");
    }
    Check::new("disk", Verdict::Ok, found, "")
}

fn print(checks: &[Check]) {
    for check in checks {
        let verdict = format!("{:?}", check.verdict).to_lowercase();
        println!("{verdict:4}  {:7}  {}", check.check, check.finding.replace('\n', "\n               "));
        if !check.advice.is_empty() {
            println!("               {}", check.advice);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_workers_or_outside_the_active_set_is_bad() {
        let mut node = NodeStatus { mode: "run".into(), ..NodeStatus::default() };
        assert_eq!(judge(&node).first().unwrap().verdict, Verdict::Ok);
        node.chain = Some(service::status::Chain { active: false, ..Default::default() });
        assert_eq!(judge(&node).last().unwrap().verdict, Verdict::Bad);
        node.workers.unfit = Some("no encoder".into());
        assert_eq!(judge(&node).first().unwrap().verdict, Verdict::Bad);
    }

    #[test]
    fn the_disk_of_a_directory_to_come_is_that_of_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        let check = disk(&dir.path().join("not/yet/there"));
        assert!(check.finding.contains(&dir.path().display().to_string()), "{check:?}");
    }

    #[tokio::test]
    async fn a_signer_is_missed_on_chain_only() {
        let nowhere = Path::new("/nonexistent/signer.sock");
        assert_eq!(signer(nowhere, false).await.verdict, Verdict::Ok);
        assert_eq!(signer(nowhere, true).await.verdict, Verdict::Bad);
    }
}
