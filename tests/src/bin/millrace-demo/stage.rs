//! The stage: every program of the demo, started, used, asked and stopped.
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use fleet_protocol::Presence;
use fleet_protocol::api::BoxDetail;
use gateway::PushReport;
use livepeer::address::Address;
use livepeer::signature::SigningKey;
use livepeer::units::Wei;
use millrace_tests::anvil::{Anvil, AnvilOptions, Mining, repository};
use millrace_tests::bins::bin;
use millrace_tests::broker::{Broker, CONTROLLER};
use millrace_tests::cluster::{Program, free_port};
use millrace_tests::devchain::{DevChain, Params};
use serde_json::json;
use service::status::{NodeStatus, read_status};

use crate::evidence::LADDER;

/// The one box of the demo, as its fleet knows it.
const BOX: &str = "box-00000000000000d0";
const FLEET: &str = "demo";
/// One L1 block a second; rounds longer than the 40 blocks an offer lives, so that one round holds the whole demo.
const ROUND_LENGTH: u64 = 5_000;
/// A quiet chain: gas at a thousandth of a gwei.
const GAS_PRICE_WEI: u64 = 1_000_000;
/// Expected value of a ticket, a little under the most a stock gateway accepts.
const TICKET_EV_WEI: u64 = 2_500_000_000_000;
/// A winner pays four times that, so about every fourth ticket wins. (Stock parameters make one in hundreds win.)
const FACE_VALUE_WEI: u64 = 4 * TICKET_EV_WEI;
/// Dear enough that a minute of video takes some fifty tickets.
const PRICE_WEI_PER_PIXEL: u64 = 45_000;
/// L1 blocks until offers made during the push are over, and winners may be redeemed.
const BLOCKS_UNTIL_DUE: u64 = livepeer::params::LIFETIME_BLOCKS + 2;
/// How long a program may take to come up.
const START: Duration = Duration::from_secs(60);

/// Says what is done now, and that it is done.
pub(crate) struct Step(Instant);

impl Step {
    pub(crate) fn begin(what: &str) -> Self {
        print!("demo: {what:<58}");
        let _unflushed = std::io::stdout().flush();
        Self(Instant::now())
    }

    pub(crate) fn done(self, detail: &str) {
        println!(" {:>5.1} s  {detail}", self.0.elapsed().as_secs_f64());
    }
}

/// Who is who. The keys are made for one run and thrown away.
pub(crate) struct Accounts {
    /// The orchestrator's cold account: stake and fees. Its key is nowhere; the EVM node lets us act for it.
    recipient: Address,
    gateway: SigningKey,
}

impl Accounts {
    pub(crate) fn new() -> Self {
        let mut rng = rand::rngs::OsRng;
        Self { recipient: SigningKey::generate(&mut rng).address(), gateway: SigningKey::generate(&mut rng) }
    }
}

/// Removes what an earlier run left, and makes the directories of this one.
pub(crate) fn fresh_directory(dir: &Path) -> Result<PathBuf> {
    for part in ["in", "out", "logs", "run"] {
        let part = dir.join(part);
        match std::fs::remove_dir_all(&part) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", part.display()));
            }
            _ => std::fs::create_dir_all(&part)?,
        }
    }
    Ok(dir.canonicalize()?)
}

/// Starts the EVM node.
pub(crate) async fn start_chain(dir: &Path) -> Result<(Anvil, String)> {
    let step = Step::begin("starting an EVM node (anvil)");
    let options = AnvilOptions {
        mining: Mining::OnTransaction,
        log: Some(dir.join("logs/anvil.log")),
        ..AnvilOptions::default()
    };
    let anvil = Anvil::with(options).await?;
    let url = anvil.url().to_owned();
    step.done(&url);
    Ok((anvil, url))
}

/// Deploys the contracts; stakes for the orchestrator; funds the gateway. All of it is what people do elsewhere.
pub(crate) async fn deploy<'a>(anvil: &'a Anvil, accounts: &Accounts) -> Result<DevChain<'a>> {
    let step = Step::begin("deploying the contracts, staking, funding the gateway");
    let params = Params { round_length: ROUND_LENGTH, ..Params::default() };
    let chain = DevChain::deploy(anvil, &params).await?;
    let ether = Wei(10u128.pow(18).into());
    chain.activate_orchestrator(accounts.recipient, ether).await?;
    chain.fund_sender(accounts.gateway.address(), ether, ether).await?;
    let fee = format!("0x{GAS_PRICE_WEI:x}");
    anvil.request::<serde_json::Value>("anvil_setNextBlockBaseFeePerGas", json!([fee])).await?;
    anvil.request::<serde_json::Value>("evm_setIntervalMining", json!([1])).await?;
    step.done(&format!("recipient {}", accounts.recipient));
    Ok(chain)
}

