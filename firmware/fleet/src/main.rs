//! `millrace-fleet`: report health, obey the fleet. Walk 3 from end to end; outlives a broken node, so that it can tell.

mod alarms;
mod clock;
mod collect;
mod config;
mod enrol;
mod health;
mod identity;
mod mqtt;
mod orders;
mod outbox;
mod reconnect;
mod report;
mod scheduler;
mod spool;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use fleet_protocol::event::{Op, Severity, id};
use fleet_protocol::payload::{Durable, EventBody};
use fleet_protocol::registry::Class;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Map, Value, json};
use service::{Exit, ExitReason, Heartbeats, Shutdown};
use tokio::sync::{mpsc, watch};

use config::Config;
use identity::Identity;
use mqtt::{Link, LinkView};
use outbox::{Content, Item, Outbox};
use report::LedgerBase;
use scheduler::Scheduler;
use spool::{Caps, Opened, Spool, SpoolError};

/// Items between collector and link: a few rounds' worth; the collector waits when the disk is slow.
const ITEMS: usize = 32;
/// A task that does not beat for this long hangs.
const HANG: Duration = Duration::from_secs(60);

/// Report this box's health and earnings to its fleet over MQTT.
#[derive(Debug, Parser)]
#[command(name = "millrace-fleet", version, after_long_help = config::EXAMPLE)]
struct Arguments {
    /// Configuration file, TOML; `--help` shows every key.
    #[arg(long, default_value = "/etc/millrace/fleet.toml")]
    config: PathBuf,
    /// Check the configuration and the TLS files, then exit.
    #[arg(long)]
    check: bool,
    /// Something else than to run.
    #[command(subcommand)]
    task: Option<Task>,
}

/// What else it does.
#[derive(Debug, clap::Subcommand)]
enum Task {
    /// Become a box of the fleet by a claim token, once.
    Enrol(enrol::EnrolArgs),
}

fn main() -> Exit {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let usage = error.use_stderr();
            let _ = error.print();
            return if usage { Exit::because(ExitReason::Usage, "called wrongly") } else { Exit::stopped() };
        }
    };
    service::init_crypto();
    service::init_journal("millrace-fleet");
    if let Some(Task::Enrol(args)) = arguments.task {
        return match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(enrol::run(args)),
            Err(error) => Exit::because(ExitReason::Software, error),
        };
    }
    let config = match Config::read(&arguments.config) {
        Ok(config) => config,
        Err(error) => return Exit::because(ExitReason::Config, error),
    };
    let tls = match config.tls.client_config() {
        Ok(tls) => tls,
        Err(error) => return Exit::because(ExitReason::Config, error),
    };
    if arguments.check {
        tracing::info!(path = %arguments.config.display(), "configuration is valid");
        return Exit::stopped();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(config, tls)),
        Err(error) => Exit::because(ExitReason::Software, error),
    }
}

async fn run(config: Config, tls: Arc<rustls::ClientConfig>) -> Exit {
    let shutdown = match Shutdown::on_signals() {
        Ok(shutdown) => shutdown,
        Err(error) => return Exit::because(ExitReason::Software, error),
    };
    let (identity, mut outbox) = match open_state(&config) {
        Ok(state) => state,
        Err(error) => return Exit::because(ExitReason::Unavailable, error),
    };
    let life = identity.life();
    tracing::info!(box_id = %config.box_id, fleet = %config.fleet, epoch = %life.e, boot = life.b, "fleet agent started");

    let mut ledger = LedgerBase::default();
    if let Some(step) = outbox.newest_ledger() {
        ledger.follow(&step);
    }
    let (items, from_collector) = mpsc::channel(ITEMS);
    let (view, link_view) = watch::channel(LinkView::default());
    // The birth already says what the box is willing to do, when its node can be asked.
    let first = service::status::read_status(&config.node_status).await.ok();
    let (mode, link_mode) = watch::channel(report::mode(first.as_ref()));
    let (purse, link_purse) = watch::channel(report::purse(first.as_ref()));
    let beats = Arc::new(Heartbeats::default());
    let (collector_beat, link_beat) = (beats.register("collector", HANG), beats.register("link", HANG));

    let scheduler = Scheduler::new(config.clone(), ledger);
    let link = Link::new(config, tls, identity, outbox, describe(), (link_mode, link_purse), view);
    let mut collecting = tokio::spawn(scheduler.run(items, link_view, mode, purse, collector_beat));
    let mut linking = tokio::spawn(link.run(from_collector, link_beat, shutdown.token()));
    service::notify_ready();

    // The link ends when it has said goodbye; any other end is a fault that only a restart can mend. The collector
    // also ends when the link is gone, and then the link knows why.
    let fault = tokio::select! {
        biased;
        ended = &mut linking => Some(link_end(ended)),
        ended = &mut collecting => match ended {
            Ok(Err(_)) => None,
            Ok(Ok(never)) => match never {},
            Err(error) => Some(Exit::because(ExitReason::Software, error)),
        },
        () = beats.feed_watchdog() => Some(Exit::because(ExitReason::Software, "the watchdog feeder ended")),
    };
    let exit = match fault {
        Some(exit) => exit,
        None => link_end((&mut linking).await),
    };
    service::notify_stopping();
    collecting.abort();
    linking.abort();
    exit
}

