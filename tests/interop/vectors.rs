//! Captures what stock nodes say, for `tests/vectors/interop.json`.
use std::time::Duration;

use anyhow::{Context as _, Result};
use livepeer::address::keccak256;
use livepeer::wire::net;
use millrace_tests::cluster::free_port;
use prost::Message as _;
use serde_json::{Value, json};

use crate::Bench;
use crate::cases::{attached, fresh, secret_file};
use crate::chained::{self, Account, Chained, TICKET_EV_WEI, ether};
use crate::ours::{Ours, Place};
use crate::push;
use crate::report::Row;
use crate::rtmp;
use crate::source::Source;
use crate::tap::{Exchange, Tap};

const GET_ORCHESTRATOR: &str = "/net.Orchestrator/GetOrchestrator";
const END_SESSION: &str = "/net.Orchestrator/EndTranscodingSession";
const REGISTER: &str = "/net.Transcoder/RegisterTranscoder";
/// How long a stock gateway may take to end a session whose stream is over.
const ENDING: Duration = Duration::from_secs(20);

/// Runs each pair of peers with a tap between them and writes `interop.json`.
pub(crate) async fn capture(bench: &Bench) -> Result<()> {
    let mut vectors = serde_json::Map::new();
    gateway_to_ours(bench, &mut vectors).await?;
    gateway_to_stock(bench, &mut vectors).await?;
    transcoder_to_ours(bench, &mut vectors).await?;
    ours_to_stock(bench, &mut vectors).await?;
    let file = json!({
        "origin": format!("captured on loopback from go-livepeer {} by `just interop capture`; keys and secrets were made for one run", bench.livepeer.version()),
        "vectors": vectors,
    });
    let path = bench.dir.join("interop.json");
    std::fs::write(&path, serde_json::to_string_pretty(&file)? + "\n")?;
    crate::say(&format!("captured {}", path.display()));
    Ok(())
}

type Vectors = serde_json::Map<String, Value>;

fn first(tap: &Tap, path: &str) -> Result<Exchange> {
    tap.exchanges(path).into_iter().next().with_context(|| format!("nothing went to {path}"))
}

fn request(exchange: &Exchange) -> Result<String> {
    Ok(hex::encode(Exchange::messages(&exchange.request).first().context("an empty request")?))
}

fn response(exchange: &Exchange) -> Result<String> {
    Ok(hex::encode(Exchange::messages(&exchange.response).first().context("an empty answer")?))
}

