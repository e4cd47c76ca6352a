//! What an operator sees and sets over HTTP: the real node off-chain and on chain, its numbers after real work, and
//! those who must not come in. And that every name in the dashboard and the alert rules is one the node exports.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "operator/http.rs"]
mod http;
#[path = "operator/shipped.rs"]
mod shipped;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use livepeer::address::keccak256;
use millrace_tests::anvil::Anvil;
use millrace_tests::bins::bin;
use millrace_tests::cluster::{Program, free_port};
use millrace_tests::media;
use serde_json::Value;
use service::status::read_status;

use self::http::{Scrape, ask, get, json, post};
use crate::node::peer::{Speak, Upload, call, data, discover, error};
use crate::node::{Node, film, ladder};
use crate::offchain::ONE_AT_A_TIME;
use crate::onchain::{Chained, PATIENCE, deploy, profile};

fn admin(port: u16) -> String {
    format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n")
}

#[tokio::test]
async fn the_numbers_move_by_exactly_what_was_done_and_settings_take_hold() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port().unwrap());
    let serve = "[serve]\nlisten = \"127.0.0.1:0\"\nmax_sessions = 3\ndrain_sessions_s = 0\n";
    let node = Node::start(dir.path(), &format!("{}{serve}", admin(port))).await;
    let before = Scrape::of(port).await;
    for name in ["livepeer_segment_transcoded_total", "livepeer_mil_pixels_processed", "livepeer_stream_started_total"]
    {
        assert_eq!(before.value(name), 0.0, "{name}");
    }
    assert_eq!(before.value("livepeer_success_rate"), 1.0);
    assert_eq!(before.labels("livepeer_success_rate")["node_type"], "orch");

    let token = discover(&node.uri).await.unwrap().auth_token.unwrap();
    for seq in 0..2 {
        let result = Upload::new(&token, seq, film(), &ladder()).send(&node.uri, Speak::Http1).await;
        assert_eq!(data(&result).segments.len(), 2);
    }
    let noise = Bytes::from_static(&[0x5a; 4000]);
    let refused = Upload::new(&token, 2, noise, &ladder()).send(&node.uri, Speak::Http1).await;
    assert!(!error(&refused).is_empty());
    let status = node.until(|status| (status.segments.ok, status.segments.failed) == (2, 1)).await;

    let after = Scrape::of(port).await;
    assert_eq!(after.value("livepeer_segment_source_emerged_total"), 3.0);
    assert_eq!(after.value("livepeer_segment_transcoded_total"), 2.0);
    assert_eq!(after.one("livepeer_segment_transcode_failed_total", &[("error_code", "stream")]), 1.0);
    assert_eq!(after.value("livepeer_success_rate"), 2.0 / 3.0);
    let pixels = 2 * 30 * (256 * 144 + 160 * 90);
    assert_eq!(after.value("livepeer_mil_pixels_processed"), f64::from(pixels) / 1e6);
    for histogram in ["transcode_time_seconds", "transcode_overall_latency_seconds", "transcode_score"] {
        assert_eq!(after.value(&format!("livepeer_{histogram}_count")), 2.0, "{histogram}");
    }
    assert_eq!(after.value("livepeer_source_segment_duration_seconds_count"), 3.0);
    assert_eq!(after.value("livepeer_current_sessions_total"), 1.0);
    assert_eq!(after.value("livepeer_stream_started_total"), 1.0);
    assert_eq!(after.value("millrace_received_bytes_total"), status.segments.bytes_in as f64);
    assert_eq!(after.value("millrace_sent_bytes_total"), status.segments.bytes_out as f64);
    assert_eq!(after.one("millrace_mode", &[("mode", "run")]), 1.0);
    assert!(!after.has("livepeer_tickets_recv"), "off-chain there is no money");

    let told = json(port, "/status").await;
    assert_eq!((&told["Version"], &told["LocalTranscoding"]), (&"0.9.1-millrace.1".into(), &true.into()));
    assert_eq!(told["Millrace"]["segments"]["ok"], 2);
    assert_eq!(get(port, "/healthz").await, (200, "ok\n".into()));
    assert_eq!(get(port, "/IsOrchestrator").await, (200, "true".into()));
    assert_eq!(get(port, "/EthChainID").await, (200, "0".into()));
    assert_eq!(get(port, "/currentRound").await, (500, "missing ETH client\n".into()));

    // One session runs; with room for one, nobody else is let in.
    assert_eq!(post(port, "/setMaxSessions", "maxSessions=1").await, (200, "Max sessions set to 1\n".into()));
    let capabilities = Some(livepeer::wire::net::Capabilities::default());
    let asked = livepeer::wire::net::OrchestratorRequest { capabilities, ..Default::default() };
    let newcomer = call::<_, livepeer::wire::net::OrchestratorInfo>(&node.uri, "GetOrchestrator", &asked).await;
    assert!(newcomer.unwrap_err().contains("OrchestratorCapped"));
    node.until(|status| status.sessions.capacity == 1).await;
    assert_eq!(Scrape::of(port).await.value("livepeer_max_sessions_total"), 1.0);
    for bad in ["maxSessions=0", "maxSessions=-1", "maxSessions=many", "maxSessions=1001", ""] {
        assert_eq!(post(port, "/setMaxSessions", bad).await.0, 400, "{bad}");
    }
    assert_eq!(post(port, "/setLogLevel", "loglevel=6").await.0, 200);
    assert_eq!(get(port, "/getLogLevel").await, (200, "debug".into()));
    assert_eq!(
        post(port, "/setPriceForBroadcaster", "pricePerUnit=1&pixelsPerUnit=1&broadcasterEthAddr=default").await.0,
        400
    );
    assert_eq!(node.stop(), Some(0));
}

