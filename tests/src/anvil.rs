//! A local EVM node, started and stopped.
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chain::Endpoint;
use chain::rpc::Rpc;
use livepeer::address::Address;
use livepeer::units::Wei;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

/// Chain id of development chains, unlike any real chain's.
pub const DEV_CHAIN_ID: u64 = 31_337;
/// How long the node may take to start listening.
const START: Duration = Duration::from_secs(20);
/// How often its log is looked at until then.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How much of its log is looked at: the address comes after the banner and the accounts.
const LOG_HEAD: usize = 64 * 1024;
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(20);

/// How a local EVM node is to run.
#[derive(Debug, Clone)]
pub struct AnvilOptions {
    /// Its chain id.
    pub chain_id: u64,
    /// The loopback port; 0 lets the system choose.
    pub port: u16,
    /// When blocks are made.
    pub mining: Mining,
    /// Where its log goes; nowhere that stays when not given.
    pub log: Option<PathBuf>,
}

/// When a local EVM node makes blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mining {
    /// One for every transaction, at once.
    OnTransaction,
    /// One every so many seconds.
    Every(u64),
    /// Only when asked.
    OnDemand,
}

impl Default for AnvilOptions {
    fn default() -> Self {
        Self { chain_id: DEV_CHAIN_ID, port: 0, mining: Mining::OnTransaction, log: None }
    }
}

/// A running local EVM node; killed when dropped.
#[derive(Debug)]
pub struct Anvil {
    child: Child,
    url: String,
    rpc: Rpc,
    chain_id: u64,
    mining: Mining,
    /// It writes every block's state to disk, gigabytes over time, and leaves it there: here, until it ends.
    _states: tempfile::TempDir,
}

/// The top of the working tree.
#[must_use]
pub fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_path_buf()
}

/// The EVM node's program: where `tests/contracts/install.sh` puts it, or on the `PATH`. `None` when it is neither.
#[must_use]
pub fn anvil_program() -> Option<PathBuf> {
    let installed = repository().join(".tools/node/bin/anvil");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(installed)
        .chain(std::env::split_paths(&path).map(|dir| dir.join("anvil")))
        .find(|program| program.is_file())
}

/// The address in the log, once it is there.
fn listening(log: &File) -> Result<Option<String>> {
    let mut head = vec![0; LOG_HEAD];
    let length = log.read_at(&mut head, 0)?;
    head.truncate(length);
    let text = String::from_utf8_lossy(&head);
    // Only whole lines: the last may still be written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    Ok(whole.lines().find_map(|line| line.strip_prefix("Listening on ")).map(|address| address.trim().to_owned()))
}

impl Anvil {
    /// Starts a node with default options.
    ///
    /// # Errors
    /// When the program is missing or does not start listening in time.
    pub async fn start() -> Result<Self> {
        Self::with(AnvilOptions::default()).await
    }

    /// Starts a node.
    ///
    /// # Errors
    /// When the program is missing or does not start listening in time.
    pub async fn with(options: AnvilOptions) -> Result<Self> {
        let program = anvil_program().context("anvil is not installed: run tests/contracts/install.sh")?;
        let log = match &options.log {
            Some(path) => File::options().read(true).write(true).create(true).truncate(true).open(path),
            None => tempfile::tempfile(),
        }
        .context("anvil's log")?;
        let states = tempfile::tempdir().context("a directory for anvil's states")?;
        let mut command = Command::new(program);
        command
            .arg("--cache-path")
            .arg(states.path())
            .args(["--host", "127.0.0.1", "--accounts", "1", "--hardfork", "cancun"])
            .args(["--port", &options.port.to_string()])
            .args(["--chain-id", &options.chain_id.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("anvil's log")?)
            .stderr(Stdio::null())
            .kill_on_drop(true);
        match options.mining {
            Mining::OnTransaction => {}
            Mining::Every(seconds) => {
                command.args(["--block-time", &seconds.to_string()]);
            }
            Mining::OnDemand => {
                command.arg("--no-mining");
            }
        }
        if let Some(group) = crate::cluster::group_apart() {
            command.process_group(group);
        }
        let mut child = command.spawn().context("anvil does not start")?;
        let address = tokio::time::timeout(START, async {
            loop {
                if let Some(address) = listening(&log)? {
                    return Ok(address);
                }
                if let Some(status) = child.try_wait()? {
                    bail!("anvil ended before it listened: {status}");
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        })
        .await
        .context("anvil did not listen in time")??;
        let url = format!("http://{address}");
        let endpoint: Endpoint = url.parse().context("anvil's address")?;
        let rpc = Rpc::any_chain(endpoint, REQUEST)?;
        Ok(Self { child, url, rpc, chain_id: options.chain_id, mining: options.mining, _states: states })
    }

    /// Where it answers.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it answers, as the chain crate takes it.
    ///
    /// # Panics
    /// Never: the address was parsed at the start.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.url.parse().expect("parsed at the start")
    }

    /// Its chain id.
    #[must_use]
    pub fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// When it makes blocks.
    #[must_use]
    pub fn mining(&self) -> Mining {
        self.mining
    }

    /// Its process id; `None` once it ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends it and waits until it is gone.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub async fn stop(mut self) -> Result<()> {
        self.child.kill().await.context("anvil does not end")
    }

    /// Lets it run on after this program; answers its process id.
    #[must_use]
    pub fn leave_running(self) -> Option<u32> {
        let pid = self.child.id();
        std::mem::forget(self);
        pid
    }

    /// Any call, answered.
    ///
    /// # Errors
    /// When the node refuses it.
    pub async fn request<R: DeserializeOwned>(&self, method: &'static str, params: Value) -> Result<R> {
        Ok(self.rpc.request(method, params).await?)
    }

    /// The plain connection.
    #[must_use]
    pub fn rpc(&self) -> &Rpc {
        &self.rpc
    }

    /// Makes so many empty blocks (waiting transactions go into the first).
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn mine(&self, blocks: u64) -> Result<()> {
        self.request::<Value>("anvil_mine", json!([format!("0x{blocks:x}")])).await.map(drop)
    }

    /// Its height.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn block_number(&self) -> Result<u64> {
        let number: ethers::types::U64 = self.request("eth_blockNumber", json!([])).await?;
        Ok(number.as_u64())
    }

    /// Gives an account exactly this balance.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn set_balance(&self, account: Address, balance: Wei) -> Result<()> {
        self.request::<Value>("anvil_setBalance", json!([account.0, balance.0])).await.map(drop)
    }

    /// Remembers the whole state, to come back to with [`Anvil::rewind`].
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn snapshot(&self) -> Result<Value> {
        self.request("evm_snapshot", json!([])).await
    }

    /// Back to a remembered state, which is spent by it.
    ///
    /// # Errors
    /// When the node does not know that state any more.
    pub async fn rewind(&self, snapshot: Value) -> Result<()> {
        let done: bool = self.request("evm_revert", json!([snapshot])).await?;
        if done { Ok(()) } else { bail!("the snapshot is gone") }
    }
}
