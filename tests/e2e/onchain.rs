//! On chain, everything real: contracts on an EVM node, signer, node, jailed workers, our own paying gateway.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use gateway::{Gateway, GatewayConfig, OfferLimits, Session, SessionError, SignerError, TicketSigner, Upload, needs};
use livepeer::address::{Address, H256, keccak256};
use livepeer::profile::{Profile, preset};
use livepeer::signature::{Signature, SigningKey};
use livepeer::units::{Wei, u256_from_minimal_bytes};
use millrace_tests::anvil::Anvil;
use millrace_tests::bins::bin;
use millrace_tests::cluster::{Program, free_port};
use millrace_tests::devchain::{DevChain, Params};
use millrace_tests::media;
use serde_json::{Value, json};
use service::status::{NodeStatus, read_status};

use crate::offchain::ONE_AT_A_TIME;

/// How long a program may take to come up, or the chain part to settle, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// A winner pays four tickets' worth, so about every fourth wins.
const TICKET_EV_WEI: u64 = 1_000_000_000_000;
const FACE_VALUE_WEI: u64 = 4 * TICKET_EV_WEI;
/// Dear enough for about a dozen tickets with each segment of the small rendition.
const PRICE_WEI: u64 = 900_000;

/// Everything that runs for one test.
pub(crate) struct Chained {
    dir: tempfile::TempDir,
    pub(crate) recipient: Address,
    pub(crate) hot: Address,
    pub(crate) gateway: SigningKey,
    pub(crate) uri: String,
    signer: Program,
    pub(crate) node: Program,
}

impl Chained {
    /// Stakes, funds, and starts signer and node on a fresh deployment of the contracts.
    async fn start(anvil: &Anvil, chain: &DevChain<'_>) -> Self {
        Self::start_with(anvil, chain, "", "").await
    }

