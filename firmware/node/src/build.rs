//! Putting the parts together: directories, secrets, workers, chain, port.
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chain::{ARBITRUM_ONE, ChainConfig, ChainError, EthBroker};
use ledger::{Ledger, LedgerError, OpenOptions};
use livepeer::address::Address;
use livepeer::credentials::TokenKey;
use livepeer::recipient_rand::RecipientSecret;
use livepeer::units::Timestamp;
use millrace_hal::{Clock, Identity, LinuxClock, LinuxEncoders, LinuxSensors, Sensors};
use orchestrator::config::ServiceUri;
use orchestrator::engines::Engines;
use orchestrator::payment::TillParts;
use orchestrator::pool::{Driver, Parallel, Pool, PoolConfig, PoolError, WarmUp};
use orchestrator::prices::FeedReport;
use orchestrator::redeemer::RedeemerError;
use orchestrator::remote::{Remotes, Workforce};
use orchestrator::tls::TlsError;
use orchestrator::{Orchestrator, Parts, Redeemer, Signer as _, Till};
use sandbox::jail::{JailPlan, ProcessLimits};
use sandbox::launch::{CgroupRoot, LaunchPlan};
use sandbox::memfd::MemfdError;
use service::status::{NodeStatus, Workers as WorkersStatus};
use service::{CredentialError, ExitReason, Shutdown};
use signer_protocol::{SignerClient, SignerError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::{Config, Workers};
use crate::hardware::Board;

/// How long signer and chain may take to answer at start.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often they are asked meanwhile.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The node with its parts' real bodies.
pub(crate) type Node = Orchestrator<Workforce<Pool>, EthBroker, SignerClient>;

/// What ends the node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    #[error("{path} cannot be used")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("gateways cannot reach {0}: set serve.service_uri to the public address that is registered on chain")]
    Unroutable(ServiceUri),
    #[error("signals cannot be listened for")]
    Signals(#[source] std::io::Error),
    #[error("cannot listen on {address}")]
    Listen {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("status cannot be served on {path}")]
    Status {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Secret(#[from] CredentialError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("millrace-worker is neither beside this program nor in PATH: set workers.program")]
    NoWorker,
    #[error("there is no worker program at {0}")]
    WorkerMissing(PathBuf),
    #[error("no memory for the workers' warm-up")]
    Memory(#[source] MemfdError),
    #[error("workers")]
    Pool(#[from] PoolError),
    #[error("chain")]
    Chain(#[from] ChainError),
    #[error("the chain could not be read within {PATIENCE:?}")]
    ChainLate(#[source] ChainError),
    #[error("transcoder")]
    Trust(#[from] transcoder::TrustError),
    #[error("no secret for {0}: set transcoder.secret_file, or give the systemd credential orch-secret")]
    NoSecret(String),
    #[error("signer")]
    Signer(#[from] SignerError),
    #[error("signer signs for chain {signer:?}, the configuration names {configured}")]
    SignerChain { signer: Option<u64>, configured: u64 },
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Redeemer(#[from] RedeemerError),
    #[error("task {0} ended early")]
    TaskEnded(&'static str),
    #[error("a task broke")]
    TaskBroke(#[from] tokio::task::JoinError),
    #[error("stopped before the node was ready")]
    StoppedEarly,
}

impl NodeError {
    /// Why the process ends, for systemd.
    pub(crate) fn reason(&self) -> ExitReason {
        match self {
            Self::Io { source, .. } | Self::Listen { source, .. } | Self::Status { source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                ExitReason::Permission
            }
            Self::Secret(CredentialError::Exposed { .. }) => ExitReason::Permission,
            Self::Chain(error) if error.needs_operator() => ExitReason::Config,
            Self::SignerChain { .. } | Self::Trust(_) | Self::NoSecret(_) | Self::Unroutable(_) => ExitReason::Config,
            Self::Listen { .. }
            | Self::NoWorker
            | Self::WorkerMissing(_)
            | Self::Pool(_)
            | Self::Chain(_)
            | Self::ChainLate(_)
            | Self::Signer(_)
            | Self::Ledger(LedgerError::AlreadyRunning { .. }) => ExitReason::Unavailable,
            Self::StoppedEarly => ExitReason::Stopped,
            _ => ExitReason::Software,
        }
    }
}

/// The state directory, made when it does not exist, for our eyes only.
pub(crate) fn state_dir(given: Option<PathBuf>, config: &Config) -> Result<PathBuf, NodeError> {
    use std::os::unix::fs::DirBuilderExt;
    let from_systemd = std::env::var("STATE_DIRECTORY").ok().and_then(|list| list.split(':').next().map(PathBuf::from));
    let dir =
        given.or_else(|| config.state_dir.clone()).or(from_systemd).unwrap_or_else(|| PathBuf::from("millrace-state"));
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    made.map_err(|source| NodeError::Io { path: dir.clone(), source })?;
    dir.canonicalize().map_err(|source| NodeError::Io { path: dir, source })
}

/// Where the status is told.
pub(crate) fn status_socket(config: &Config, state_dir: &Path) -> PathBuf {
    let from_systemd =
        std::env::var("RUNTIME_DIRECTORY").ok().and_then(|list| list.split(':').next().map(PathBuf::from));
    let system = PathBuf::from("/run/millrace");
    let writable = |dir: &PathBuf| std::fs::create_dir_all(dir).is_ok() && !is_read_only(dir);
    let dir = from_systemd.or_else(|| Some(system).filter(writable)).unwrap_or_else(|| state_dir.to_owned());
    config.status_socket.clone().unwrap_or_else(|| dir.join("node.sock"))
}

fn is_read_only(dir: &Path) -> bool {
    let probe = dir.join(".millrace-node");
    let written = std::fs::write(&probe, b"");
    written.is_err() || std::fs::remove_file(&probe).is_err()
}

/// The key of our tokens; kept, so that a restart ends no session.
pub(crate) fn token_key(state_dir: &Path) -> Result<TokenKey, NodeError> {
    Ok(TokenKey::new(secret(state_dir, "token-key")?))
}

fn secret(state_dir: &Path, name: &str) -> Result<[u8; 32], NodeError> {
    let secret = service::secret_file(state_dir, name, 32)?;
    Ok(secret.expose().try_into().expect("secret_file gives as many bytes as asked for"))
}

/// The pool of jailed workers; nothing starts before its driver runs.
pub(crate) fn pool(config: &Config, state_dir: &Path) -> Result<Workshop, NodeError> {
    let workers = &config.workers;
    let registry = state_dir.join("gstreamer-registry.bin");
    let limits = ProcessLimits { memory: workers.memory_mib << 20, ..ProcessLimits::default() };
    let launch = LaunchPlan::software(worker_program(workers)?, JailPlan::software(limits), Some(registry.clone()))
        .with_preset(workers.preset)
        .with_delegated_cgroup();
    let threads = workers.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from));
    let threads = threads.unwrap_or(1);
    let cgroups = launch.cgroups.clone();
    let engines = Engines::new(orchestrator::engines::Parts {
        order: workers.engines.clone(),
        hardware: Box::new(LinuxEncoders::new(&config.thermal.hardware_root)),
        clock: Arc::new(LinuxClock),
        state_dir: Some(state_dir.to_owned()),
        launch: launch.clone(),
    });
    let mut plan = PoolConfig::new(launch, sessions_by_memory(), threads);
    plan.registry = Some(registry);
    plan.engines = Some(Arc::new(engines));
    plan.idle = workers.idle;
    plan.headroom_percent = config.serve.headroom_percent;
    plan.parallel.slots = workers.slots.unwrap_or(plan.parallel.slots);
    plan.warm_up = Some(Arc::new(WarmUp::new(threads).map_err(NodeError::Memory)?));
    let parallel = plan.parallel;
    let (pool, driver) = Pool::new(plan);
    Ok(Workshop { pool, driver, parallel, cgroups })
}

/// The pool, and what its width is changed by.
pub(crate) struct Workshop {
    pub(crate) pool: Pool,
    pub(crate) driver: Driver,
    /// How much runs at a time while nothing holds it down.
    pub(crate) parallel: Parallel,
    /// The control group of the workers, where there is one.
    pub(crate) cgroups: Option<CgroupRoot>,
}

/// A worker's memory when it makes four renditions of 1080p, with room.
const USUAL_WORKER: u64 = 512 << 20;

/// Sessions whose workers fit three quarters of the memory.
fn sessions_by_memory() -> usize {
    let memory = LinuxSensors::new("/", Vec::new()).read().memory.map_or(0, |memory| memory.total.0);
    usize::try_from(memory / 4 * 3 / USUAL_WORKER).unwrap_or(usize::MAX).clamp(1, 1000)
}

fn worker_program(workers: &Workers) -> Result<PathBuf, NodeError> {
    let named = workers.program.clone().or_else(|| std::env::var_os("MILLRACE_WORKER").map(PathBuf::from));
    if let Some(program) = named {
        return if program.is_file() { Ok(program) } else { Err(NodeError::WorkerMissing(program)) };
    }
    let beside = std::env::current_exe().ok().and_then(|me| me.parent().map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = beside.into_iter().chain(std::env::split_paths(&path)).map(|dir| dir.join("millrace-worker"));
    places.find(|program| program.is_file()).ok_or(NodeError::NoWorker)
}

/// Tells the status of the workers, and how many segments were tried again.
pub(crate) fn workers_status(pool: &Pool) -> impl Fn(&mut NodeStatus) + Send + use<> {
    let (status, engines) = (pool.status(), pool.engines());
    let proved_at = std::sync::Mutex::new(None::<Instant>);
    move |told| {
        let status = status.borrow();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let mut proved_at = proved_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if status.proved.is_some() {
            proved_at.get_or_insert_with(Instant::now);
        }
        let proved = status.proved.clone();
        told.segments.retried = status.lost;
        told.workers = WorkersStatus {
            alive: count(status.ready + status.busy),
            busy: count(status.busy),
            lost: status.lost,
            recycled: status.recycled,
            waiting: count(status.waiting),
            dropped: status.dropped,
            turned_away: status.turned_away,
            engine: proved.as_ref().map(|ready| ready.engine.clone()).unwrap_or_default(),
            engines: engines.as_ref().map(|engines| engines.status()).unwrap_or_default(),
            probe_age_s: proved_at.map(|since| since.elapsed().as_secs()),
            jail_layers: proved.as_ref().map(|ready| ready.layers.clone()).unwrap_or_default(),
            jail_missing: proved.as_ref().map(|ready| ready.missing_layers.clone()).unwrap_or_default(),
            unfit: status.last_loss.clone().filter(|_| proved.is_none()),
        };
    }
}

/// The chain's side of the node.
pub(crate) struct OnChain {
    pub(crate) broker: Arc<EthBroker>,
    pub(crate) ledger: Ledger,
    pub(crate) till: Till<EthBroker, SignerClient>,
    pub(crate) redeemer: Redeemer<EthBroker, SignerClient>,
    /// The account that pays for gas.
    pub(crate) hot: Address,
    /// Where what the price feed tells goes.
    pub(crate) feed: watch::Sender<FeedReport>,
}

/// Signer, chain and ledger, each checked against the others.
pub(crate) async fn on_chain(
    config: &Config,
    chain: &ChainConfig,
    state_dir: &Path,
    shutdown: &Shutdown,
    opened: &watch::Sender<bool>,
) -> Result<OnChain, NodeError> {
    let signer = Arc::new(signer(config, shutdown).await?);
    if signer.chain_id() != Some(chain.chain_id) {
        return Err(NodeError::SignerChain { signer: signer.chain_id(), configured: chain.chain_id });
    }
    let (recipient, hot) = (chain.recipient, signer.account());
    let broker = Arc::new(EthBroker::new(chain.clone(), Box::new(|| Timestamp(LinuxClock.unix_seconds())))?);
    // Before the chain is asked: whether the ledger is sound must not depend on the network.
    let dir = state_dir.join("ledger");
    let ledger = tokio::task::spawn_blocking(move || Ledger::open(&dir, OpenOptions::default())).await??;
    opened.send_replace(true);
    if let Err(error) = first_look(&broker, shutdown).await {
        tokio::task::spawn_blocking(move || ledger.close()).await??;
        return Err(error);
    }
    let secret = RecipientSecret::new(secret(state_dir, "recipient-secret")?, ledger.generation());
    let (redeemer, reported) = Redeemer::new(
        Arc::clone(&broker),
        Arc::clone(&signer),
        ledger.clone(),
        Arc::new(LinuxClock),
        config.redeem.clone(),
    );
    let (told, feed) = watch::channel(FeedReport::default());
    let till = Till::new(TillParts {
        broker: Arc::clone(&broker),
        signer,
        ledger: ledger.clone(),
        secret,
        recipient,
        config: config.payment.clone(),
        feed,
        redeemer: reported,
    });
    Ok(OnChain { broker, ledger, till, redeemer, hot, feed: told })
}

/// Waits for the signer: it starts beside us, and may take a password first.
async fn signer(config: &Config, shutdown: &Shutdown) -> Result<SignerClient, NodeError> {
    let began = Instant::now();
    loop {
        let socket = config.signer_socket.clone();
        match tokio::task::spawn_blocking(move || SignerClient::connect(&socket)).await? {
            Ok(client) => return Ok(client),
            Err(error) if began.elapsed() < PATIENCE && error.is_retryable() => {
                tracing::info!(reason = %error, "waiting for the signer");
                pause(shutdown).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for a first sight of the chain; a chain that is not ours, or has no contracts, ends the wait at once.
async fn first_look(broker: &EthBroker, shutdown: &Shutdown) -> Result<(), NodeError> {
    let began = Instant::now();
    loop {
        match broker.look().await {
            Ok(head) => {
                tracing::info!(l1_block = head.l1_block.0, round = head.round.0, "chain seen");
                return Ok(());
            }
            Err(error) if error.needs_operator() => return Err(error.into()),
            Err(error) if began.elapsed() >= PATIENCE => return Err(NodeError::ChainLate(error)),
            Err(error) => {
                tracing::warn!(reason = %error, "waiting for the chain");
                pause(shutdown).await?;
            }
        }
    }
}

async fn pause(shutdown: &Shutdown) -> Result<(), NodeError> {
    tokio::select! {
        () = tokio::time::sleep(ASK_AGAIN) => Ok(()),
        () = shutdown.requested() => Err(NodeError::StoppedEarly),
    }
}

/// The port, bound but not served yet, and where gateways reach it.
pub(crate) async fn listen(config: &Config) -> Result<(TcpListener, ServiceUri), NodeError> {
    let listen = config.serve.listen;
    let fault = |source| NodeError::Listen { address: listen.to_string(), source };
    let listener = TcpListener::bind(listen.address).await.map_err(fault)?;
    let bound = listener.local_addr().map_err(fault)?;
    let uri = config.serve.service_uri.clone().unwrap_or_else(|| ServiceUri::of_listener(listen.tls, bound));
    if config.chain.as_ref().is_some_and(|chain| chain.chain_id == ARBITRUM_ONE) && !uri.is_routable() {
        return Err(NodeError::Unroutable(uri));
    }
    Ok((listener, uri))
}

/// The TLS side of the port, when it has one.
pub(crate) fn tls(
    config: &Config,
    state_dir: &Path,
    uri: &ServiceUri,
) -> Result<Option<Arc<orchestrator::tls::TlsConfig>>, NodeError> {
    if !config.serve.listen.tls {
        return Ok(None);
    }
    let (certificate, key) = match (&config.serve.tls_certificate, &config.serve.tls_key) {
        (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
        _ => orchestrator::tls::self_signed(state_dir, &uri.host())?,
    };
    Ok(Some(orchestrator::tls::server_config(&certificate, &key)?))
}

/// What the workers proved, whenever it is asked.
pub(crate) fn proved_by(pool: &Pool) -> impl Fn() -> Vec<String> + Send + Sync + use<> {
    let status = pool.status();
    move || status.borrow().proved.as_ref().map(|ready| ready.proved.clone()).unwrap_or_default()
}

/// The boxes that may attach to us.
pub(crate) fn remotes(config: &Config, uri: &ServiceUri) -> Result<Arc<Remotes>, NodeError> {
    let secret = service::given_secret("orch-secret", config.remote.secret_file.as_deref())?;
    if secret.is_some() && !config.serve.listen.tls {
        tracing::warn!("transcoders attach over TLS only: behind this port something must speak it for us");
    }
    Ok(Remotes::new(&config.remote, secret.as_ref(), uri))
}

/// What gateways see of the node.
pub(crate) struct Facing {
    pub(crate) service_uri: ServiceUri,
    pub(crate) token_key: TokenKey,
    pub(crate) board: watch::Receiver<Board>,
}

/// The orchestrator itself.
pub(crate) fn orchestrator(
    config: &Config,
    facing: Facing,
    pool: Pool,
    remotes: Arc<Remotes>,
    till: Option<Till<EthBroker, SignerClient>>,
) -> Arc<Node> {
    let Facing { service_uri, token_key, board } = facing;
    let model = Identity::read(&config.thermal.hardware_root).model.unwrap_or_default();
    let (proved, can) = (proved_by(&pool), proved_by(&pool));
    let can = move || orchestrator::node::offered_by(&can());
    Orchestrator::new(Parts {
        config: config.serve.clone(),
        service_uri,
        token_key,
        transcoder: Arc::new(Workforce::new(pool, can, Arc::clone(&remotes))),
        proved: Box::new(proved),
        till,
        remotes,
        hardware: Box::new(move || board.borrow().offered(&model)),
        clock: Arc::new(LinuxClock),
    })
}
