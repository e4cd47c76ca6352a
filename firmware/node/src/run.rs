//! The daemon's life: its long-lived tasks, each of which ends the process when it ends early, and the order
//! in which they stop.
//!
//! ```text
//! Starting ── a worker is ready ──► Serving ── signal, or a task ended ──► Draining ──► Stopped
//! ```
//! Draining: no newcomers → sessions end → accept no more → finish segments → end workers → end the redeemer →
//! close the ledger.
use std::collections::HashSet;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millrace_hal::LinuxClock;
use service::status::NodeStatus;
use service::{Heartbeats, Shutdown};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin};
use crate::build::{self, NodeError};
use crate::config::Config;
use crate::hardware::{self, Board, Throttle};
use crate::metrics::Origin;
use crate::speed::SpeedMemory;
use crate::starting;

/// The longest pulse of the tasks that have one; a redemption may wait this long for slow endpoints.
pub(crate) const PULSE: Duration = Duration::from_secs(20);
/// The longest pulse of the redeemer: a round of its work asks the chain several times.
const REDEEMER_PULSE: Duration = Duration::from_secs(300);
/// The longest pulse of the task that looks at the hardware: a driver may hang for as long as it is waited for.
const HARDWARE_PULSE: Duration = Duration::from_secs(60);
/// The longest pulse of the price feed's follower: it looks once a minute.
const FEED_PULSE: Duration = Duration::from_secs(150);
/// How long workers and redeemer get to end.
const END: Duration = Duration::from_secs(10);

/// The long-lived tasks, by name.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    pub(crate) set: JoinSet<(&'static str, Result<(), NodeError>)>,
    alive: HashSet<&'static str>,
}

/// How a task ended.
pub(crate) type Ended = Result<(&'static str, Result<(), NodeError>), tokio::task::JoinError>;

impl Tasks {
    pub(crate) fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), NodeError>> + Send + 'static,
    ) {
        self.alive.insert(name);
        self.set.spawn(async move { (name, task.await) });
    }

    /// The next task that ends. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Ended> {
        let ended = self.set.join_next().await;
        if let Some(Ok((name, _))) = &ended {
            self.alive.remove(name);
        }
        ended
    }
}

