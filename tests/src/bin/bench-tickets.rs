//! `just bench tickets`: what a ticket costs to check, and a winner to keep.
//!
//! Checking is held against the one thing it cannot do without, libsecp256k1's bare recovery, on the same
//! signatures, in turns, so that a busy machine is as busy for both. Ratios are medians of the turns.
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use ledger::{Ledger, OpenOptions};
use livepeer::signature::{Signature, personal_hash};
use livepeer::units::WinProb;
use millrace_tests::powercut::tickets::Offer;
use primitive_types::U256;
use secp256k1::Message;
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use serde::Serialize;

/// Measure ticket checks and durable winners.
#[derive(Debug, Parser)]
struct Arguments {
    /// Turns of each measurement; the median counts.
    #[arg(long, default_value_t = 15)]
    turns: usize,
    /// Tickets per turn.
    #[arg(long, default_value_t = 600)]
    tickets: u32,
    /// How long each measurement of durable winners runs, in seconds.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Where the ledger is made; by default beside the results.
    #[arg(long)]
    ledger_dir: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Figure {
    measure: &'static str,
    value: f64,
    unit: &'static str,
    against: &'static str,
    command: String,
}

const RECOVERY: &str = "libsecp256k1 recover_ecdsa on the same signatures, one core";

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut figures = Vec::new();
    let mut figure = |measure, value, unit, against| {
        let command = "just bench tickets".to_owned();
        figures.push(Figure { measure, value, unit, against, command });
    };

    let checks = measure_checks(&arguments)?;
    figure("recoveries_per_second", checks.recoveries, "1/s", "");
    figure("tickets_checked_per_second", checks.tickets, "1/s", RECOVERY);
    figure("tickets_checked_alone_per_second", checks.alone, "1/s", RECOVERY);
    figure("ticket_check_ratio_recovery", checks.ratio, "ratio", RECOVERY);
    figure("ticket_check_alone_ratio_recovery", checks.ratio_alone, "ratio", RECOVERY);

    let out = PathBuf::from("target/bench");
    std::fs::create_dir_all(&out)?;
    let dir = arguments.ledger_dir.clone().unwrap_or_else(|| out.clone());
    std::fs::create_dir_all(&dir)?;
    let single = durable_winners(&dir, 1, Duration::from_secs(arguments.seconds))?;
    let grouped = durable_winners(&dir, 16, Duration::from_secs(arguments.seconds))?;
    figure("durable_winners_per_second", single, "1/s", "one payment at a time, one winner each");
    figure("durable_winners_per_second_group_commit", grouped, "1/s", "16 payments at a time, one winner each");
    let paying = durable_payments(&dir, Duration::from_secs(arguments.seconds))?;
    figure("payments_without_winner_per_second", paying, "1/s", "one payment at a time, one ticket each");

    let mut stdout = std::io::stdout().lock();
    for figure in &figures {
        writeln!(stdout, "{:<42} {:>12.3} {:<6} {}", figure.measure, figure.value, figure.unit, figure.against)?;
    }
    std::fs::write(out.join("tickets.json"), serde_json::to_vec_pretty(&figures)?)?;
    Ok(())
}

struct Checks {
    recoveries: f64,
    tickets: f64,
    alone: f64,
    ratio: f64,
    ratio_alone: f64,
}

/// Three contenders in turns: bare recovery, a payment of many tickets (the offer is opened once), payments of
/// one ticket each (the offer is opened for each).
fn measure_checks(arguments: &Arguments) -> anyhow::Result<Checks> {
    let offer = Offer::new(1, 1, WinProb(U256::MAX / 1_000_000));
    let tickets: Vec<(u32, Vec<u8>)> = (0..arguments.tickets).map(|nonce| offer.ticket(nonce)).collect();
    let mut prepared = Vec::with_capacity(tickets.len());
    for (nonce, bytes) in &tickets {
        let ticket = *offer.batch().check(*nonce, bytes)?.ticket();
        let signature = Signature::from_bytes(bytes)?;
        let (r, s, odd) = signature.parts();
        let id = if odd { RecoveryId::One } else { RecoveryId::Zero };
        let recoverable = RecoverableSignature::from_compact(&[r, s].concat(), id)?;
        prepared.push((Message::from_digest(personal_hash(ticket.hash()).0), recoverable));
    }
    let count = f64::from(arguments.tickets);
    let (mut bare, mut many, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..arguments.turns + 1 {
        let recovery = timed(|| {
            for (message, signature) in &prepared {
                std::hint::black_box(secp256k1::SECP256K1.recover_ecdsa(*message, signature)?);
            }
            anyhow::Ok(())
        })?;
        let payment = timed(|| {
            let batch = offer.open()?;
            for (nonce, bytes) in &tickets {
                std::hint::black_box(batch.check(*nonce, bytes)?.draw());
            }
            anyhow::Ok(())
        })?;
        let single = timed(|| {
            for (nonce, bytes) in &tickets {
                std::hint::black_box(offer.open()?.check(*nonce, bytes)?.draw());
            }
            anyhow::Ok(())
        })?;
        // The first turn warms caches and clocks.
        if turn > 0 {
            bare.push(count / recovery);
            many.push(count / payment);
            alone.push(count / single);
        }
    }
    let ratio = |ours: &[f64]| median(ours.iter().zip(&bare).map(|(ours, bare)| ours / bare).collect());
    Ok(Checks {
        ratio: ratio(&many),
        ratio_alone: ratio(&alone),
        recoveries: median(bare),
        tickets: median(many),
        alone: median(alone),
    })
}

/// Payments of one winning ticket each, from so many threads, each acknowledged when it is durable.
fn durable_winners(dir: &std::path::Path, threads: u8, time: Duration) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir_in(dir)?;
    let ledger = Ledger::open(&dir.path().join("ledger"), OpenOptions::default())?;
    let begin = Instant::now();
    let counts = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..=threads)
            .map(|payer| {
                let ledger = &ledger;
                scope.spawn(move || {
                    let mut count = 0u32;
                    for seed in 0u64.. {
                        let offer = Offer::new(payer, seed, WinProb::ALWAYS);
                        for nonce in 0..500 {
                            if begin.elapsed() >= time {
                                return anyhow::Ok(count);
                            }
                            let won = offer.pay(ledger, &[nonce])?.won.len();
                            count += u32::try_from(won)?;
                        }
                    }
                    Ok(count)
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| anyhow::anyhow!("a payer panicked"))?)
            .sum::<anyhow::Result<u32>>()
    })?;
    let rate = f64::from(counts) / begin.elapsed().as_secs_f64();
    ledger.close().context("closing")?;
    Ok(rate)
}

/// Payments of one ticket that does not win: recorded, not synced.
fn durable_payments(dir: &std::path::Path, time: Duration) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir_in(dir)?;
    let ledger = Ledger::open(&dir.path().join("ledger"), OpenOptions::default())?;
    let (begin, mut count) = (Instant::now(), 0u32);
    'time: for seed in 0u64.. {
        let offer = Offer::new(1, seed, WinProb::NEVER);
        for nonce in 0..600 {
            if begin.elapsed() >= time {
                break 'time;
            }
            offer.pay(&ledger, &[nonce])?;
            count += 1;
        }
    }
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}

fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
