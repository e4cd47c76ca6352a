//! `millrace status`: the node as it sees itself.
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use service::status::{NodeStatus, StatusError, read_status};

use crate::failure::{self, Code, Failure, Outcome};
use crate::{table, text};

/// Where the node's status socket is on a box.
const SOCKET: &str = "/run/millrace/node.sock";
/// Where it is when the node was started by hand, without a configuration, in this directory.
const SOCKET_HERE: &str = "millrace-state/node.sock";

/// Show the running node.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  millrace status
  millrace status --json | jq .segments")]
pub(crate) struct Args {
    /// The node's status socket. Default: /run/millrace/node.sock, else millrace-state/node.sock here
    #[arg(long, value_name = "PATH", env = "MILLRACE_NODE_SOCKET")]
    socket: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: &Args) -> failure::Result {
    let status = read(args.socket.as_deref()).await?;
    if args.json {
        table::json(&status)?;
    } else {
        print(&status);
    }
    Ok(Outcome::Done)
}

/// The node's status, or what to do to get one.
pub(crate) async fn read(socket: Option<&Path>) -> failure::Result<NodeStatus> {
    let here = Path::new(SOCKET_HERE);
    let usual = if here.exists() && !Path::new(SOCKET).exists() { here } else { Path::new(SOCKET) };
    let socket = socket.unwrap_or(usual);
    read_status(socket).await.map_err(|error| {
        let failure = Failure::from_error(Code::Unavailable, &error);
        match &error {
            StatusError::Unreachable { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                failure.advise("the socket is for members of group millrace: run this with sudo, or join the group")
            }
            StatusError::Unreachable { .. } => failure.advise(
                "start it:      systemctl start millrace-node\nsee why not:   journalctl -u millrace-node -n 50\n\
                 elsewhere?     millrace status --socket PATH",
            ),
            StatusError::Timeout { .. } => failure.advise("see what it does: journalctl -u millrace-node -n 50"),
            StatusError::Malformed { .. } => {
                failure.advise("restart the node after an update: systemctl restart millrace-node")
            }
        }
    })
}