/// Runs the node until it is asked to stop or a task fails.
///
/// # Errors
/// [`NodeError`] saying what ended it.
pub(crate) async fn run(config: Config, state_dir: Option<PathBuf>) -> Result<(), NodeError> {
    let shutdown = Shutdown::on_signals().map_err(NodeError::Signals)?;
    // From the first moment on: a signal that nobody listens for ends the process.
    let mut switch = DrainSwitch::listen().map_err(NodeError::Signals)?;
    let state_dir = build::state_dir(state_dir, &config)?;
    let token_key = build::token_key(&state_dir)?;
    let (listener, service_uri) = build::listen(&config).await?;
    let admin_port = admin::bind(&config.admin).await?;
    let tls = build::tls(&config, &state_dir, &service_uri)?;
    let build::Workshop { pool, driver, parallel, cgroups } = build::pool(&config, &state_dir)?;
    let heartbeats = Arc::new(Heartbeats::default());
    let stop = Stop::default();
    let mut tasks = Tasks::default();
    let pool_stop = stop.workers.clone();
    tasks.spawn("workers", async move { Ok(driver.run(pool_stop).await?) });
    let on_chain = match &config.chain {
        Some(chain) => {
            let (opened, ledger) = watch::channel(false);
            let work = build::on_chain(&config, chain, &state_dir, &shutdown, &opened);
            let socket = build::status_socket(&config, &state_dir);
            Some(starting::meanwhile(socket, &pool, &mut tasks, ledger, work).await?)
        }
        None => None,
    };

    let (mut till, mut ledger, mut chain) = (None, None, None);
    if let Some(parts) = on_chain {
        let (broker, redeemer) = (parts.broker, parts.redeemer);
        let (recipient, hot, desk) = (parts.till.recipient(), parts.hot, redeemer.desk());
        chain = Some(admin::OnChain { broker: Arc::clone(&broker), recipient, hot, desk });
        let (asked, payment) = (Arc::clone(&broker), config.payment.clone());
        tasks.spawn("chain", async move { match broker.run().await? {} });
        if orchestrator::prices::need_feed(&payment) {
            let beat = heartbeats.register("price feed", FEED_PULSE);
            tasks.spawn("price feed", async move {
                let (feed, max_age) = (payment.price_feed, payment.price_feed_max_age());
                orchestrator::prices::follow(asked, feed, max_age, Arc::new(LinuxClock), parts.feed, beat).await;
                Ok(())
            });
        }
        let (beat, stopping) = (heartbeats.register("redeemer", REDEEMER_PULSE), stop.redeemer.clone());
        tasks.spawn("redeemer", async move { Ok(redeemer.run(beat, stopping).await?) });
        (till, ledger) = (Some(parts.till), Some(parts.ledger));
    }
    let remotes = build::remotes(&config, &service_uri)?;
    let (tell, board) = watch::channel(Board::default());
    let parts = build::Facing { service_uri: service_uri.clone(), token_key, board: board.clone() };
    let node = build::orchestrator(&config, parts, pool.clone(), Arc::clone(&remotes), till);
    let switched = Arc::clone(&node);
    tasks.spawn("drain switch", async move {
        loop {
            switched.drain(switch.next().await);
        }
    });
    let beat = heartbeats.register("tidy", PULSE);
    let tidied = Arc::clone(&node);
    tasks.spawn("tidy", async move {
        tidied.tidy(beat).await;
        Ok(())
    });
    let throttle = Throttle { pool: pool.clone(), parallel, cgroups };
    look_after(&mut tasks, &config, &state_dir, throttle, tell, &heartbeats, &stop.workers);
    let socket = build::status_socket(&config, &state_dir);
    let status = serve_status(&mut tasks, socket, &node, &pool, board, &heartbeats, &stop);
    if let Some(port) = admin_port {
        let orchestrator = chain.as_ref().map(|chain| chain.recipient.to_string());
        let (origin, measures) = (Origin::here("orch", orchestrator), node.meters().measures.clone());
        let admin = Admin { status, origin, measures, node: Some(Arc::clone(&node)), chain };
        answer_operators(&mut tasks, admin, port, &stop.workers);
    }
    let watched = Arc::clone(&heartbeats);
    tasks.spawn("watchdog", async move {
        watched.feed_watchdog().await;
        Ok(())
    });

    let ended = until_ready(&pool, &mut tasks, &shutdown).await;
    let ended = match ended {
        Ready::Yes => {
            let router = orchestrator::server::router(&node);
            let (most, drain, serving) = (config.serve.max_connections, config.serve.drain(), stop.serving.clone());
            tasks.spawn("server", async move {
                orchestrator::server::serve(router, listener, tls, most, drain, serving).await;
                Ok(())
            });
            if config.serve.availability_check {
                let (looking, beat) = (Arc::clone(&node), heartbeats.register("availability", PULSE));
                tasks.spawn("availability", async move {
                    orchestrator::availability::watch(looking, beat).await;
                    Ok(())
                });
            }
            stop.ready.cancel();
            service::notify_ready();
            let network = if config.chain.is_some() { "onchain" } else { "offchain" };
            tracing::info!(%service_uri, listen = %config.serve.listen, network, "serving gateways");
            tokio::select! {
                () = shutdown.requested() => wait_for_sessions(&config, &node, &mut tasks).await,
                ended = tasks.next() => Err(early(ended)),
            }
        }
        Ready::Stopped => Ok(()),
        Ready::Never(error) => Err(error),
    };

    service::notify_stopping();
    tracing::info!(segments_for_s = config.serve.drain_s, "draining");
    stop.serving.cancel();
    remotes.close();
    let drained = async {
        finish(&mut tasks, "server").await;
        node.finish().await;
    };
    if tokio::time::timeout(config.serve.drain(), drained).await.is_err() {
        tracing::warn!("segments were cut off at the end of the drain");
    }
    stop.workers.cancel();
    limited(&mut tasks, "workers").await;
    limited(&mut tasks, "speed").await;
    stop.redeemer.cancel();
    if let Some(ledger) = ledger {
        limited(&mut tasks, "redeemer").await;
        tasks.set.shutdown().await;
        tokio::task::spawn_blocking(move || ledger.close()).await??;
    }
    tracing::info!("stopped");
    ended
}

/// The first half of a drain: no newcomers, until the last session has ended or time is up.
async fn wait_for_sessions(config: &Config, node: &Arc<build::Node>, tasks: &mut Tasks) -> Result<(), NodeError> {
    node.drain(true);
    tokio::select! {
        waited = tokio::time::timeout(config.serve.drain_sessions(), node.drained()) => {
            if waited.is_err() {
                tracing::warn!(for_s = config.serve.drain_sessions_s, "sessions still ran at the end of their time");
            }
            Ok(())
        }
        ended = tasks.next() => Err(early(ended)),
    }
}

/// The switch by which a drain begins and ends without stopping: SIGUSR1 and SIGUSR2.
pub(crate) struct DrainSwitch {
    on: Signal,
    off: Signal,
}

impl DrainSwitch {
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self { on: signal(SignalKind::user_defined1())?, off: signal(SignalKind::user_defined2())? })
    }

    /// Waits until it is used; says which way. Cancel safe.
    pub(crate) async fn next(&mut self) -> bool {
        tokio::select! {
            _ = self.on.recv() => true,
            _ = self.off.recv() => false,
        }
    }
}