/// Everything that runs.
pub(crate) struct Stage {
    dir: PathBuf,
    recipient: Address,
    service_uri: String,
    controller_url: String,
    gateway_key: PathBuf,
    broker: Broker,
    controller: Program,
    signer: Program,
    node: Program,
    fleet: Program,
}

impl Stage {
    pub(crate) async fn start(dir: &Path, chain: &DevChain<'_>, anvil: &Anvil, accounts: &Accounts) -> Result<Self> {
        let (run, logs) = (dir.join("run"), dir.join("logs"));

        let step = Step::begin("starting a broker (mosquitto: TLS, client certificates, ACL)");
        let broker = Broker::start(&run.join("broker"))?;
        step.done(&format!("port {}", broker.port()));

        let step = Step::begin("starting millrace-controller");
        let controller_port = free_port()?;
        let controller_url = format!("http://127.0.0.1:{controller_port}");
        let controller_config = config(&run, "controller", &controller_toml(&run, &broker, controller_port)?)?;
        let mut controller = Program::start("millrace-controller", &["--config", &controller_config], &logs)?;
        controller.wait_until(START, async || port_answers(controller_port)).await?;
        step.done(&controller_url);

        let step = Step::begin("making a hot key, starting millrace-signer");
        let signer_state = run.join("signer");
        std::fs::create_dir_all(&signer_state)?;
        let signer_config = config(&run, "signer", &signer_toml(&run, chain, anvil, accounts))?;
        let hot = make_hot_key(&run)?;
        let mut signer = Program::start("millrace-signer", &["--config", &signer_config], &logs)?;
        let socket = run.join("signer.sock");
        signer.wait_until(START, async || socket.exists().then_some(())).await?;
        anvil.set_balance(hot, Wei(10u128.pow(18).into())).await?;
        step.done(&format!("hot account {hot}"));

        let step = Step::begin("starting millrace-node (workers prove the encoder)");
        let port = free_port()?;
        let service_uri = format!("https://127.0.0.1:{port}");
        chain.set_service_uri(accounts.recipient, &service_uri).await?;
        let node_config = config(&run, "node", &node_toml(&run, chain, anvil, accounts, &service_uri, port))?;
        let mut node = Program::start("millrace-node", &["--config", &node_config], &logs)?;
        let status_socket = run.join("node.sock");
        let workers = node
            .wait_until(START, async || {
                let status = read_status(&status_socket).await.ok()?;
                let ready =
                    status.mode == "run" && status.workers.alive > 0 && status.chain.is_some_and(|chain| chain.active);
                (ready && port_answers(port).is_some()).then_some(status.workers)
            })
            .await?;
        step.done(&service_uri);
        println!("demo:   jail layers: {}", workers.jail_layers.join(", "));
        for (layer, reason) in &workers.jail_missing {
            println!("demo:   jail layer missing: {layer}: {reason}");
        }

        let step = Step::begin("starting millrace-fleet");
        let fleet_config = config(&run, "fleet", &fleet_toml(&run, &broker)?)?;
        let fleet = Program::start("millrace-fleet", &["--config", &fleet_config], &logs)?;
        step.done(BOX);

        let gateway_key = run.join("gateway.key");
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&gateway_key)?;
        writeln!(file, "{}", hex::encode(accounts.gateway.to_secret_bytes().as_slice()))?;
        Ok(Self {
            dir: dir.to_owned(),
            recipient: accounts.recipient,
            service_uri,
            controller_url,
            gateway_key,
            broker,
            controller,
            signer,
            node,
            fleet,
        })
    }

    pub(crate) fn recipient(&self) -> Address {
        self.recipient
    }

    /// Sends the clip, paced in real time, and gets the ladder.
    pub(crate) async fn push(&mut self, seconds: u32) -> Result<PushReport> {
        println!("demo: sending {seconds} s of video as 2 s segments, with tickets; four renditions come back");
        let clip = repository().join("tests/media/bbb-720p.ts");
        let names: Vec<&str> = LADDER.iter().map(|(name, ..)| *name).collect();
        let path = |path: &Path| path.display().to_string();
        let args = [
            "gateway".to_owned(),
            "push".to_owned(),
            path(&clip),
            "--orch".to_owned(),
            self.service_uri.clone(),
            "--profiles".to_owned(),
            names.join(","),
            "--loop-to".to_owned(),
            format!("{seconds}s"),
            "--key-file".to_owned(),
            path(&self.gateway_key),
            "--out".to_owned(),
            path(&self.dir),
            "--json".to_owned(),
        ];
        let mut push = tokio::process::Command::new(bin("millrace"));
        // Not `output()`, which would swallow the progress on standard error.
        push.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        let output = push.spawn().context("cannot run millrace")?.wait_with_output().await?;
        std::fs::write(self.dir.join("logs/push.json"), &output.stdout)?;
        ensure!(output.status.success(), "millrace gateway push failed ({})", output.status);
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Lets the offers expire, and waits until every winner is redeemed and confirmed.
    pub(crate) async fn settle(&mut self, anvil: &Anvil, patience: Duration) -> Result<NodeStatus> {
        let step = Step::begin("mining past the offers' life, redeeming the winners");
        anvil.mine(BLOCKS_UNTIL_DUE).await?;
        let socket = self.dir.join("run/node.sock");
        let status = self
            .node
            .wait_until(patience, async || {
                let status = read_status(&socket).await.ok()?;
                let money = &status.money;
                let settled =
                    money.tickets_won > 0 && money.tickets_pending == 0 && money.tickets_redeemed == money.tickets_won;
                settled.then_some(status)
            })
            .await?;
        step.done(&format!("{} redeemed", status.money.tickets_redeemed));
        Ok(status)
    }

    /// What the controller knows of the box once its earnings have arrived there.
    pub(crate) async fn health_at_controller(&mut self, node: &NodeStatus, patience: Duration) -> Result<String> {
        let step = Step::begin("waiting for the earnings to arrive at the controller");
        let url = self.controller_url.clone();
        let redeemed = node.money.tickets_redeemed;
        let detail = self
            .fleet
            .wait_until(patience, async || {
                let detail = ask_controller(&url).ok()?;
                let told =
                    detail.summary.earnings.as_ref().is_some_and(|earnings| earnings.tickets_redeemed == redeemed);
                (told && detail.summary.presence == Presence::Online).then_some(detail)
            })
            .await?;
        let earnings = detail.summary.earnings.context("earnings")?;
        ensure!(
            earnings.tickets_won == node.money.tickets_won,
            "the controller counts {} winners",
            earnings.tickets_won
        );
        ensure!(
            earnings.value_redeemed_wei == node.money.paid_wei,
            "the controller counts {} wei",
            earnings.value_redeemed_wei
        );
        let score = detail.summary.ok.context("the controller has no health score")?;
        step.done("");
        Ok(format!("online, score {score:.0}"))
    }

    /// Nothing died on the way.
    pub(crate) fn everything_still_runs(&mut self) -> Result<()> {
        for program in [&mut self.controller, &mut self.signer, &mut self.node, &mut self.fleet] {
            if let Some(status) = program.ended()? {
                bail!("a program ended during the demo ({status}); its log ends:\n{}", program.log_tail());
            }
        }
        Ok(())
    }

    pub(crate) fn print_how_to_look_around(&self, dir: &Path, rpc_url: &str) {
        let millrace = bin("millrace");
        let millrace = millrace.display();
        let run = dir.join("run");
        println!("\nEverything is up until you press Ctrl-C. To look around:");
        println!("  {millrace} status --socket {}", run.join("node.sock").display());
        println!("  {millrace} fleet ls --controller {}", self.controller_url);
        println!("  {millrace} fleet show {BOX} --controller {}", self.controller_url);
        println!(
            "  {millrace} gateway push tests/media/bbb-720p.ts --orch {} --key-file {} --out /tmp/ladder",
            self.service_uri,
            self.gateway_key.display()
        );
        println!("  ffplay {}", dir.join("out/master.m3u8").display());
        println!(
            "  curl -s {rpc_url} -H 'content-type: application/json' -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"eth_blockNumber\",\"params\":[]}}'"
        );
        println!("  configurations: {}   logs: {}", run.display(), dir.join("logs").display());
    }

    /// Stops everything in the order that loses nothing.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let step = Step::begin("stopping everything in order");
        for program in [&mut self.fleet, &mut self.node, &mut self.signer, &mut self.controller] {
            let status = program.stop()?;
            ensure!(
                status.success(),
                "a program did not stop cleanly ({status}); its log ends:\n{}",
                program.log_tail()
            );
        }
        self.broker.stop()?;
        step.done("");
        Ok(())
    }
}

