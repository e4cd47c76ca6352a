//! Writes as fast as it can and says what was acknowledged, so that a test can cut the power and compare.
//!
//! `ledger-writer ledger DIR RUN` pays into a ledger from several threads. Each line is printed after the call
//! it tells of returned:
//!
//! | Line | Meaning |
//! |---|---|
//! | `open GENERATION` | the ledger is open |
//! | `seen GATEWAY CREDIT` | this balance could be seen |
//! | `won GATEWAY TICKET…` | a payment was acknowledged with these winners |
//! | `step TICKET STATE` | a redemption's step was acknowledged |
//! | `error TEXT` | the ledger refused; the program ends with 3 |
//!
//! `ledger-writer file DIR` appends to a file and syncs as one should, `ledger-writer sled-flush DIR` trusts
//! sled's flush; both print `ack N`. They are the controls of the harness itself.
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use ledger::{Ledger, OpenOptions, RedemptionEvent};
use livepeer::units::{L1Block, L2Block, Wei, WinProb};
use millrace_tests::powercut::tickets::{FACE_VALUE, Offer, ROUND, account, gateway, submission};
use primitive_types::U256;

/// Gateways whose every ticket wins, so that every credit has a winner.
const SURE: [u8; 2] = [1, 2];
/// A gateway that wins one ticket in three; its winners are redeemed.
const LUCKY: u8 = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["ledger", dir, run] => pay_for_ever(Path::new(dir), run.parse().unwrap_or(0)),
        ["file", dir] => append_for_ever(Path::new(dir)),
        ["sled-flush", dir] => flush_for_ever(Path::new(dir)),
        _ => Err("usage: ledger-writer ledger DIR RUN | file DIR | sled-flush DIR".into()),
    };
    match done {
        Ok(never) => match never {},
        Err(error) => {
            say(&format!("error {error}"));
            ExitCode::from(3)
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Never = std::convert::Infallible;

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The reader is gone only when the test is over.
    if out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

fn pay_for_ever(dir: &Path, run: u64) -> Result<Never, Failure> {
    // A short journal is rewritten often, so that cuts fall into rewrites too.
    let options = OpenOptions { rewrite_above_bytes: 32 * 1024, ..OpenOptions::default() };
    let ledger = Ledger::open(&dir.join("ledger"), options)?;
    say(&format!("open {}", ledger.generation()));
    let (failed, failure) = std::sync::mpsc::sync_channel::<Failure>(1);
    let watch = |work: &(dyn Fn() -> Result<Never, Failure> + Sync)| {
        // A second failure has nothing to add.
        let _first = work().map_err(|error| failed.try_send(error));
    };
    let (ledger, watch) = (&ledger, &watch);
    std::thread::scope(|scope| {
        for payer in SURE.into_iter().chain([LUCKY]) {
            scope.spawn(move || watch(&|| pay(ledger, payer, run)));
        }
        scope.spawn(move || watch(&|| look(ledger)));
        scope.spawn(move || watch(&|| redeem(ledger, run)));
        let error = failure.recv().unwrap_or_else(|_| "all threads ended".into());
        say(&format!("error {error}"));
        std::process::exit(3)
    })
}

fn pay(ledger: &Ledger, payer: u8, run: u64) -> Result<Never, Failure> {
    let win_prob = if payer == LUCKY { WinProb(U256::MAX / 3) } else { WinProb::ALWAYS };
    for seed in run * 1_000_000.. {
        let offer = Offer::new(payer, seed, win_prob);
        for first in (0..30).step_by(3) {
            let receipt = offer.pay(ledger, &[first, first + 1, first + 2][..1 + (seed % 3) as usize])?;
            if let Some(error) = receipt.error {
                return Err(error.into());
            }
            let won: Vec<String> = receipt.won.iter().map(|ticket| format!("{ticket:?}")).collect();
            say(&format!("won {payer} {}", won.join(" ")));
        }
    }
    Err("seeds ran out".into())
}

fn look(ledger: &Ledger) -> Result<Never, Failure> {
    let mut last = [Wei::ZERO; 2];
    loop {
        for (payer, last) in SURE.into_iter().zip(&mut last) {
            let credit = ledger.balance(&account(payer))?.credit;
            if credit != *last {
                say(&format!("seen {payer} {credit}"));
                *last = credit;
            }
        }
        std::thread::yield_now();
    }
}

fn redeem(ledger: &Ledger, run: u64) -> Result<Never, Failure> {
    let mut nonce = run * 1_000_000;
    loop {
        let due = ledger.due(L1Block(1000), ROUND);
        for winner in due.into_iter().filter(|winner| winner.ticket().sender == gateway(LUCKY)) {
            nonce += 1;
            let recorded = ledger.submit(winner.hash(), submission(nonce))?;
            say(&format!("step {:?} submitted", winner.hash()));
            let event = match nonce % 3 {
                0 => RedemptionEvent::Failed,
                _ => RedemptionEvent::Confirmed {
                    transaction: recorded.submission().hash,
                    block: L2Block(nonce),
                    paid: Wei::from(FACE_VALUE),
                },
            };
            let state = ledger.advance(winner.hash(), event)?;
            say(&format!("step {:?} {}", winner.hash(), state.name()));
        }
        ledger.prune_settled(ROUND)?;
        std::thread::yield_now();
    }
}

fn append_for_ever(dir: &Path) -> Result<Never, Failure> {
    let mut file = std::fs::File::create(dir.join("log"))?;
    std::fs::File::open(dir)?.sync_all()?;
    for n in 0u64.. {
        file.write_all(&n.to_be_bytes())?;
        file.sync_data()?;
        say(&format!("ack {n}"));
    }
    Err("numbers ran out".into())
}

fn flush_for_ever(dir: &Path) -> Result<Never, Failure> {
    let db = sled::open(dir.join("sled"))?;
    for n in 0u64.. {
        db.insert(n.to_be_bytes(), b"value")?;
        db.flush()?;
        say(&format!("ack {n}"));
    }
    Err("numbers ran out".into())
}