/// The tasks that look after the box whatever its role: its heat, and its speed for the next start.
pub(crate) fn look_after(
    tasks: &mut Tasks,
    config: &Config,
    state_dir: &Path,
    throttle: Throttle,
    tell: watch::Sender<Board>,
    heartbeats: &Arc<Heartbeats>,
    stop: &CancellationToken,
) {
    let (pool, parallel) = (throttle.pool.clone(), throttle.parallel);
    let beat = heartbeats.register("hardware", HARDWARE_PULSE);
    let thermal = config.thermal.clone();
    tasks.spawn("hardware", async move {
        hardware::watch(thermal, throttle, tell, beat).await;
        Ok(())
    });
    let memory = SpeedMemory::new(state_dir, &config.thermal.hardware_root, parallel, config.workers.preset, pool);
    let forgetting = stop.clone();
    tasks.spawn("speed", async move {
        memory.keep(forgetting).await;
        Ok(())
    });
}

/// Where in its life the node is, and what stops which part.
#[derive(Debug, Default, Clone)]
struct Stop {
    /// Cancelled once gateways are served.
    ready: CancellationToken,
    serving: CancellationToken,
    workers: CancellationToken,
    redeemer: CancellationToken,
}

/// What came of waiting for the first worker.
pub(crate) enum Ready {
    Yes,
    Stopped,
    Never(NodeError),
}

/// Waits for a worker to prove what it can do; before that nothing could be offered truthfully.
pub(crate) async fn until_ready(pool: &orchestrator::pool::Pool, tasks: &mut Tasks, shutdown: &Shutdown) -> Ready {
    tokio::select! {
        proved = pool.proved() => match proved {
            Ok(_) => Ready::Yes,
            Err(_) => Ready::Never(early(tasks.next().await)),
        },
        ended = tasks.next() => Ready::Never(early(ended)),
        () = shutdown.requested() => Ready::Stopped,
    }
}

fn serve_status(
    tasks: &mut Tasks,
    path: PathBuf,
    node: &Arc<build::Node>,
    pool: &orchestrator::pool::Pool,
    board: watch::Receiver<Board>,
    heartbeats: &Arc<Heartbeats>,
    stop: &Stop,
) -> watch::Receiver<NodeStatus> {
    let starting = NodeStatus { mode: "starting".to_owned(), ..NodeStatus::default() };
    let (publish, status) = watch::channel(starting);
    let (node, workers) = (Arc::clone(node), build::workers_status(pool));
    let (stop, beat) = (stop.clone(), heartbeats.register("status", PULSE));
    let drained = Arc::clone(&node);
    let mode = move || match (stop.serving.is_cancelled() || drained.is_draining(), stop.ready.is_cancelled()) {
        (true, _) => "drain",
        (false, true) => "run",
        (false, false) => "starting",
    };
    tasks.spawn("status", async move {
        let local = move |status: &mut NodeStatus| {
            workers(status);
            board.borrow().tell(status);
        };
        orchestrator::status::publish(node, local, mode, publish, beat).await;
        Ok(())
    });
    let seen = status.clone();
    tasks.spawn("status socket", async move {
        let served = service::status::serve_status(&path, status).await;
        match served.map_err(|source| NodeError::Status { path, source })? {}
    });
    seen
}

/// Answers operators until the workers end.
pub(crate) fn answer_operators(tasks: &mut Tasks, admin: Admin, port: TcpListener, stop: &CancellationToken) {
    let stop = stop.clone();
    tasks.spawn("admin", async move {
        admin::serve(admin, port, stop).await;
        Ok(())
    });
}

/// A long-lived task ended although nobody asked it to.
pub(crate) fn early(ended: Option<Ended>) -> NodeError {
    match ended {
        Some(Ok((_, Err(error)))) => error,
        Some(Ok((name, Ok(())))) => NodeError::TaskEnded(name),
        Some(Err(error)) => error.into(),
        None => NodeError::TaskEnded("all"),
    }
}

/// Waits for a task to end, if it still runs; others that end badly meanwhile are told of.
pub(crate) async fn finish(tasks: &mut Tasks, awaited: &'static str) {
    while tasks.alive.contains(awaited) {
        match tasks.next().await {
            Some(Ok((_, Ok(())))) => {}
            Some(Ok((name, Err(error)))) => tracing::warn!(task = name, reason = %error, "task ended badly"),
            Some(Err(error)) => tracing::error!(%error, "task broke"),
            None => return,
        }
    }
}

pub(crate) async fn limited(tasks: &mut Tasks, awaited: &'static str) {
    if tokio::time::timeout(END, finish(tasks, awaited)).await.is_err() {
        tracing::warn!(task = awaited, "task did not end in time");
    }
}
