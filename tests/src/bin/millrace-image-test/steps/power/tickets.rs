//! Cuts while tickets are won, redeemed and paid. Each ticket wins, so each that was acknowledged must be there afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ethers::abi::Token;
use livepeer::address::{Address, H256};
use livepeer::signature::SigningKey;
use livepeer::units::Wei;
use millrace_tests::anvil::Anvil;
use millrace_tests::devchain::{DevChain, Params};
use rand::Rng as _;
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::box_state::Subject;
use super::{KEPT, Plan, chance, made, moments, note, seconds, summary};
use crate::machine::Machine;
use crate::payer::{self, Payer};
use crate::steps::{BOOT, COMMAND, Lab, READY};

const KIND: &str = "tickets";
const NUMBER: u64 = 2;
/// What a ticket pays. It is worth one wei less: a gateway buys none that always win, and one of these does not in ten
/// million million.
const FACE_VALUE_WEI: u64 = 20_000_000_000_000;
/// Some eight tickets for a second of the one small rendition.
const PRICE_WEI: u64 = 140_000_000;
/// Longer than the test.
const ROUND_LENGTH: u64 = 5_000;
/// Seconds of streaming after the first acknowledged segment in which a cut falls.
const STREAMED: Duration = Duration::from_secs(20);
/// For redemptions to be sent, mined and confirmed in the end.
const SETTLED: Duration = Duration::from_secs(900);

/// All cuts that are not on record yet, then every ticket's way to the chain.
pub(super) fn run(lab: &Lab, subject: &mut Subject, plan: Plan) -> Result<String> {
    service::init_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let anvil = runtime.block_on(Anvil::start())?;
    let payer = Payer::new();
    let recipient = SigningKey::generate(&mut rand::rngs::OsRng).address();
    let chain = runtime.block_on(deploy(&anvil, &payer, recipient))?;

    subject.reset()?;
    let (mut machine, _) = subject.recover(lab, &[&lab.version])?;
    earn(&mut machine, &runtime, &anvil, &chain, recipient).context("the box does not come on chain")?;
    let moments = moments(plan, NUMBER);
    for number in made(lab, KIND, plan)? + 1..=plan.each {
        let mut chance = chance(plan, NUMBER, number);
        let share = moments.get(usize::try_from(number)? - 1).copied().context("a moment for each cut")?;
        let before = payer.acknowledged().0.len();
        let pushing = payer.push(&runtime, machine.port(), payer::directory(&lab.work))?;
        let begun = Instant::now();
        while payer.acknowledged().0.len() == before {
            ensure!(
                begun.elapsed() < READY,
                "cut {number}: no segment came back within {READY:?}: {}; {}",
                payer.ended(),
                told(&mut machine)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(STREAMED.mul_f64(share) + Duration::from_millis(chance.gen_range(0..200)));
        let keep = *KEPT.choose(&mut chance).context("a share")?;
        let lost = subject.cut(machine, &mut chance, keep)?;
        drop(pushing);
        // What was acknowledged up to the very moment of the cut.
        let (acknowledged, segments) = payer.acknowledged();
        let (mut running, found) = subject.recover(lab, &[&lab.version]).with_context(|| format!("cut {number}"))?;
        working(&mut running)?;
        let kept = winners(&mut running)?;
        let missing: Vec<&H256> = acknowledged.iter().filter(|ticket| !kept.states.contains_key(*ticket)).collect();
        let settled = runtime.block_on(used(&chain, &missing))?;
        ensure!(
            settled == missing.len(),
            "cut {number}: {} of {} acknowledged winners are lost: {:?}",
            missing.len() - settled,
            acknowledged.len(),
            missing.first()
        );
        let won = money(&mut running, "tickets_won")?;
        ensure!(
            usize::try_from(won)? >= acknowledged.len(),
            "cut {number}: the ledger counts {won} winners, {} were acknowledged",
            acknowledged.len()
        );
        let mut states: BTreeMap<&str, usize> = BTreeMap::new();
        for state in kept.states.values() {
            *states.entry(state).or_default() += 1;
        }
        let seen = json!({
            "acknowledged_since_last": acknowledged.len() - before, "acknowledged": acknowledged.len(), "segments": segments,
            "in_ledger": won, "states": states, "torn_bytes": kept.torn, "recovered_s": seconds(found.took),
            "unflushed_blocks": lost.unflushed, "kept_percent": keep, "kept_sectors": lost.kept_sectors, "flushes": lost.flushes,
        });
        note(lab, KIND, plan, number, seen)?;
        machine = running;
    }
    let paid = settle(&mut machine, &runtime, &anvil, &chain, &payer)?;
    Ok(format!("{}; {paid}", summary(lab, KIND, plan)?))
}

async fn deploy<'a>(anvil: &'a Anvil, payer: &Arc<Payer>, recipient: Address) -> Result<DevChain<'a>> {
    use gateway::TicketSigner as _;
    let chain = DevChain::deploy(anvil, &Params { round_length: ROUND_LENGTH, ..Params::default() }).await?;
    let ether = Wei(10_u128.pow(18).into());
    chain.activate_orchestrator(recipient, ether).await?;
    chain.fund_sender(payer.address(), ether, ether).await?;
    anvil.request::<Value>("anvil_setNextBlockBaseFeePerGas", json!(["0xf4240"])).await?;
    anvil.request::<Value>("evm_setIntervalMining", json!([1])).await?;
    Ok(chain)
}