/// Writes a configuration file; its path as an argument.
fn config(run: &Path, name: &str, text: &str) -> Result<String> {
    let path = run.join(format!("{name}.toml"));
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

fn controller_toml(run: &Path, broker: &Broker, port: u16) -> Result<String> {
    let files = broker.client_cert(CONTROLLER)?;
    Ok(format!(
        "fleet = \"{FLEET}\"\nname = \"main\"\ndatabase = {:?}\nlisten = \"127.0.0.1:{port}\"\nauto_enrol = true\n\
         ack_s = 2\nwindow_s = 5\n[broker]\nhost = \"127.0.0.1\"\nport = {}\nclient_id = \"{CONTROLLER}\"\n\
         [tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n",
        run.join("fleet.db"),
        broker.port(),
        files.ca,
        files.cert,
        files.key
    ))
}

fn fleet_toml(run: &Path, broker: &Broker) -> Result<String> {
    let files = broker.client_cert(BOX)?;
    Ok(format!(
        "box = \"{BOX}\"\nfleet = \"{FLEET}\"\nstate_dir = {:?}\nnode_status = {:?}\n\
         [[brokers]]\nhost = \"127.0.0.1\"\nport = {}\n[tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n\
         [periods]\nheartbeat_s = 2\nvitals_s = 5\nstreams_s = 5\nearnings_s = 5\n[link]\nwindow_s = 1\n",
        run.join("fleet"),
        run.join("node.sock"),
        broker.port(),
        files.ca,
        files.cert,
        files.key
    ))
}

fn signer_toml(run: &Path, chain: &DevChain<'_>, anvil: &Anvil, accounts: &Accounts) -> String {
    format!(
        "socket = {:?}\nallowed_users = [{}]\nkeystore = {:?}\npassword_file = {:?}\nstate_dir = {:?}\n\
         [chain]\nchain_id = {}\nrecipient = \"{}\"\nticket_broker = \"{}\"\nrounds_manager = \"{}\"\nbonding_manager = \"{}\"\n",
        run.join("signer.sock"),
        nix::unistd::geteuid(),
        run.join("hot-key.json"),
        run.join("hot-key.password"),
        run.join("signer"),
        anvil.chain_id(),
        accounts.recipient,
        chain.address("TicketBroker"),
        chain.address("RoundsManager"),
        chain.address("BondingManager"),
    )
}

fn node_toml(
    run: &Path,
    chain: &DevChain<'_>,
    anvil: &Anvil,
    accounts: &Accounts,
    service_uri: &str,
    port: u16,
) -> String {
    format!(
        "state_dir = {:?}\nstatus_socket = {:?}\nsigner_socket = {:?}\n\
         [serve]\nservice_uri = \"{service_uri}\"\nlisten = \"127.0.0.1:{port}\"\n\
         [payment]\nprice_per_pixel = \"{PRICE_WEI_PER_PIXEL}\"\nticket_ev_wei = \"{TICKET_EV_WEI}\"\nmax_face_value_wei = \"{FACE_VALUE_WEI}\"\n\
         [chain]\nrpc = [\"{}\"]\ncontroller = \"{}\"\nchain_id = {}\nrecipient = \"{}\"\n\
         poll_interval_ms = 500\nconfirmations = 2\nmin_fee_cap_wei = \"{GAS_PRICE_WEI}\"\n",
        run.join("node"),
        run.join("node.sock"),
        run.join("signer.sock"),
        anvil.url(),
        chain.address("Controller"),
        anvil.chain_id(),
        accounts.recipient,
    )
}

/// Makes the one hot key, in a keystore; its account.
fn make_hot_key(run: &Path) -> Result<Address> {
    let output = Command::new(bin("millrace-signer"))
        .args(["init", "--light", "--keystore"])
        .arg(run.join("hot-key.json"))
        .arg("--password-file")
        .arg(run.join("hot-key.password"))
        .output()?;
    ensure!(output.status.success(), "millrace-signer init failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

fn ask_controller(url: &str) -> Result<BoxDetail> {
    let output = Command::new(bin("millrace")).args(["fleet", "show", BOX, "--controller", url, "--json"]).output()?;
    ensure!(output.status.success(), "the controller does not know the box yet");
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn port_answers(port: u16) -> Option<()> {
    std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop)
}
