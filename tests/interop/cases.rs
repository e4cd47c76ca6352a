//! The pairs of peers, each from nothing: start, send, look, ask both sides what they counted.
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use livepeer::units::Wei;
use serde_json::json;

use crate::Bench;
use crate::chained::{self, Chained};
use crate::ours::{Ours, Place};
use crate::push;
use crate::report::{Report, Row};
use crate::rtmp;
use crate::source::Source;
use crate::stock::{SECRET, Stock};
use crate::web;
use crate::webhook::Webhook;

/// How long settling on the chain may take.
const SETTLING: Duration = Duration::from_secs(120);
/// How long a transcoder may take to attach.
const ATTACHING: Duration = Duration::from_secs(60);
/// How long a stock gateway may go on with a stream whose end it has seen.
const WIND_DOWN: Duration = Duration::from_secs(5);
/// Segments of the stream that must not lose one: ten minutes.
const LONG: usize = 300;

/// An empty directory for a case.
pub(crate) fn fresh(bench: &Bench, name: &str) -> Result<PathBuf> {
    let dir = bench.dir.join(name);
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).context("old results"),
        _ => std::fs::create_dir_all(&dir)?,
    }
    Ok(dir)
}

/// What both sides say once a stream is through.
async fn close(row: &mut Row, gateway: &mut Stock) -> Result<()> {
    gateway.still_runs()?;
    row.stock_errors.extend(gateway.errors()?);
    let transcoded = gateway.metric("segment_transcoded_total").await?;
    row.count("segments the stock gateway counts as transcoded", transcoded);
    Ok(())
}

async fn node_counts(row: &mut Row, node: &Ours, all_taken: bool) -> Result<()> {
    let status = node.status().await?;
    row.count("segments our node transcoded", status.segments.ok);
    row.count("segments our node failed", status.segments.failed);
    row.count("pixels our node billed", status.segments.pixels);
    row.count("pixels in the renditions", row.pixels);
    if all_taken && status.segments.pixels != row.pixels {
        row.fault("pixels billed and pixels in the renditions differ");
    }
    Ok(())
}

/// (a) off-chain: HTTP push of every source.
pub(crate) async fn gateway(bench: &Bench, report: &mut Report) -> Result<()> {
    for source in [Source::plain(), Source::hevc(), Source::portrait(), Source::silent()] {
        let dir = fresh(bench, &format!("gateway-push-{}", source.name))?;
        let node = Ours::offchain(&dir, "node", &Place::free()?, "").await?;
        let mut gateway = bench.livepeer.gateway(&dir, &["-orchAddr", &node.uri], None).await?;
        let mut row = Row::new("stock gateway, push, off-chain", source.name);
        push::stream(&gateway.address, "stream", &source, bench.segments, &dir.join("out"), &mut row).await?;
        close(&mut row, &mut gateway).await?;
        node_counts(&mut row, &node, true).await?;
        report.add(row);
    }
    Ok(())
}

/// (a) off-chain: RTMP of what RTMP and the stock gateway can carry.
pub(crate) async fn rtmp(bench: &Bench, report: &mut Report) -> Result<()> {
    // The stock segmenter takes no RTMP stream without sound.
    for source in [Source::plain(), Source::portrait()] {
        let dir = fresh(bench, &format!("gateway-rtmp-{}", source.name))?;
        let node = Ours::offchain(&dir, "node", &Place::free()?, "").await?;
        let mut gateway = bench.livepeer.gateway(&dir, &["-orchAddr", &node.uri], None).await?;
        let mut row = Row::new("stock gateway, RTMP, off-chain", source.name);
        let seconds = 2 * u64::try_from(bench.segments)?;
        rtmp::stream(&gateway, "stream", &source, seconds, &dir.join("out"), &mut row).await?;
        close(&mut row, &mut gateway).await?;
        node_counts(&mut row, &node, false).await?;
        report.add(row);
    }
    Ok(())
}