/// Give the box the configuration that a product's image would bring: it makes its hot key, seals it, and works for money.
fn earn(
    machine: &mut Machine,
    runtime: &Runtime,
    anvil: &Anvil,
    chain: &DevChain<'_>,
    recipient: Address,
) -> Result<()> {
    let port = anvil.url().rsplit(':').next().context("a port")?;
    let node = format!(
        "\n[payment]\nprice_per_pixel = \"{PRICE_WEI}\"\nauto_adjust_price = false\n\
         ticket_ev_wei = \"{}\"\nmax_face_value_wei = \"{FACE_VALUE_WEI}\"\n\
         [chain]\nrpc = [\"http://10.0.2.2:{port}\"]\ncontroller = \"{}\"\nchain_id = {}\nrecipient = \"{recipient}\"\n\
         poll_interval_ms = 1000\nconfirmations = 2\nmin_fee_cap_wei = \"1000000\"\n",
        FACE_VALUE_WEI - 1,
        chain.address("Controller"),
        anvil.chain_id(),
    );
    let signer = format!(
        "[chain]\nchain_id = {}\nrecipient = \"{recipient}\"\nticket_broker = \"{}\"\n",
        anvil.chain_id(),
        chain.address("TicketBroker"),
    );
    let script = format!(
        "set -eu; cd /var/lib/millrace-site/config; echo {} | base64 -d >>node.toml; echo {} | base64 -d >signer.toml; \
         chmod 644 node.toml signer.toml; sync; systemctl restart millrace-service-port millrace-keys; \
         systemctl start millrace-signer; systemctl restart millrace-node; sync; tail -n 1 /var/lib/millrace-site/hot-account",
        STANDARD.encode(node),
        STANDARD.encode(signer),
    );
    let said = machine.run(&script, READY)?;
    let hot: Address = said.lines().last().unwrap_or_default().trim().parse().with_context(|| said.clone())?;
    let uri = format!("https://127.0.0.1:{}", machine.port());
    runtime.block_on(async {
        anvil.set_balance(hot, Wei(10_u128.pow(18).into())).await?;
        chain.set_service_uri(recipient, &uri).await
    })?;
    working(machine)
}

