//! The node as a transcoder of orchestrators elsewhere: it dials out, and nothing dials in.
//!
//! Walk 5. No port, no chain, no key: a pool of workers, the links to the orchestrators, and the same status as ever.
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use orchestrator::pool::{Capacity, Pool, TranscodeError, TranscodeRequest, Transcoded, Transcoder};
use orchestrator::status::Meters;
use service::status::{Alarm, NodeStatus, OrchestratorLink};
use service::{Heartbeats, Secret, Shutdown};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use transcoder::Outbound;

use crate::admin::{self, Admin};
use crate::build::{self, NodeError};
use crate::config::Config;
use crate::hardware::{Board, Throttle};
use crate::metrics::Origin;
use crate::run::{DrainSwitch, PULSE, Ready, Tasks, answer_operators, early, finish, limited, look_after, until_ready};

/// How often the status is put together.
const REFRESH: Duration = Duration::from_secs(1);

/// Transcodes for others until it is asked to stop or a task fails.
///
/// # Errors
/// [`NodeError`] saying what ended it.
pub(crate) async fn run(
    config: Config,
    transcoder: transcoder::Config,
    state_dir: Option<PathBuf>,
) -> Result<(), NodeError> {
    let shutdown = Shutdown::on_signals().map_err(NodeError::Signals)?;
    let state_dir = build::state_dir(state_dir, &config)?;
    let secrets = secrets(&transcoder)?;
    let admin_port = admin::bind(&config.admin).await?;
    let build::Workshop { pool, driver, parallel, cgroups } = build::pool(&config, &state_dir)?;

    let heartbeats = Arc::new(Heartbeats::default());
    let (serving, workers) = (CancellationToken::new(), CancellationToken::new());
    let mut tasks = Tasks::default();
    let mut switch = DrainSwitch::listen().map_err(NodeError::Signals)?;
    tasks.spawn("drain switch", async move {
        loop {
            let drain = switch.next().await;
            tracing::warn!(drain, "a transcoder takes what its orchestrators send until it stops: nothing is changed");
        }
    });
    let pool_stop = workers.clone();
    tasks.spawn("workers", async move { Ok(driver.run(pool_stop).await?) });
    let throttle = Throttle { pool: pool.clone(), parallel, cgroups };
    let (tell, board) = watch::channel(Board::default());
    look_after(&mut tasks, &config, &state_dir, throttle, tell, &heartbeats, &workers);
    let most = config.serve.max_sessions.at_most(pool.capacity().total);
    let outbound = Outbound::new(&transcoder, transcoder.capacity.unwrap_or(most).min(most));
    let meters = Arc::new(Meters::default());
    let ready = CancellationToken::new();
    let view = View {
        outbound: outbound.clone(),
        meters: Arc::clone(&meters),
        pool: pool.clone(),
        board,
        ready: ready.clone(),
        serving: serving.clone(),
    };
    let status = serve_status(&mut tasks, &config, &state_dir, view, &heartbeats);
    if let Some(port) = admin_port {
        let (origin, measures) = (Origin::here("trcr", None), meters.measures.clone());
        let admin = Admin { status, origin, measures, node: None, chain: None };
        answer_operators(&mut tasks, admin, port, &workers);
    }
    let watched = Arc::clone(&heartbeats);
    tasks.spawn("watchdog", async move {
        watched.feed_watchdog().await;
        Ok(())
    });

    let drain = Duration::from_secs(transcoder.drain_s);
    let ended = match until_ready(&pool, &mut tasks, &shutdown).await {
        Ready::Yes => {
            let proved = build::proved_by(&pool);
            let can = Arc::new(move || orchestrator::node::offered_by(&proved()));
            let (counted, stop) = (Arc::new(Counted { pool, meters }), serving.clone());
            tasks.spawn(
                "orchestrators",
                async move { Ok(outbound.run(&transcoder, secrets, counted, can, stop).await?) },
            );
            ready.cancel();
            service::notify_ready();
            tracing::info!("transcoding for orchestrators elsewhere");
            tokio::select! {
                () = shutdown.requested() => Ok(()),
                ended = tasks.next() => Err(early(ended)),
            }
        }
        Ready::Stopped => Ok(()),
        Ready::Never(error) => Err(error),
    };

    service::notify_stopping();
    tracing::info!(segments_for_s = drain.as_secs(), "draining");
    serving.cancel();
    // It keeps to the drain by itself.
    finish(&mut tasks, "orchestrators").await;
    workers.cancel();
    limited(&mut tasks, "workers").await;
    limited(&mut tasks, "speed").await;
    tracing::info!("stopped");
    ended
}