    /// The same with more in the node's and the signer's configuration.
    pub(crate) async fn start_with(anvil: &Anvil, chain: &DevChain<'_>, node_more: &str, signer_more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut rng = rand::rngs::OsRng;
        let (recipient, gateway) = (SigningKey::generate(&mut rng).address(), SigningKey::generate(&mut rng));
        let ether = Wei(10u128.pow(18).into());
        chain.activate_orchestrator(recipient, ether).await.unwrap();
        chain.fund_sender(gateway.address(), ether, ether).await.unwrap();
        let uri = format!("https://127.0.0.1:{}", free_port().unwrap());
        chain.set_service_uri(recipient, &uri).await.unwrap();

        let path = |name: &str| dir.path().join(name);
        let (keystore, password) = (path("hot.json"), path("hot.password"));
        let mut init = Command::new(bin("millrace-signer"));
        init.arg("init").arg("--light").arg("--keystore").arg(&keystore).arg("--password-file").arg(&password);
        let made = init.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let hot: Address = String::from_utf8(made.stdout).unwrap().trim().parse().unwrap();
        anvil.set_balance(hot, ether).await.unwrap();

        let signer_toml = format!(
            "socket = {:?}\nallowed_users = [{}]\nkeystore = {keystore:?}\npassword_file = {password:?}\n\
             state_dir = {:?}\n[chain]\nchain_id = {}\nrecipient = \"{recipient}\"\nticket_broker = \"{}\"\n{signer_more}",
            path("signer.sock"),
            nix::unistd::geteuid(),
            path("signer"),
            anvil.chain_id(),
            chain.address("TicketBroker"),
        );
        let node_toml = format!(
            "state_dir = {:?}\nstatus_socket = {:?}\nsigner_socket = {:?}\n\
             [serve]\nservice_uri = \"{uri}\"\nlisten = \"{}\"\n\
             [payment]\nprice_per_pixel = \"{PRICE_WEI}\"\nauto_adjust_price = false\n\
             ticket_ev_wei = \"{TICKET_EV_WEI}\"\nmax_face_value_wei = \"{FACE_VALUE_WEI}\"\n\
             [chain]\nrpc = [\"{}\"]\ncontroller = \"{}\"\nchain_id = {}\nrecipient = \"{recipient}\"\n\
             poll_interval_ms = 200\nconfirmations = 1\nmin_fee_cap_wei = \"1000000\"\n{node_more}",
            path("node"),
            path("node.sock"),
            path("signer.sock"),
            uri.trim_start_matches("https://"),
            anvil.url(),
            chain.address("Controller"),
            anvil.chain_id(),
        );
        std::fs::create_dir_all(path("signer")).unwrap();
        let write = |name: &str, content: &str| {
            std::fs::write(path(name), content).unwrap();
            path(name).to_str().unwrap().to_owned()
        };
        let (signer_config, node_config) = (write("signer.toml", &signer_toml), write("node.toml", &node_toml));
        let mut signer = Program::start("millrace-signer", &["--config", &signer_config], dir.path()).unwrap();
        let socket = path("signer.sock");
        signer.wait_until(PATIENCE, async || socket.exists().then_some(())).await.unwrap();
        let node = Program::start("millrace-node", &["--config", &node_config], dir.path()).unwrap();
        let mut started = Self { dir, recipient, hot, gateway, uri, signer, node };
        started.until(|status| status.mode == "run" && status.chain.as_ref().is_some_and(|chain| chain.active)).await;
        started
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Waits until the node says so; it puts its status together once a second.
    pub(crate) async fn until(&mut self, what: impl Fn(&NodeStatus) -> bool) -> NodeStatus {
        let socket = self.path("node.sock");
        let said = async || read_status(&socket).await.ok().filter(|status| what(status));
        match self.node.wait_until(PATIENCE, said).await {
            Ok(status) => status,
            Err(error) => panic!("{error:#}\nlast status: {:#?}", read_status(&socket).await),
        }
    }

    /// The gateway's key in a file that only we can read.
    pub(crate) fn key_file(&self) -> PathBuf {
        let path = self.path("gateway.key");
        let mut options = std::fs::File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
        writeln!(file, "{}", hex::encode(&self.gateway.to_secret_bytes()[..])).unwrap();
        path
    }

    pub(crate) fn paying_gateway(&self) -> Arc<Gateway> {
        Arc::new(Gateway::new(GatewayConfig {
            orchestrators: vec![self.uri.parse().unwrap()],
            signer: Some(Arc::new(Key(self.gateway.clone()))),
            chain: None,
            limits: OfferLimits::default(),
            verify: true,
            webhook: None,
            decoder: None,
        }))
    }

    pub(crate) fn upload(&self, seq: i64, name: &str) -> Upload {
        let clip = std::fs::read(media::bunny()).unwrap();
        let segment = mpegts::segment::cut(&clip, 2000).unwrap().swap_remove(0);
        Upload {
            seq,
            hash: keccak256(&segment.bytes),
            duration: Duration::from_millis(segment.duration_ms),
            bytes: segment.bytes.into(),
            targets: vec![self.path(name)],
        }
    }
}

#[derive(Debug)]
struct Key(SigningKey);

impl TicketSigner for Key {
    fn address(&self) -> Address {
        self.0.address()
    }
    fn sign_node(&self, message: &[u8]) -> Result<Signature, SignerError> {
        Ok(self.0.sign_node(message))
    }
    fn sign_personal(&self, digest: H256) -> Result<Signature, SignerError> {
        Ok(self.0.sign_personal(digest))
    }
}

pub(crate) async fn deploy(anvil: &Anvil) -> DevChain<'_> {
    let params = Params { round_length: 5_000, ..Params::default() };
    DevChain::deploy(anvil, &params).await.unwrap()
}