/// A gateway asks without naming a job too: when it starts, and every so often after that.
fn asked(tap: &Tap, for_job: bool) -> Result<Exchange> {
    let mut all = tap.exchanges(GET_ORCHESTRATOR).into_iter();
    let found = all.find(|exchange| {
        let question = Exchange::messages(&exchange.request).into_iter().next();
        let question = question.and_then(|bytes| net::OrchestratorRequest::decode(bytes.as_slice()).ok());
        question.is_some_and(|question| question.capabilities.is_some() == for_job)
    });
    found.with_context(|| format!("no GetOrchestrator (for a job: {for_job})"))
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let began = std::time::Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        anyhow::ensure!(began.elapsed() < ENDING, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// On-chain: request, credentials, payment, end of a session.
async fn gateway_to_ours(bench: &Bench, vectors: &mut Vectors) -> Result<()> {
    let dir = fresh(bench, "capture-gateway")?;
    let anvil = chained::anvil(&dir).await?;
    let chained = Chained::deploy(&anvil, &dir).await?;
    let behind = format!("127.0.0.1:{}", free_port()?);
    let (address, tap) = Tap::before(&behind).await?;
    let place = Place { listen: format!("http://{behind}"), uri: format!("https://{address}") };
    let mut ours = chained.ours(&place).await?;
    let stock = chained.stock(&chained.gateway);
    let gateway = bench.livepeer.gateway(&dir, &["-orchAddr", &place.uri], Some(&stock)).await?;
    let source = Source::plain();
    for (seq, cut) in source.segments(2)?.iter().enumerate() {
        push::put(&gateway.address, "stream", seq, &source, cut).await?;
    }
    let segments = tap.exchanges("/segment");
    let sent = segments.iter().find(|exchange| exchange.header("livepeer-payment").len() > 400);
    let sent = sent.context("no segment came with tickets")?;
    let sender = chained.gateway.address.to_string();
    vectors.insert(
        "get_orchestrator_request".into(),
        json!({
            "from": "gateway, on-chain, HTTP push", "gateway": sender, "protobuf": request(&asked(&tap, true)?)?,
        }),
    );
    vectors.insert(
        "get_orchestrator_request_poll".into(),
        json!({
            "from": "gateway, on-chain, when it starts", "gateway": sender, "protobuf": request(&asked(&tap, false)?)?,
        }),
    );
    let body = sent.request.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone();
    vectors.insert("seg_data".into(), json!({
        "from": "gateway, on-chain, HTTP push", "gateway": sender, "header_livepeer_segment": sent.header("livepeer-segment"),
        "content_type": sent.header("content-type"), "keccak256_of_body": hex::encode(keccak256(&body)),
    }));
    vectors.insert(
        "payment".into(),
        json!({
            "from": "gateway, on-chain, HTTP push", "gateway": sender, "recipient": ours.recipient.to_string(),
            "header_livepeer_payment": sent.header("livepeer-payment"),
        }),
    );

    let mut row = Row::new("capture", "rtmp");
    let before = tap.exchanges("/segment").len();
    rtmp::stream(&gateway, "rtmp", &source, 8, &dir.join("out"), &mut row).await?;
    let live = tap.exchanges("/segment").into_iter().nth(before).context("no RTMP segment")?;
    vectors.insert("seg_data_rtmp".into(), json!({
        "from": "gateway, on-chain, RTMP", "gateway": sender, "header_livepeer_segment": live.header("livepeer-segment"),
        "content_type": live.header("content-type"),
        "keccak256_of_body": hex::encode(keccak256(&live.request.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone())),
    }));
    let ended = until("EndTranscodingSession", || tap.exchanges(END_SESSION).into_iter().next()).await?;
    vectors.insert(
        "end_transcoding_session".into(),
        json!({
            "from": "gateway, at the end of an RTMP stream", "protobuf": request(&ended)?,
        }),
    );
    ours.node.program.stop()?;
    ours.signer.stop()?;
    anvil.stop().await
}

/// On-chain: a stock orchestrator's offer and result.
async fn gateway_to_stock(bench: &Bench, vectors: &mut Vectors) -> Result<()> {
    let dir = fresh(bench, "capture-orchestrator")?;
    let anvil = chained::anvil(&dir).await?;
    let chained = Chained::deploy(&anvil, &dir).await?;
    let behind = format!("127.0.0.1:{}", free_port()?);
    let (address, tap) = Tap::before(&behind).await?;
    let uri = format!("https://{address}");
    let account = Account::make(&dir, "orchestrator")?;
    chained.chain.activate_orchestrator(account.address, ether(10)).await?;
    chained.chain.set_service_uri(account.address, &uri).await?;
    chained.tick().await?;
    let (ev, plain) = (TICKET_EV_WEI.to_string(), format!("http://{behind}"));
    let more = ["-serviceAddr", &address, "-httpAddr", &plain, "-pricePerUnit", "300000", "-ticketEV", &ev];
    let mut orchestrator = bench.livepeer.orchestrator(&dir, true, &more, Some(&chained.stock(&account))).await?;
    let stock = chained.stock(&chained.gateway);
    let gateway = bench.livepeer.gateway(&dir, &["-orchAddr", &uri], Some(&stock)).await?;
    let source = Source::plain();
    for (seq, cut) in source.segments(1)?.iter().enumerate() {
        push::put(&gateway.address, "stream", seq, &source, cut).await?;
    }
    orchestrator.still_runs()?;
    for (name, job) in [("orchestrator_info", true), ("orchestrator_info_poll", false)] {
        let asked = asked(&tap, job)?;
        vectors.insert(name.into(), json!({
            "from": "orchestrator with its own software transcoder, on-chain", "orchestrator": account.address.to_string(),
            "request": request(&asked)?, "protobuf": response(&asked)?,
        }));
    }
    let result = first(&tap, "/segment")?.response.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone();
    let decoded = net::TranscodeResult::decode(result.as_slice())?;
    let Some(net::transcode_result::Result::Data(data)) = decoded.result else {
        anyhow::bail!("the stock orchestrator failed")
    };
    let mut hashes = Vec::new();
    for segment in data.segments {
        let path = segment.url.strip_prefix(&uri).context("a rendition elsewhere")?;
        let rendition = first(&tap, path)?.response.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone();
        hashes.push(hex::encode(keccak256(&rendition)));
    }
    vectors.insert("transcode_result".into(), json!({
        "from": "orchestrator with its own software transcoder, on-chain", "orchestrator": account.address.to_string(),
        "protobuf": hex::encode(result), "keccak256_of_renditions": hashes,
    }));
    anvil.stop().await
}

/// A stock transcoder registers and posts results.
async fn transcoder_to_ours(bench: &Bench, vectors: &mut Vectors) -> Result<()> {
    let dir = fresh(bench, "capture-transcoder")?;
    let behind = format!("127.0.0.1:{}", free_port()?);
    let (address, tap) = Tap::before(&behind).await?;
    let place = Place { listen: format!("http://{behind}"), uri: format!("https://{address}") };
    let secret = secret_file(&dir)?;
    let node = Ours::offchain(&dir, "node", &place, &format!("[remote]\nsecret_file = {secret:?}\n")).await?;
    let _transcoder = bench.livepeer.transcoder(&dir, &address).await?;
    let registered =
        until("RegisterTranscoder", || first(&tap, REGISTER).ok().filter(|it| request(it).is_ok())).await?;
    let gateway = bench.livepeer.gateway(&dir, &["-orchAddr", &node.uri], None).await?;
    let source = Source::plain();
    for (seq, cut) in source.segments(4)?.iter().enumerate() {
        push::put(&gateway.address, "stream", seq, &source, cut).await?;
    }
    vectors.insert("register_transcoder".into(), json!({
        "from": "software transcoder", "protobuf": request(&registered)?, "user_agent": registered.header("user-agent"),
    }));
    let posted = first(&tap, "/transcodeResults")?;
    let body = posted.request.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone();
    let first_part_head = String::from_utf8_lossy(&body[..body.len().min(600)]).into_owned();
    let first_part_head = first_part_head.split("\r\n\r\n").next().unwrap_or_default().to_owned();
    let headers: serde_json::Map<String, Value> = ["authorization", "credentials", "taskid", "pixels", "content-type"]
        .into_iter()
        .map(|name| (name.to_owned(), posted.header(name).into()))
        .collect();
    vectors.insert(
        "transcode_results_post".into(),
        json!({
            "from": "software transcoder", "headers": headers, "first_part": first_part_head,
        }),
    );
    Ok(())
}

/// A stock orchestrator gives work to our transcoder, and ends a session.
async fn ours_to_stock(bench: &Bench, vectors: &mut Vectors) -> Result<()> {
    let dir = fresh(bench, "capture-notify")?;
    let behind = format!("127.0.0.1:{}", free_port()?);
    let (address, tap) = Tap::before(&behind).await?;
    let plain = format!("http://{behind}");
    let mut stock =
        bench.livepeer.orchestrator(&dir, false, &["-serviceAddr", &address, "-httpAddr", &plain], None).await?;
    let secret = secret_file(&dir)?;
    let toml =
        format!("[transcoder]\nsecret_file = {secret:?}\n[[transcoder.orchestrators]]\naddress = \"{address}\"\n");
    let _ours = Ours::start(&dir, "transcoder", &Place::free()?, &toml).await?;
    attached(&mut stock).await?;
    let uri = format!("https://{address}");
    let gateway = bench.livepeer.gateway(&dir, &["-orchAddr", &uri], None).await?;
    let mut row = Row::new("capture", "rtmp");
    rtmp::stream(&gateway, "rtmp", &Source::plain(), 8, &dir.join("out"), &mut row).await?;
    let stream = first(&tap, REGISTER)?;
    let teardown = until("a teardown", || {
        Exchange::messages(&stream.response)
            .into_iter()
            .find(|message| net::NotifySegment::decode(message.as_slice()).is_ok_and(|notice| notice.url.is_empty()))
    })
    .await?;
    vectors.insert(
        "notify_segment".into(),
        json!({
            "from": "orchestrator, off-chain, for an RTMP stream", "protobuf": response(&stream)?,
        }),
    );
    vectors.insert(
        "notify_segment_teardown".into(),
        json!({
            "from": "orchestrator, off-chain, when its gateway ended the session", "protobuf": hex::encode(teardown),
        }),
    );
    let info = asked(&tap, true)?;
    vectors.insert("orchestrator_info_offchain".into(), json!({
        "from": "orchestrator, off-chain, with our transcoder attached", "request": request(&info)?, "protobuf": response(&info)?,
    }));
    Ok(())
}