/// The secret for each orchestrator.
fn secrets(config: &transcoder::Config) -> Result<Vec<Secret>, NodeError> {
    let secret = |target: &transcoder::config::Target| {
        let given = match &target.secret_file {
            // Its own file is meant for it alone; the credential is for all that name none.
            Some(file) => service::given_secret("", Some(file))?,
            None => service::given_secret("orch-secret", config.secret_file.as_deref())?,
        };
        given.ok_or_else(|| NodeError::NoSecret(target.address.to_string()))
    };
    config.orchestrators.iter().map(secret).collect()
}

/// The pool, with its work counted for the status.
#[derive(Debug)]
struct Counted {
    pool: Pool,
    meters: Arc<Meters>,
}

impl Transcoder for Counted {
    async fn transcode(&self, session: &str, request: TranscodeRequest) -> Result<Transcoded, TranscodeError> {
        let content = request.origin.duration;
        self.meters.received(request.segment.len(), content);
        let done = self.pool.transcode(session, request).await;
        match &done {
            Ok(done) => {
                let bytes_out = done.renditions.iter().map(|output| output.rendition.bytes).sum();
                self.meters.transcoded(content, done.took, done.took, done.encoded_pixels(), bytes_out);
            }
            Err(error) => self.meters.failed(error.kind()),
        }
        done
    }

    fn end_session(&self, session: &str) {
        self.pool.end_session(session);
    }

    fn capacity(&self) -> Capacity {
        self.pool.capacity()
    }
}

/// What the status is made of.
struct View {
    outbound: Outbound,
    meters: Arc<Meters>,
    pool: Pool,
    board: watch::Receiver<Board>,
    ready: CancellationToken,
    serving: CancellationToken,
}

fn serve_status(
    tasks: &mut Tasks,
    config: &Config,
    state_dir: &std::path::Path,
    view: View,
    heartbeats: &Arc<Heartbeats>,
) -> watch::Receiver<NodeStatus> {
    let (publish, status) = watch::channel(NodeStatus { mode: "starting".to_owned(), ..NodeStatus::default() });
    let beat = heartbeats.register("status", PULSE);
    tasks.spawn("status", async move {
        let (started, workers) = (Instant::now(), build::workers_status(&view.pool));
        let mut tick = tokio::time::interval(REFRESH);
        loop {
            tick.tick().await;
            publish.send_replace(view.snapshot(&workers, started.elapsed()));
            beat.beat();
        }
    });
    let (path, seen) = (build::status_socket(config, state_dir), status.clone());
    tasks.spawn("status socket", async move {
        let served = service::status::serve_status(&path, status).await;
        match served.map_err(|source| NodeError::Status { path, source })? {}
    });
    seen
}

impl View {
    fn snapshot(&self, workers: &impl Fn(&mut NodeStatus), uptime: Duration) -> NodeStatus {
        let mut status = NodeStatus::default();
        workers(&mut status);
        self.board.borrow().tell(&mut status);
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let (active, capacity) = self.outbound.sessions();
        status.version = service::system_version(env!("CARGO_PKG_VERSION"));
        let mode = match (self.serving.is_cancelled(), self.ready.is_cancelled()) {
            (true, _) => "drain",
            (false, true) => "run",
            (false, false) => "starting",
        };
        mode.clone_into(&mut status.mode);
        status.uptime_s = uptime.as_secs();
        "transcoder".clone_into(&mut status.network);
        "none".clone_into(&mut status.ledger);
        (status.sessions.active, status.sessions.capacity) = (count(active), count(capacity));
        let retried = status.segments.retried;
        status.segments = service::status::Segments { retried, ..self.meters.segments() };
        status.capacity = self.pool.load().map(|load| load.figures().told()).unwrap_or_default();
        status.orchestrators = self.outbound.status();
        status.alarms.extend(orchestrator::status::worker_alarms(&status.workers));
        if self.ready.is_cancelled() && !self.serving.is_cancelled() {
            status.alarms.extend(status.orchestrators.iter().filter_map(refusal));
            let attached = status.orchestrators.iter().any(|link| link.state == "attached");
            status.alarms.extend((!attached).then(|| unattached(&status.orchestrators)));
        }
        status.alarms.sort();
        status
    }
}

/// An orchestrator does not want us: a person must act.
fn refusal(link: &OrchestratorLink) -> Option<Alarm> {
    (link.state == "refused").then(|| Alarm {
        id: "ORCH-REFUSED".to_owned(),
        severity: "err".to_owned(),
        instance: link.address.clone(),
        text: format!(
            "orchestrator does not take this box: {}. Compare the secret on both sides.",
            link.error.clone().unwrap_or_default()
        ),
    })
}

/// Nobody has us: the box earns nothing.
fn unattached(links: &[OrchestratorLink]) -> Alarm {
    let reasons: Vec<_> =
        links.iter().filter_map(|link| link.error.as_ref().map(|error| format!("{}: {error}", link.address))).collect();
    Alarm {
        id: "ORCH-NONE".to_owned(),
        severity: "crit".to_owned(),
        instance: String::new(),
        text: format!("no orchestrator has this box ({})", reasons.join("; ")),
    }
}
