//! `just demo`: the main job on one machine with real parts, and a table of what happened.
//!
//! Broker, EVM node, contracts, signer, node with jailed workers, fleet agent, controller and a paying gateway are the real
//! programs. Each part is checked from outside: money on the chain, media with ffprobe, health at the controller.
#![expect(clippy::print_stdout, reason = "a program people read")]

mod evidence;
mod stage;
mod summary;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use livepeer::units::Wei;
use millrace_tests::anvil::Anvil;
use tokio::signal::unix::{SignalKind, signal};

use crate::evidence::{Renditions, Transfers};
use crate::stage::{Accounts, Stage};
use crate::summary::Summary;

/// Runs the main job on this machine with real parts and shows that each happened.
#[derive(Debug, Parser)]
#[command(name = "just demo", version)]
struct Args {
    /// Leave everything up at the end and print how to look around; Ctrl-C stops it.
    #[arg(long)]
    keep: bool,
    /// Seconds of video to send (a short clip is looped with continuous timestamps).
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(10..=3600))]
    seconds: u32,
    /// Where everything goes. What an earlier run left there is removed.
    #[arg(long, default_value = "target/demo")]
    dir: PathBuf,
}

/// How long the chain part may take after the push: blocks, redemptions, their confirmation, the report of it.
const SETTLING: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> ExitCode {
    service::init_crypto();
    let args = Args::parse();
    match run(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ndemo: {error:#}");
            eprintln!("demo: logs are in {}", args.dir.join("logs").display());
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<()> {
    millrace_tests::cluster::keep_from_terminal();
    let began = Instant::now();
    let dir = stage::fresh_directory(&args.dir)?;
    let (mut stage, anvil) = tokio::select! {
        performed = perform(args, &dir, began) => performed?,
        stopped = stop_asked() => { stopped?; bail!("stopped before the end") }
    };
    if args.keep {
        stage.print_how_to_look_around(&dir, anvil.url());
        stop_asked().await?;
        println!();
    }
    stage.stop()?;
    anvil.stop().await
}

/// Ctrl-C, or the signal that asks a program to end.
async fn stop_asked() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => Ok(interrupt?),
        _ = terminate.recv() => Ok(()),
    }
}

/// The main job, checked; everything is left up.
async fn perform(args: &Args, dir: &Path, began: Instant) -> Result<(Stage, Anvil)> {
    let accounts = Accounts::new();
    let (anvil, url) = stage::start_chain(dir).await?;
    let chain = stage::deploy(&anvil, &accounts).await?;
    let mut stage = Stage::start(dir, &chain, &anvil, &accounts).await?;

    let report = stage.push(args.seconds).await?;
    ensure!(report.failed == 0, "{} of {} segments failed; see logs/push.json", report.failed, report.segments);

    let status = stage.settle(&anvil, SETTLING).await?;
    let transfers = Transfers::read(&anvil, chain.address("TicketBroker"), stage.recipient()).await?;
    let renditions = Renditions::inspect(&dir.join("out"), args.seconds)?;
    let health = stage.health_at_controller(&status, Duration::from_secs(60)).await?;
    stage.everything_still_runs()?;

    let summary = Summary {
        segments: report.segments,
        renditions: renditions.count,
        rtr_p50: report.rtr_p50.context("no real-time ratio was measured")?,
        rtr_p95: report.rtr_p95.context("no real-time ratio was measured")?,
        pixels: renditions.pixels,
        tickets_received: status.money.tickets_received,
        tickets_won: status.money.tickets_won,
        tickets_redeemed: status.money.tickets_redeemed,
        wei_paid_on_chain: transfers.total.to_string(),
        health,
        controller_address: chain.address("Controller").to_string(),
        rpc_url: url,
        recipient: stage.recipient().to_string(),
        redemption_txs: transfers.transactions.clone(),
    };
    verdict(&summary, &report, &status, &transfers, &renditions)?;
    summary.write(&dir.join("summary.json"))?;
    summary.print(dir, began.elapsed());

    drop(chain);
    Ok((stage, anvil))
}

/// Every part happened, and what the parts say of each other agrees.
fn verdict(
    summary: &Summary,
    report: &gateway::PushReport,
    status: &service::status::NodeStatus,
    transfers: &Transfers,
    renditions: &Renditions,
) -> Result<()> {
    ensure!(summary.segments > 0, "no segment was sent");
    ensure!(
        renditions.segments_each == summary.segments,
        "renditions have {} segments each, {} were sent",
        renditions.segments_each,
        summary.segments
    );
    ensure!(status.segments.ok >= summary.segments, "the node counted {} segments", status.segments.ok);
    ensure!(
        report.pixels.0 == renditions.pixels,
        "{} pixels were billed, {} are in the files",
        report.pixels.0,
        renditions.pixels
    );
    ensure!(summary.tickets_received > 0, "no ticket was received");
    ensure!(
        report.tickets_sent == summary.tickets_received,
        "{} tickets were sent, {} received",
        report.tickets_sent,
        summary.tickets_received
    );
    ensure!(summary.tickets_won > 0, "no ticket won: that happens by chance about once in a million runs");
    ensure!(
        summary.tickets_redeemed == summary.tickets_won,
        "{} tickets won, {} were redeemed",
        summary.tickets_won,
        summary.tickets_redeemed
    );
    let counted = u64::try_from(transfers.transactions.len()).context("a count")?;
    ensure!(
        counted == summary.tickets_redeemed,
        "{counted} payments on chain, {} redemptions in the ledger",
        summary.tickets_redeemed
    );
    let paid = Wei::from_dec_str(&status.money.paid_wei).context("the node's own figure of what was paid")?;
    ensure!(
        !paid.is_zero() && paid == transfers.total,
        "the ledger says {paid} wei were paid, the chain {}",
        transfers.total
    );
    Ok(())
}