#[tokio::test]
async fn those_who_must_not_come_in_do_not() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port().unwrap());
    let serve = "[serve]\nlisten = \"127.0.0.1:0\"\nmax_sessions = 3\n";
    let node = Node::start(dir.path(), &format!("{}{serve}", admin(port))).await;
    let sent = async |method: &str, headers: &str, body: &str| ask(port, method, "/setLogLevel", headers, body).await.0;
    let (_, level) = get(port, "/getLogLevel").await;
    let ours = format!("Host: 127.0.0.1:{port}\r\n");
    for hostile in [
        "Host: rebound.example\r\n".to_owned(),
        format!("Host: rebound.example:{port}\r\n"),
        format!("{ours}Origin: http://evil.example\r\n"),
        format!("{ours}Origin: null\r\n"),
        format!("{ours}Sec-Fetch-Site: cross-site\r\n"),
    ] {
        assert_eq!(sent("POST", &hostile, "loglevel=warn").await, 403, "{hostile}");
        assert_eq!(ask(port, "GET", "/metrics", &hostile, "").await.0, 403, "{hostile}");
    }
    assert_eq!(sent("GET", &ours, "").await, 405, "a link changes nothing");
    assert_eq!(get(port, "/getLogLevel").await.1, level);
    assert_eq!(sent("POST", &ours, "loglevel=warn").await, 200);
    assert_eq!(get(port, "/getLogLevel").await.1, "warn");
    drop(node);

    let file = dir.path().join("open.toml");
    std::fs::write(&file, "[admin]\nlisten = \"0.0.0.0:7935\"\n").unwrap();
    let check =
        Command::new(bin("millrace-node")).args(["--check", "--config", file.to_str().unwrap()]).output().unwrap();
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert_eq!(check.status.code(), Some(78), "{said}");
    assert!(said.contains("admin.listen is 0.0.0.0:7935, which others can reach"), "{said}");
}