pub(crate) fn profile() -> Vec<Profile> {
    vec![preset("240p").unwrap()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn winners_are_paid_on_chain_what_the_ledger_says() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let anvil = Anvil::start().await.unwrap();
    let chain = deploy(&anvil).await;
    let mut node = Chained::start(&anvil, &chain).await;

    let (key, out) = (node.key_file(), node.path("push"));
    let clip = media::bunny();
    let args = ["gateway", "push", text(&clip), "--orch", &node.uri, "--key-file", text(&key), "--out", text(&out)];
    let more = ["--profiles", "240p", "--loop-to", "8s", "--pace", "max", "--max-price", "900000", "--json"];
    let output = Command::new(bin("millrace")).args(args).args(more).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report["segments"].as_u64(), report["failed"].as_u64()), (Some(4), Some(0)));
    let sent = report["tickets_sent"].as_u64().unwrap();
    assert!(sent >= 20, "{report:#}");
    let (signer, recipient) = (&report["orchestrators"][0]["signer"], &report["orchestrators"][0]["recipient"]);
    assert_eq!(signer.as_str(), Some(node.hot.to_string().as_str()), "the hot key signs results");
    assert_eq!(recipient.as_str(), Some(node.recipient.to_string().as_str()), "and somebody else is paid");

    let status = node.until(|status| status.money.tickets_received == sent).await;
    let won = status.money.tickets_won;
    assert!(won > 0, "{sent} tickets of one in four: that none wins happens once in 300 runs at the least number");
    assert_eq!(status.money.tickets_redeemed, 0, "not while the offers live");
    assert_eq!(status.money.won_wei, (won * FACE_VALUE_WEI).to_string());

    // The offers' life ends, and the winners' time comes. Blocks go on, so that receipts get confirmed.
    anvil.mine(livepeer::params::LIFETIME_BLOCKS + 2).await.unwrap();
    let _: Value = anvil.request("evm_setIntervalMining", json!([1])).await.unwrap();
    let settled = node.until(|status| status.money.tickets_redeemed == won && status.money.tickets_pending == 0).await;
    assert_eq!(settled.money.paid_wei, (won * FACE_VALUE_WEI).to_string());
    let paid = transfers(&anvil, chain.address("TicketBroker"), node.recipient).await;
    assert_eq!(paid.len(), usize::try_from(won).unwrap());
    let total = paid.iter().fold(Wei::ZERO, |sum, wei| sum.checked_add(*wei).unwrap());
    assert_eq!(total.to_string(), settled.money.paid_wei, "the chain paid what the ledger says");
    node.node.stop().unwrap();
    node.signer.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_nonce_is_refused_and_the_stream_goes_on() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let anvil = Anvil::start().await.unwrap();
    let chain = deploy(&anvil).await;
    let mut node = Chained::start(&anvil, &chain).await;
    let gateway = node.paying_gateway();
    let needed = needs(mpegts::VideoCodec::H264, &profile());
    let (asked, offer) = gateway.discover(&needed).await.unwrap().swap_remove(0);
    let session = |offer: &gateway::Offer| {
        let (asked, profiles) = (asked.clone(), profile().into());
        Session::new(Arc::clone(&gateway), asked, offer.clone(), "stream".to_owned(), profiles, needed.clone())
    };

    let honest = session(&offer);
    let first = honest.transcode(&node.upload(0, "0.ts")).await.unwrap();
    assert!(first.tickets > 1);
    let received = node.until(|status| status.money.tickets_received == u64::from(first.tickets)).await.money;

    // A second purse for the same offer begins at nonce 1 again.
    let replayed = session(&offer).transcode(&node.upload(1, "replayed.ts")).await.unwrap_err();
    match &replayed {
        SessionError::Refused { status, text } => {
            assert_eq!(status.as_u16(), 400, "{text}");
            assert!(text.starts_with("invalid ticket senderNonce: already seen"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert!(!node.path("replayed.ts").exists());

    let second = honest.transcode(&node.upload(1, "1.ts")).await.unwrap();
    assert_eq!(second.pixels, first.pixels);
    let all = received.tickets_received + u64::from(second.tickets);
    let money = node.until(|status| status.money.tickets_received == all).await.money;
    assert_eq!(money.payment_errors.values().sum::<u64>(), 1, "{:?}", money.payment_errors);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_is_believed_from_the_offers_signer_only() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let anvil = Anvil::start().await.unwrap();
    let chain = deploy(&anvil).await;
    let node = Chained::start(&anvil, &chain).await;
    let gateway = node.paying_gateway();
    let needed = needs(mpegts::VideoCodec::H264, &profile());
    let (asked, offer) = gateway.discover(&needed).await.unwrap().swap_remove(0);
    assert_eq!(offer.signer, node.hot);
    assert_ne!(offer.signer, offer.terms.unwrap().params.recipient);
    let other = gateway::Offer { signer: node.recipient, ..offer };
    let session = Session::new(gateway, asked, other, "stream".to_owned(), profile().into(), needed);
    let refused = session.transcode(&node.upload(0, "0.ts")).await.unwrap_err();
    assert!(matches!(refused, SessionError::SignedByOther { expected } if expected == node.recipient), "{refused:?}");
    assert!(!node.path("0.ts").exists(), "what cannot be believed is not kept");
}

/// What the ticket broker paid to a recipient.
async fn transfers(anvil: &Anvil, broker: Address, recipient: Address) -> Vec<Wei> {
    let event = keccak256(b"WinningTicketTransfer(address,address,uint256)");
    let topic = format!("0x{:0>64}", hex::encode(recipient.as_bytes()));
    let filter = json!([{
        "fromBlock": "0x0", "toBlock": "latest", "address": broker.to_string(),
        "topics": [format!("{event:?}"), null, topic],
    }]);
    let logs: Vec<Value> = anvil.request("eth_getLogs", filter).await.unwrap();
    let amount = |log: &Value| {
        let data = log["data"].as_str().unwrap().trim_start_matches("0x");
        let words = hex::decode(data).unwrap();
        Wei(u256_from_minimal_bytes(words.get(..32).unwrap()).unwrap())
    };
    logs.iter().map(amount).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of the tests are plain text")
}