/// (a) on-chain: the gateway pays; winners are redeemed. It is told where we are, or finds us in the registry.
pub(crate) async fn onchain(bench: &Bench, report: &mut Report, discovery: bool) -> Result<()> {
    let dir = fresh(bench, if discovery { "discovery" } else { "onchain" })?;
    let anvil = chained::anvil(&dir).await?;
    let chained = Chained::deploy(&anvil, &dir).await?;
    let mut ours = chained.ours(&Place::free()?).await?;
    let uri = ours.node.uri.clone();
    let told = ["-orchAddr", uri.as_str()];
    let more: &[&str] = if discovery { &[] } else { &told };
    let mut gateway = bench.livepeer.gateway(&dir, more, Some(&chained.stock(&chained.gateway))).await?;
    let case = if discovery { "stock gateway, on-chain, registry" } else { "stock gateway, push, on-chain" };
    let mut row = Row::new(case, "h264-720p");
    push::stream(&gateway.address, "stream", &Source::plain(), bench.segments, &dir.join("out"), &mut row).await?;
    close(&mut row, &mut gateway).await?;
    node_counts(&mut row, &ours.node, true).await?;
    let mut rtmp_row = Row::new("stock gateway, RTMP, on-chain", "h264-720p");
    if !discovery {
        let (seconds, out) = (2 * u64::try_from(bench.segments)?, dir.join("out"));
        rtmp::stream(&gateway, "rtmp", &Source::plain(), seconds, &out, &mut rtmp_row).await?;
        close(&mut rtmp_row, &mut gateway).await?;
    }

    // The stream's last payment is on its way; then the offers' life ends, and the winners' time comes.
    tokio::time::sleep(WIND_DOWN).await;
    anvil.mine(livepeer::params::LIFETIME_BLOCKS + 2).await?;
    let settled = ours.node.until(SETTLING, |status| {
        status.money.tickets_pending == 0 && status.money.tickets_redeemed == status.money.tickets_won
    });
    let money = settled.await?.money;
    let sent = gateway.metric("tickets_sent").await?;
    row.count("tickets sent, says the stock gateway", sent);
    row.count("tickets received", money.tickets_received);
    row.count("tickets won", money.tickets_won);
    row.count("tickets redeemed", money.tickets_redeemed);
    row.count("wei paid, says the ledger", &money.paid_wei);
    let fees = chained.chain.pending_fees(ours.recipient).await?;
    row.count("wei of fees, says the chain", fees);
    if Wei::from_dec_str(&money.paid_wei).ok() != Some(fees) {
        row.fault("ledger and chain disagree");
    }
    if money.tickets_received == 0 || money.tickets_received.to_string() != sent.to_string() {
        row.fault("tickets sent and tickets received differ");
    }
    if money.tickets_won == 0 {
        row.fault("no ticket won");
    }
    if !money.payment_errors.is_empty() {
        row.fault(format!("payments refused: {:?}", money.payment_errors));
    }
    report.add(row);
    if !discovery {
        report.add(rtmp_row);
    }
    ours.node.program.stop()?;
    ours.signer.stop()?;
    anvil.stop().await
}

/// (d) local verification: the gateway downloads, decodes and counts every rendition, and on-chain checks the signature.
pub(crate) async fn verify(bench: &Bench, report: &mut Report) -> Result<()> {
    let dir = fresh(bench, "verify")?;
    let node = Ours::offchain(&dir, "node", &Place::free()?, "").await?;
    let mut gateway = bench.livepeer.gateway(&dir, &["-orchAddr", &node.uri, "-localVerify=true"], None).await?;
    for source in [Source::plain(), Source::portrait(), Source::hevc(), Source::silent()] {
        let mut row = Row::new("local verification, off-chain", source.name);
        let before = gateway.said("Successfully validated segment")?;
        push::stream(&gateway.address, source.name, &source, bench.segments, &dir.join("out"), &mut row).await?;
        row.count("segments the gateway says it validated", gateway.said("Successfully validated segment")? - before);
        close(&mut row, &mut gateway).await?;
        report.add(row);
    }
    Ok(())
}

/// (d) fast verification: one trusted stock orchestrator, two untrusted of ours; hashes are compared by the gateway.
pub(crate) async fn fast_verify(bench: &Bench, report: &mut Report) -> Result<()> {
    for source in [Source::plain(), Source::portrait(), Source::silent()] {
        let dir = fresh(bench, &format!("fast-verify-{}", source.name))?;
        let one = Ours::offchain(&dir, "one", &Place::free()?, "").await?;
        let two = Ours::offchain(&dir, "two", &Place::free()?, "").await?;
        let mut stock = bench.livepeer.orchestrator(&dir, true, &[], None).await?;
        let orchestrators = Webhook::start(&json!([
            { "address": format!("https://{}", stock.address), "score": 1.0 },
            { "address": one.uri, "score": 0.0 },
            { "address": two.uri, "score": 0.0 },
        ]))
        .await?;
        // Every segment is compared: with probability 1 - 1/frequency it is not.
        let streams = Webhook::start(&json!({ "manifestID": "stream", "verificationFreq": 1 })).await?;
        let more = ["-orchWebhookUrl", &orchestrators.url, "-authWebhookUrl", &streams.url, "-localVerify=true"];
        let mut gateway = bench.livepeer.gateway(&dir, &more, None).await?;
        let mut row = Row::new("fast verification, off-chain", source.name);
        push::stream(&gateway.address, "stream", &source, bench.segments, &dir.join("out"), &mut row).await?;
        close(&mut row, &mut gateway).await?;
        let count = |text: &str| gateway.said(text);
        let (hashes, videos) = (count("are equal=true saveenable")?, count("Video comparison")?);
        let unequal = count("are equal=false")?;
        row.count("comparisons that agreed (hashes and videos)", hashes);
        row.count("of them of videos", videos);
        row.count("comparisons that disagreed", unequal);
        if hashes == 0 || videos == 0 || unequal > 0 {
            row.fault("not every comparison was made and agreed");
        }
        for (name, node) in [("one", &one), ("two", &two)] {
            row.count(&format!("segments node {name} transcoded"), node.status().await?.segments.ok);
        }
        stock.still_runs()?;
        row.stock_errors.extend(stock.errors()?);
        report.add(row);
    }
    Ok(())
}