/// A tree of sensors: a cool processor and a graphics processor.
fn sensors(root: &Path) {
    let card = "sys/bus/pci/devices/0000:03:00.0";
    for (file, text) in [
        ("sys/class/thermal/thermal_zone0/type".to_owned(), "cpu-thermal\n"),
        ("sys/class/thermal/thermal_zone0/temp".to_owned(), "50000\n"),
        (format!("{card}/class"), "0x030000\n"),
        (format!("{card}/gpu_busy_percent"), "42\n"),
        (format!("{card}/mem_info_vram_used"), "1073741824\n"),
        (format!("{card}/mem_info_vram_total"), "17163091968\n"),
        (format!("{card}/hwmon/hwmon4/temp1_input"), "61000\n"),
        (format!("{card}/hwmon/hwmon4/temp1_label"), "edge\n"),
        (format!("{card}/hwmon/hwmon4/power1_average"), "187000000\n"),
    ] {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    std::os::unix::fs::symlink("../../../bus/pci/drivers/amdgpu", root.join(card).join("driver")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_chain_the_tickets_the_stake_and_the_shipped_dashboard_agree_with_the_node() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let anvil = Anvil::start().await.unwrap();
    let chain = deploy(&anvil).await;
    let (extra, port, box_port) = (tempfile::tempdir().unwrap(), free_port().unwrap(), free_port().unwrap());
    sensors(extra.path());
    let secret = extra.path().join("secret");
    std::fs::write(&secret, "the boxes know it\n").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let node_more = format!(
        "{}[thermal]\nhardware_root = {:?}\nraise_s = 1\nsample_s = 1\n[remote]\nsecret_file = {secret:?}\n",
        admin(port),
        extra.path()
    );
    let signer_more = format!(
        "bonding_manager = \"{}\"\nrounds_manager = \"{}\"\n",
        chain.address("BondingManager"),
        chain.address("RoundsManager")
    );
    let mut node = Chained::start_with(&anvil, &chain, &node_more, &signer_more).await;

    // A box that transcodes for it, which answers operators too.
    let attached = extra.path().join("box");
    std::fs::create_dir_all(&attached).unwrap();
    let socket = attached.join("node.sock");
    let config = format!(
        "state_dir = {:?}\nstatus_socket = {socket:?}\n{}[transcoder]\nsecret_file = {secret:?}\n\
         [[transcoder.orchestrators]]\naddress = {:?}\n",
        attached.join("state"),
        admin(box_port),
        node.uri.trim_start_matches("https://"),
    );
    std::fs::write(attached.join("node.toml"), config).unwrap();
    let file = attached.join("node.toml");
    let mut boxed = Program::start("millrace-node", &["--config", file.to_str().unwrap()], &attached).unwrap();
    node.until(|status| status.transcoders.len() == 1).await;

    // Two segments, paid.
    let (key, out) = (node.key_file(), node.path("push"));
    let clip = media::bunny();
    let mut push = Command::new(bin("millrace"));
    push.args(["gateway", "push", clip.to_str().unwrap(), "--orch", &node.uri, "--pace", "max", "--json"]);
    push.args(["--key-file", key.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    push.args(["--profiles", "240p", "--max-price", "900000"]);
    let output = push.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let sent = report["tickets_sent"].as_u64().unwrap();
    let status = node.until(|status| status.money.tickets_received == sent && status.segments.ok == 2).await;

    let scrape = Scrape::of(port).await;
    assert_eq!(scrape.value("livepeer_tickets_recv"), sent as f64);
    let credited: f64 = status.money.received_ev_wei.parse().unwrap();
    assert_eq!(scrape.value("livepeer_ticket_value_recv"), credited / 1e9);
    assert_eq!(scrape.value("livepeer_winning_tickets_recv"), status.money.tickets_won as f64);
    assert_eq!(scrape.one("millrace_winners", &[("state", "held")]), status.money.tickets_won as f64);
    let payer = node.gateway.address().to_string();
    assert_eq!(scrape.one("millrace_gateway_tickets_total", &[("sender", &payer)]), sent as f64);
    assert_eq!(scrape.one("livepeer_gateway_ticket_face_value", &[("sender", &payer)]), 4000.0);
    assert_eq!(scrape.value("livepeer_segment_transcoded_total"), 2.0);
    assert_eq!(scrape.value("livepeer_mil_pixels_processed"), f64::from(2 * 60 * 426 * 240) / 1e6);
    assert_eq!(scrape.value("livepeer_transcoding_price"), 900_000.0);
    assert_eq!(scrape.value("livepeer_transcoders_number"), 1.0);
    assert_eq!(scrape.value("millrace_transcoder_segments_total"), 2.0, "the box did both");
    assert_eq!(scrape.labels("livepeer_tickets_recv")["orchestrator"], node.recipient.to_string());
    assert_eq!(scrape.value("millrace_rpc_failures_total"), 0.0);
    assert!(scrape.value("millrace_rpc_requests_total") > 2.0);

    questions(port, &node, anvil.chain_id()).await;
    settings(port, &node).await;

    // The reward, by the one key that may call it now.
    assert!(post(port, "/reward", "").await.1.contains("Error calling reward"), "nobody named the hot account yet");
    chain.set_reward_caller(node.recipient, node.hot).await.unwrap();
    assert_eq!(get(port, "/reward").await, (200, String::new()), "as the stock command line calls it");
    let info = json(port, "/orchestratorInfo").await;
    let (_, round) = get(port, "/currentRound").await;
    assert_eq!(info["Transcoder"]["LastRewardRound"].to_string(), round);
    let (code, text) = post(port, "/initializeRound", "").await;
    assert_eq!((code, text.as_str()), (500, "could not initialize round: the round is initialised already\n"));

    // A payment and a segment that are refused, so that every label shows.
    let token = discover(&node.uri).await.unwrap_err();
    assert!(token.contains("sig check failed"), "{token}");
    let mut garbage =
        Upload::new(&Default::default(), 0, film(), &ladder()).request(&node.uri, Speak::Http1, "/segment");
    garbage.headers_mut().insert("Livepeer-Payment", "%%%".parse().unwrap());
    let refused = crate::node::peer::told(crate::node::peer::open(&node.uri, Speak::Http1, garbage).await).await;
    assert_eq!(refused.0, 402);
    let gateway = node.paying_gateway();
    let needed = gateway::needs(mpegts::VideoCodec::H264, &profile());
    let (asked, offer) = gateway.discover(&needed).await.unwrap().swap_remove(0);
    let session = gateway::Session::new(gateway, asked, offer, "noise".to_owned(), profile().into(), needed);
    let noise = vec![0x5a; 4000];
    let upload = gateway::Upload { hash: keccak256(&noise), bytes: noise.into(), ..node.upload(0, "noise.ts") };
    session.transcode(&upload).await.unwrap_err();
    node.until(|status| status.segments.failed == 1 && !status.money.payment_errors.is_empty()).await;
    std::fs::write(extra.path().join("sys/class/thermal/thermal_zone0/temp"), "90000\n").unwrap();
    node.until(|status| status.alarms.iter().any(|alarm| alarm.id == "CPU-TEMP-HIGH")).await;

    let own = Scrape::of(port).await;
    assert_eq!(own.one("livepeer_payment_recv_errors", &[("error_code", "encoding")]), 1.0);
    assert_eq!(own.value("livepeer_segment_transcode_failed_total"), 1.0);
    assert_eq!(own.one("millrace_temperature_celsius", &[("sensor", "cpu-thermal")]), 90.0);
    boxed.wait_until(PATIENCE, async || read_status(&socket).await.ok().filter(|s| s.segments.ok == 2)).await.unwrap();
    let others = Scrape::of(box_port).await;
    assert_eq!(others.labels("livepeer_segment_transcoded_total")["node_type"], "trcr");
    assert_eq!(others.value("millrace_orchestrator_attached"), 1.0);
    assert_eq!(get(box_port, "/IsOrchestrator").await, (200, "false".into()));
    assert_eq!(post(box_port, "/setMaxSessions", "maxSessions=1").await.0, 400);
    shipped::names_are_exported(&[own, others]);
    node.node.stop().unwrap();
}

/// What the contracts say, asked through the node.
async fn questions(port: u16, node: &Chained, chain_id: u64) {
    let (recipient, ether) = (node.recipient.to_string().to_lowercase(), 10u128.pow(18));
    assert_eq!(get(port, "/EthChainID").await.1, chain_id.to_string());
    assert_eq!(get(port, "/ethAddr").await.1, node.hot.to_string());
    assert_eq!(get(port, "/ethBalance").await.1, ether.to_string());
    assert_eq!(get(port, "/roundInitialized").await.1, "true");
    assert_eq!(get(port, "/minGasPrice").await.1, "1000000");
    let info = json(port, "/orchestratorInfo").await;
    let known = &info["Transcoder"];
    assert_eq!((known["Address"].as_str(), known["ServiceURI"].as_str()), (Some(&*recipient), Some(&*node.uri)));
    assert_eq!((&known["Active"], &known["Status"]), (&true.into(), &"Registered".into()));
    assert_eq!((&info["PriceInfo"], known["DelegatedStake"].to_string()), (&"900000".into(), ether.to_string()));
    let pool = json(port, "/registeredOrchestrators").await;
    assert_eq!((pool.as_array().unwrap().len(), &pool[0]["Address"]), (1, &known["Address"]));
    let parameters = json(port, "/protocolParameters").await;
    assert_eq!((&parameters["RoundLength"], &parameters["UnbondingPeriod"]), (&5000.into(), &7.into()));
    assert_eq!((&parameters["Paused"], parameters["TotalBonded"].to_string()), (&false.into(), ether.to_string()));
    let contracts = json(port, "/contractAddresses").await;
    assert!(contracts["Minter"].as_str().unwrap().starts_with("0x") && contracts["LivepeerToken"].is_string());
    let delegator = json(port, "/delegatorInfo").await;
    assert_eq!((&delegator["DelegateAddress"], &delegator["Status"]), (&known["Address"], &"Bonded".into()));
    assert_eq!(json(port, "/unbondingLocks?withdrawable=true").await, Value::Array(Vec::new()));
    assert_eq!(get(port, "/tokenBalance").await.0, 200);
    let sender = json(port, &format!("/senderInfo?sender={}", node.gateway.address())).await;
    assert_eq!((sender["Deposit"].to_string(), &sender["WithdrawRound"]), (ether.to_string(), &0.into()));
    assert_eq!(sender["Reserve"]["FundsRemaining"].to_string(), ether.to_string());
    assert_eq!(json(port, "/senderInfo").await["Deposit"], 0);
    assert_eq!(get(port, "/senderInfo?sender=me").await.0, 400);
    assert_eq!(json(port, "/ticketBrokerParams").await["UnlockPeriod"], 2);
    let block = ask(port, "GET", "/currentBlock", &format!("Host: 127.0.0.1:{port}\r\n"), "").await.1;
    assert!(!block.is_empty() && block.len() <= 8, "the number's bytes");
    let (code, text) = post(port, "/unbond", "amount=1").await;
    assert!(code == 403 && text.contains("cast send 0x") && text.contains("'unbond(uint256)'"), "{text}");
}

/// Settings that the next offer shows.
async fn settings(port: u16, node: &Chained) {
    let gateway = node.gateway.address();
    let needed = gateway::needs(mpegts::VideoCodec::H264, &profile());
    let offered = async || {
        let terms = node.paying_gateway().discover(&needed).await.unwrap().swap_remove(0).1.terms.unwrap();
        (terms.price.parts(), terms.params.face_value.to_string())
    };
    assert_eq!(offered().await, ((900_000, 1), "4000000000000".to_owned()));
    let price = format!("pricePerUnit=7&pixelsPerUnit=2&broadcasterEthAddr={gateway}");
    let (code, text) = post(port, "/setPriceForBroadcaster", &price).await;
    assert_eq!((code, text), (200, format!("Price per pixel set to 7 wei for 2 pixels for broadcaster {gateway}\n")));
    assert_eq!(
        post(port, "/setMaxFaceValue", "maxfacevalue=3000000000000").await,
        (200, "ticket max face value set".into())
    );
    assert_eq!(offered().await, ((7, 2), "3000000000000".to_owned()));
    let prices = &json(port, "/status").await["BroadcasterPrices"];
    assert_eq!((&prices[gateway.to_string().to_lowercase()], &prices["default"]), (&"7/2".into(), &"900000".into()));
    for bad in [
        "pricePerUnit=-1&pixelsPerUnit=1&broadcasterEthAddr=default",
        "pricePerUnit=1&pixelsPerUnit=0&broadcasterEthAddr=default",
        "pricePerUnit=1&pixelsPerUnit=1&broadcasterEthAddr=somebody",
        "pricePerUnit=1&pixelsPerUnit=1&currency=USD&broadcasterEthAddr=default",
    ] {
        assert_eq!(post(port, "/setPriceForBroadcaster", bad).await.0, 400, "{bad}");
    }
    assert_eq!(offered().await.0, (7, 2));
    assert_eq!(post(port, "/setMaxGasPrice", "amount=5000000000").await.0, 200);
    assert_eq!(get(port, "/maxGasPrice").await.1, "5000000000");
    assert_eq!(Scrape::of(port).await.value("livepeer_max_gas_price"), 5.0);
    assert_eq!(post(port, "/setMinGasPrice", "minGasPrice=5000000001").await.0, 400);
    assert_eq!(post(port, "/setMinGasPrice", "minGasPrice=2000000").await.0, 200);
    assert_eq!(get(port, "/minGasPrice").await.1, "2000000");
    assert_eq!(post(port, "/setMaxGasPrice", "amount=cheap").await.0, 400);
}