/// Wait until the node serves, on chain.
fn working(machine: &mut Machine) -> Result<()> {
    let deadline = Instant::now() + BOOT;
    loop {
        let status = status(machine)?;
        let active = status.pointer("/chain/active").and_then(Value::as_bool) == Some(true);
        if active && status.get("mode").and_then(Value::as_str) == Some("run") {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the node does not work on chain: {status}; {}", told(machine));
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn status(machine: &mut Machine) -> Result<Value> {
    let said = machine.try_run("millrace status --json", COMMAND)?;
    Ok(serde_json::from_str(&said.text).unwrap_or(Value::Null))
}

fn money(machine: &mut Machine, name: &str) -> Result<u64> {
    let status = status(machine)?;
    status.pointer(&format!("/money/{name}")).and_then(Value::as_u64).with_context(|| format!("no {name}: {status}"))
}

fn told(machine: &mut Machine) -> String {
    let said = machine.try_run("journalctl -b -u millrace-node -u millrace-signer -n 12 -o cat --no-pager", COMMAND);
    said.map_or_else(|error| error.to_string(), |said| crate::machine::tail(&said.text, 12))
}

/// What the box's own journal of winners holds.
struct Kept {
    states: BTreeMap<H256, &'static str>,
    torn: u64,
}

fn winners(machine: &mut Machine) -> Result<Kept> {
    let script = "set -e; file=$(find /var/lib/millrace -name winners.journal); test -n \"$file\"; gzip -c \"$file\" | base64 -w0";
    let text = machine.run(script, READY)?;
    let packed = STANDARD.decode(text.trim()).context("the journal of winners")?;
    let mut gunzip = std::process::Command::new("gzip");
    gunzip.args(["-dc"]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = gunzip.spawn()?;
    let mut input = child.stdin.take().context("a pipe")?;
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, &packed));
    let bytes = child.wait_with_output()?.stdout;
    writer.join().map_err(|_| anyhow::anyhow!("the journal's writer"))??;
    let replay = ledger::journal::replay(&bytes);
    ensure!(replay.damaged == 0, "the journal of winners is damaged in {} places", replay.damaged);
    let states = replay.winners.iter().map(|(ticket, winner)| (*ticket, winner.state.name())).collect();
    Ok(Kept { states, torn: replay.torn_bytes })
}

/// How many of these were redeemed: the chain knows them.
async fn used(chain: &DevChain<'_>, tickets: &[&H256]) -> Result<usize> {
    let mut count = 0;
    for ticket in tickets {
        let hash = Token::FixedBytes(ticket.as_bytes().to_vec());
        count +=
            usize::from(chain.view("TicketBroker", "usedTickets", &[hash]).await?.first() == Some(&Token::Bool(true)));
    }
    Ok(count)
}

/// Let the offers expire, wait for the last redemption, and find every acknowledged ticket on the chain.
fn settle(
    machine: &mut Machine,
    runtime: &Runtime,
    anvil: &Anvil,
    chain: &DevChain<'_>,
    payer: &Payer,
) -> Result<String> {
    runtime.block_on(anvil.mine(livepeer::params::LIFETIME_BLOCKS + 2))?;
    let deadline = Instant::now() + SETTLED;
    while money(machine, "tickets_pending")? > 0 {
        ensure!(
            Instant::now() < deadline,
            "{} winners are not settled: {}",
            money(machine, "tickets_pending")?,
            told(machine)
        );
        std::thread::sleep(Duration::from_secs(2));
    }
    let (acknowledged, segments) = payer.acknowledged();
    let unique: BTreeSet<&H256> = acknowledged.iter().collect();
    ensure!(unique.len() == acknowledged.len(), "a ticket was acknowledged twice");
    let paid = runtime.block_on(used(chain, &unique.into_iter().collect::<Vec<_>>()))?;
    ensure!(paid == acknowledged.len(), "{paid} of {} acknowledged winners were paid on chain", acknowledged.len());
    let redeemed = money(machine, "tickets_redeemed")?;
    Ok(format!(
        "{} winners of {segments} segments acknowledged, each paid on chain; {redeemed} redeemed in all",
        acknowledged.len()
    ))
}
