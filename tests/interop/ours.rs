//! Our node off-chain, started and asked.
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use millrace_tests::cluster::{Program, free_port};
use service::status::{NodeStatus, read_status};

/// How long our node may take until its workers have proved themselves.
const START: Duration = Duration::from_secs(90);

/// A running node of ours.
#[derive(Debug)]
pub(crate) struct Ours {
    pub program: Program,
    pub uri: String,
    socket: PathBuf,
}

/// Where a node listens, and what it calls itself to gateways: not the same when a tap stands before it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub listen: String,
    pub uri: String,
}

impl Place {
    pub(crate) fn free() -> Result<Self> {
        let listen = format!("127.0.0.1:{}", free_port()?);
        Ok(Self { uri: format!("https://{listen}"), listen })
    }
}

impl Ours {
    /// Off-chain, with more configuration.
    pub(crate) async fn offchain(dir: &Path, name: &str, place: &Place, more: &str) -> Result<Self> {
        let toml = format!(
            "[serve]\nservice_uri = \"{}\"\nlisten = \"{}\"\nmax_sessions = 20\n{more}",
            place.uri, place.listen
        );
        Self::start(dir, name, place, &toml).await
    }

    /// With this configuration after the usual paths.
    pub(crate) async fn start(dir: &Path, name: &str, place: &Place, toml: &str) -> Result<Self> {
        let state = dir.join(name);
        std::fs::create_dir_all(&state)?;
        let socket = dir.join(format!("{name}.sock"));
        let signer = dir.join("signer.sock");
        let head = format!("state_dir = {state:?}\nstatus_socket = {socket:?}\nsigner_socket = {signer:?}\n");
        let config = dir.join(format!("{name}.toml"));
        std::fs::write(&config, head + toml)?;
        let config = config.to_str().context("paths are plain text")?;
        let logs = dir.join(format!("{name}-logs"));
        let mut program = Program::start("millrace-node", &["--config", config], &logs)?;
        let ready = async || {
            let status = read_status(&socket).await.ok()?;
            let chain = status.chain.as_ref().is_none_or(|chain| chain.active);
            (status.mode == "run" && status.workers.alive > 0 && chain).then_some(())
        };
        program.wait_until(START, ready).await?;
        Ok(Self { program, uri: place.uri.clone(), socket })
    }

    pub(crate) async fn status(&self) -> Result<NodeStatus> {
        Ok(read_status(&self.socket).await?)
    }

    /// Waits until the node says so.
    pub(crate) async fn until(&mut self, patience: Duration, what: impl Fn(&NodeStatus) -> bool) -> Result<NodeStatus> {
        let socket = self.socket.clone();
        self.program.wait_until(patience, async || read_status(&socket).await.ok().filter(|status| what(status))).await
    }
}