/// (a) ten minutes without a lost segment.
pub(crate) async fn long(bench: &Bench, report: &mut Report) -> Result<()> {
    let dir = fresh(bench, "long")?;
    let anvil = chained::anvil(&dir).await?;
    let chained = Chained::deploy(&anvil, &dir).await?;
    let mut ours = chained.ours(&Place::free()?).await?;
    let uri = ours.node.uri.clone();
    let mut gateway =
        bench.livepeer.gateway(&dir, &["-orchAddr", &uri], Some(&chained.stock(&chained.gateway))).await?;
    let mut row = Row::new("stock gateway, push, on-chain, long", "h264-720p");
    push::stream(&gateway.address, "stream", &Source::plain(), LONG, &dir.join("out"), &mut row).await?;
    close(&mut row, &mut gateway).await?;
    node_counts(&mut row, &ours.node, true).await?;
    let money = ours.node.status().await?.money;
    row.count("tickets sent, says the stock gateway", gateway.metric("tickets_sent").await?);
    row.count("tickets received", money.tickets_received);
    row.count("tickets won", money.tickets_won);
    row.count("payments refused", format!("{:?}", money.payment_errors));
    report.add(row);
    ours.node.program.stop()?;
    ours.signer.stop()?;
    anvil.stop().await
}

/// (b) our box as the transcoder of a stock orchestrator, a stock gateway before it that verifies.
pub(crate) async fn our_transcoder(bench: &Bench, report: &mut Report) -> Result<()> {
    for source in [Source::plain(), Source::hevc(), Source::portrait(), Source::silent()] {
        let dir = fresh(bench, &format!("transcoder-{}", source.name))?;
        let mut stock = bench.livepeer.orchestrator(&dir, false, &[], None).await?;
        let secret = secret_file(&dir)?;
        let toml = format!(
            "[transcoder]\nsecret_file = {secret:?}\n[[transcoder.orchestrators]]\naddress = \"{}\"\n",
            stock.address
        );
        let ours = Ours::start(&dir, "transcoder", &Place::free()?, &toml).await?;
        attached(&mut stock).await?;
        let uri = format!("https://{}", stock.address);
        let mut gateway = bench.livepeer.gateway(&dir, &["-orchAddr", &uri, "-localVerify=true"], None).await?;
        let mut row = Row::new("our transcoder, stock orchestrator", source.name);
        let out = dir.join("out");
        push::stream(&gateway.address, "stream", &source, bench.segments, &out, &mut row).await?;
        close(&mut row, &mut gateway).await?;
        row.count("segments the gateway says it validated", gateway.said("Successfully validated segment")?);
        stock.still_runs()?;
        row.stock_errors.extend(stock.errors()?);
        node_counts(&mut row, &ours, true).await?;
        report.add(row);
    }
    Ok(())
}

/// (c) a stock transcoder under our orchestrator, which has workers of its own too: streams until each has had some.
pub(crate) async fn stock_transcoder(bench: &Bench, report: &mut Report) -> Result<()> {
    for source in [Source::plain(), Source::portrait(), Source::silent()] {
        let dir = fresh(bench, &format!("orchestrator-{}", source.name))?;
        let secret = secret_file(&dir)?;
        let place = Place::free()?;
        let node = Ours::offchain(&dir, "node", &place, &format!("[remote]\nsecret_file = {secret:?}\n")).await?;
        let mut stock = bench.livepeer.transcoder(&dir, &place.listen).await?;
        let mut gateway = bench.livepeer.gateway(&dir, &["-orchAddr", &node.uri, "-localVerify=true"], None).await?;
        let mut row = Row::new("stock transcoder, our orchestrator", source.name);
        let out = dir.join("out");
        for manifest in ["one", "two"] {
            push::stream(&gateway.address, manifest, &source, bench.segments, &out, &mut row).await?;
        }
        close(&mut row, &mut gateway).await?;
        let taken = stock.said("Transcoding done results sent for")?;
        row.count("segments the stock transcoder transcoded", taken);
        if taken == 0 {
            row.fault("the stock transcoder had nothing to do");
        }
        stock.still_runs()?;
        row.stock_errors.extend(stock.errors()?);
        node_counts(&mut row, &node, true).await?;
        report.add(row);
    }
    Ok(())
}

/// What remote transcoders must know, where our programs read it.
pub(crate) fn secret_file(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("secret");
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
    writeln!(file, "{SECRET}")?;
    Ok(path)
}

/// Waits until a stock orchestrator knows a transcoder.
pub(crate) async fn attached(stock: &mut Stock) -> Result<()> {
    let url = format!("http://{}/status", stock.admin);
    let known = async || {
        let status = web::get(&url).await.ok()?;
        let status: serde_json::Value = serde_json::from_slice(&status).ok()?;
        (status["RegisteredTranscodersNumber"].as_u64()? > 0).then_some(())
    };
    stock.program.wait_until(ATTACHING, known).await
}
