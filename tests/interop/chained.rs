//! A development chain with our contracts: staked orchestrators, funded stock gateways, our node and its signer.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use livepeer::address::Address;
use livepeer::units::Wei;
use millrace_tests::anvil::{Anvil, AnvilOptions, Mining};
use millrace_tests::bins::bin;
use millrace_tests::cluster::Program;
use millrace_tests::devchain::{DevChain, Params};
use serde_json::json;

use crate::ours::{Ours, Place};
use crate::stock::StockChain;

/// Rounds longer than the 40 blocks an offer lives, so that one round holds the whole test.
const ROUND_LENGTH: u64 = 5_000;
/// A quiet chain: gas at a thousandth of a gwei.
const GAS_PRICE_WEI: u64 = 1_000_000;
/// A little under the most a stock gateway accepts.
pub(crate) const TICKET_EV_WEI: u64 = 2_500_000_000_000;
/// A winner pays four times that, so about every fourth ticket wins.
const FACE_VALUE_WEI: u64 = 4 * TICKET_EV_WEI;
/// Some tickets with every segment.
const PRICE_WEI_PER_PIXEL: u64 = 300_000;
const START: Duration = Duration::from_secs(60);

/// A keystore with a new key, as stock nodes and our signer read it.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub address: Address,
    pub keystore: PathBuf,
    pub password: PathBuf,
}

impl Account {
    /// Where a stock node is to look for it: it takes no file, whatever its help says.
    fn directory(&self) -> PathBuf {
        self.keystore.parent().map_or_else(PathBuf::new, Path::to_owned)
    }

    pub(crate) fn make(dir: &Path, name: &str) -> Result<Self> {
        let home = dir.join(format!("{name}-keystore"));
        std::fs::create_dir_all(&home)?;
        // The name that go-ethereum's tools give their files; a stock node looks for nothing else.
        let keystore = home.join(format!("UTC--2026-01-01T00-00-00.000000000Z--{name}"));
        let password = dir.join(format!("{name}.password"));
        let made = Command::new(bin("millrace-signer"))
            .args(["init", "--light", "--keystore"])
            .arg(&keystore)
            .arg("--password-file")
            .arg(&password)
            .output()?;
        ensure!(made.status.success(), "millrace-signer init: {}", String::from_utf8_lossy(&made.stderr));
        Ok(Self { address: String::from_utf8(made.stdout)?.trim().parse()?, keystore, password })
    }
}

/// The chain, and who is on it.
pub(crate) struct Chained<'a> {
    pub chain: DevChain<'a>,
    pub anvil: &'a Anvil,
    pub gateway: Account,
    dir: PathBuf,
}

/// Our node on the chain with its signer.
pub(crate) struct OnChain {
    pub node: Ours,
    pub recipient: Address,
    pub signer: Program,
}

pub(crate) async fn anvil(dir: &Path) -> Result<Anvil> {
    let log = Some(dir.join("anvil.log"));
    Anvil::with(AnvilOptions { mining: Mining::OnTransaction, log, ..AnvilOptions::default() }).await
}

pub(crate) fn ether(tenths: u64) -> Wei {
    Wei((u128::from(tenths) * 10u128.pow(17)).into())
}

impl<'a> Chained<'a> {
    /// Deploys, and funds one gateway.
    pub(crate) async fn deploy(anvil: &'a Anvil, dir: &Path) -> Result<Self> {
        let params = Params { round_length: ROUND_LENGTH, ..Params::default() };
        let chain = DevChain::deploy(anvil, &params).await?;
        let gateway = Account::make(dir, "gateway")?;
        chain.fund_sender(gateway.address, ether(10), ether(10)).await?;
        Ok(Self { chain, anvil, gateway, dir: dir.to_owned() })
    }

    /// From now on a block a second at a low price, whatever happens.
    pub(crate) async fn tick(&self) -> Result<()> {
        let fee = format!("0x{GAS_PRICE_WEI:x}");
        self.anvil.request::<serde_json::Value>("anvil_setNextBlockBaseFeePerGas", json!([fee])).await?;
        self.anvil.request::<serde_json::Value>("evm_setIntervalMining", json!([1])).await?;
        Ok(())
    }

    /// What a stock node with this account needs.
    pub(crate) fn stock(&self, account: &Account) -> StockChain {
        StockChain {
            rpc: self.anvil.url().to_owned(),
            controller: self.chain.address("Controller").to_string(),
            keystore: account.directory(),
            password: account.password.clone(),
        }
    }

    /// Stakes for a new orchestrator of ours and starts its signer and its node.
    pub(crate) async fn ours(&self, place: &Place) -> Result<OnChain> {
        let recipient = livepeer::signature::SigningKey::generate(&mut rand::rngs::OsRng).address();
        self.chain.activate_orchestrator(recipient, ether(10)).await?;
        self.chain.set_service_uri(recipient, &place.uri).await?;
        let hot = Account::make(&self.dir, "hot")?;
        self.anvil.set_balance(hot.address, ether(10)).await?;
        self.tick().await?;

        let (state, socket) = (self.dir.join("signer"), self.dir.join("signer.sock"));
        std::fs::create_dir_all(&state)?;
        let toml = format!(
            "socket = {socket:?}\nallowed_users = [{}]\nkeystore = {:?}\npassword_file = {:?}\nstate_dir = {state:?}\n\
             [chain]\nchain_id = {}\nrecipient = \"{recipient}\"\nticket_broker = \"{}\"\n",
            nix::unistd::geteuid(),
            hot.keystore,
            hot.password,
            self.anvil.chain_id(),
            self.chain.address("TicketBroker"),
        );
        let config = self.dir.join("signer.toml");
        std::fs::write(&config, toml)?;
        let config = config.to_str().context("paths are plain text")?;
        let mut signer = Program::start("millrace-signer", &["--config", config], &self.dir.join("signer-logs"))?;
        signer.wait_until(START, async || socket.exists().then_some(())).await?;

        let toml = format!(
            "[serve]\nservice_uri = \"{}\"\nlisten = \"{}\"\nmax_sessions = 20\n\
             [payment]\nprice_per_pixel = \"{PRICE_WEI_PER_PIXEL}\"\nticket_ev_wei = \"{TICKET_EV_WEI}\"\nmax_face_value_wei = \"{FACE_VALUE_WEI}\"\n\
             [chain]\nrpc = [\"{}\"]\ncontroller = \"{}\"\nchain_id = {}\nrecipient = \"{recipient}\"\n\
             poll_interval_ms = 500\nconfirmations = 2\nmin_fee_cap_wei = \"{GAS_PRICE_WEI}\"\n",
            place.uri,
            place.listen,
            self.anvil.url(),
            self.chain.address("Controller"),
            self.anvil.chain_id(),
        );
        let node = Ours::start(&self.dir, "node", place, &toml).await?;
        Ok(OnChain { node, recipient, signer })
    }
}