fn link_end(ended: Result<Result<(), mqtt::LinkError>, tokio::task::JoinError>) -> Exit {
    match ended {
        Ok(Ok(())) => Exit::stopped(),
        Ok(Err(error)) => Exit::because(ExitReason::Unavailable, error),
        Err(error) => Exit::because(ExitReason::Software, error),
    }
}

/// Open spool and counters; what the spool lost is itself an event.
fn open_state(config: &Config) -> Result<(Identity, Outbox), SpoolError> {
    let dir: &Path = &config.state_dir.join("spool");
    let mib = |n: u32| u64::from(n) << 20;
    let caps = Caps {
        ledger: mib(config.spool.ledger_mib),
        events: mib(config.spool.events_mib),
        earnings: mib(config.spool.earnings_mib),
    };
    let (spool, findings) = Spool::open(dir, caps)?;
    let fresh = findings.iter().any(|(_, opened)| opened.sequence_lost);
    let identity = Identity::open(dir, fresh, &mut StdRng::from_entropy())?;
    let expiry = [config.periods.heartbeat_s, config.periods.vitals_s, config.periods.streams_s];
    let mut outbox = Outbox::new(config.fleet.clone(), config.box_id.clone(), spool, expiry_of(expiry));
    for (class, opened) in findings {
        note_opened(&mut outbox, identity.life().b, class, &opened);
    }
    Ok((identity, outbox))
}

fn note_opened(outbox: &mut Outbox, boot: u64, class: Durable, opened: &Opened) {
    if opened.torn > 0 {
        tracing::info!(class = class.letter(), bytes = opened.torn, "interrupted write was cut off the spool");
    }
    let Some((from, to)) = opened.lost else { return };
    tracing::error!(class = class.letter(), from, to, "spool records were damaged and set aside: check the disk");
    let mut context = Map::new();
    context.insert("from".to_owned(), json!(from));
    context.insert("to".to_owned(), json!(to));
    let body = EventBody {
        inst: Some(class.letter().to_owned()),
        ctx: Some(context),
        ..EventBody::new(id::SPOOL_LOST, Op::Occur, Severity::Crit)
    };
    let item = Item { stamp: clock::stamp(), content: Content::Event(body) };
    outbox.take(boot, item, tokio::time::Instant::now());
}

/// The broker forgets periodic telemetry after two periods.
fn expiry_of([heartbeat, vitals, streams]: [u32; 3]) -> outbox::Expiry {
    outbox::Expiry { heartbeat_s: heartbeat * 2, vitals_s: vitals * 2, streams_s: streams * 2 }
}

/// Hardware and abilities for the birth certificate. Nothing in it identifies a person or a place.
fn describe() -> (Map<String, Value>, Map<String, Value>) {
    let identity = millrace_hal::Identity::read(Path::new("/"));
    let mut hardware = Map::new();
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            hardware.insert(key.to_owned(), Value::String(value.chars().take(64).collect()));
        }
    };
    put("model", identity.model);
    put("vendor", identity.vendor);
    put("system", identity.system);
    put("kernel", identity.kernel);
    if let Ok(cores) = std::thread::available_parallelism() {
        hardware.insert("cores".to_owned(), json!(cores.get()));
    }
    // Without a TPM the box's keys lie open on its disk: its hot account should hold less.
    hardware.insert("tpm".to_owned(), json!(identity.tpm));
    let classes: Vec<&str> = Class::ALL.iter().map(|class| class.key()).collect();
    let mut abilities = Map::new();
    abilities.insert("tele".to_owned(), json!(classes));
    abilities.insert("cmd".to_owned(), json!(["rebirth", "update", "roll", "decommission"]));
    (hardware, abilities)
}