fn print(status: &NodeStatus) {
    let NodeStatus { sessions, segments, workers, money, .. } = status;
    let (capacity, hardware) = (&status.capacity, status.hardware.as_ref());
    let rate = |pixels: u64| format!("{} Mpx/s", text::grouped(pixels / 1_000_000));
    table::facts(&[
        ("node", format!("{} {}, up {}", status.version, status.mode, text::uptime(status.uptime_s))),
        ("serves", status.service_uri.clone()),
        ("network", status.network.clone()),
        (
            "sessions",
            format!(
                "{} of {}, {} since start, {} turned away",
                sessions.active, sessions.capacity, sessions.started, sessions.refused
            ),
        ),
        (
            "capacity",
            capacity.pixels_per_second.map_or_else(String::new, |all| {
                let sold = capacity.sold_pixels_per_second.unwrap_or(0);
                let demand = rate(capacity.demand_pixels_per_second);
                format!("{} measured, {} of it for sessions, {demand} asked for", rate(all), rate(sold))
            }),
        ),
        ("held down", hardware.map(|hardware| hardware.held_down_by.join("; ")).unwrap_or_default()),
        (
            "hottest",
            hardware
                .and_then(|hardware| Some(format!("{:.0} °C, {}", hardware.hottest_celsius?, hardware.hottest)))
                .unwrap_or_default(),
        ),
        ("power", hardware.and_then(|hardware| Some(format!("{:.1} W", hardware.watts?))).unwrap_or_default()),
        ("segments", format!("{} done, {} failed, {} retried", segments.ok, segments.failed, segments.retried)),
        ("pixels", text::grouped(segments.pixels)),
        ("traffic", format!("{} in, {} out", text::bytes(segments.bytes_in), text::bytes(segments.bytes_out))),
        (
            "real-time ratio",
            format!(
                "{:.1} median, {:.1} for the slowest of twenty",
                segments.realtime_ratio_p50, segments.realtime_ratio_p05
            ),
        ),
        (
            "latency",
            format!("{} ms median, {} ms for the slowest of twenty", segments.latency_ms_p50, segments.latency_ms_p95),
        ),
        (
            "workers",
            format!("{} alive, {} at work, {} lost, {}", workers.alive, workers.busy, workers.lost, workers.engine),
        ),
        ("engines", workers.engines.iter().filter_map(engine).collect::<Vec<_>>().join("; ")),
        ("no workers", workers.unfit.clone().unwrap_or_default()),
        ("jail", workers.jail_layers.join(" ")),
        (
            "jail lacks",
            workers.jail_missing.iter().map(|(layer, why)| format!("{layer} ({why})")).collect::<Vec<_>>().join(", "),
        ),
    ]);
    print_boxes(status);
    if let Some(prices) = &status.prices {
        println!();
        let asked = if prices.asked.is_empty() { "none is known now" } else { &prices.asked };
        table::facts(&[
            ("price asked", asked.to_owned()),
            ("before overhead", prices.base.clone()),
            ("never above", prices.ceiling.clone()),
            ("ether costs", prices.ether.clone()),
        ]);
    }
    if let Some(chain) = &status.chain {
        println!();
        table::facts(&[
            ("round", format!("{}{}", chain.round, if chain.round_initialized { "" } else { ", not initialised" })),
            ("L1 block", format!("{}, read {} s ago", chain.l1_block, chain.poll_age_s)),
            ("active set", if chain.active { "in it" } else { "not in it: no payment is accepted" }.to_owned()),
            ("recipient", chain.recipient.clone()),
            ("hot account", format!("{}, {}", chain.hot_account, text::money(&chain.hot_balance_wei))),
            ("gas price", format!("{} wei", chain.gas_price_wei)),
        ]);
        println!();
        crate::money::print_tickets(money);
    }
    if !status.alarms.is_empty() {
        println!();
        let row = |alarm: &service::status::Alarm| {
            vec![alarm.severity.clone(), alarm.id.clone(), alarm.instance.clone(), alarm.text.clone()]
        };
        let rows: Vec<_> = status.alarms.iter().map(row).collect();
        table::print(&["severity", "alarm", "about", "what to do"], &rows);
    }
}

/// An engine that is left alone or in doubt, and why; of the others nothing need be told here.
fn engine(status: &service::status::EngineStatus) -> Option<String> {
    let told = matches!(status.state.as_str(), "quarantined" | "suspect");
    told.then(|| {
        format!("{} {}: {}", status.name, status.state, status.reason.as_deref().unwrap_or("a worker was lost"))
    })
}

/// The boxes that transcode for us, and the orchestrators we transcode for.
fn print_boxes(status: &NodeStatus) {
    if !status.transcoders.is_empty() {
        println!();
        let row = |attached: &service::status::AttachedTranscoder| {
            vec![
                attached.address.clone(),
                attached.version.clone(),
                attached.standing.clone(),
                format!("{} of {}", attached.sessions, attached.capacity),
                format!("{:.0} %", attached.load * 100.0),
                format!("{} done, {} failed", attached.segments_ok, attached.segments_failed),
                text::uptime(attached.attached_s),
            ]
        };
        let rows: Vec<_> = status.transcoders.iter().map(row).collect();
        table::print(&["transcoder", "version", "standing", "sessions", "load", "segments", "attached for"], &rows);
    }
    if !status.orchestrators.is_empty() {
        println!();
        let row = |link: &service::status::OrchestratorLink| {
            vec![
                link.address.clone(),
                link.state.clone(),
                format!("{} posted, {} failed", link.segments_ok, link.segments_failed),
                link.error.clone().unwrap_or_default(),
            ]
        };
        let rows: Vec<_> = status.orchestrators.iter().map(row).collect();
        table::print(&["orchestrator", "state", "segments", "last trouble"], &rows);
    }
}
