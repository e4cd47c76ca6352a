//! `millrace tickets` and `millrace earn`: the node's books, as it counts them.
use std::path::PathBuf;

use clap::Args as ClapArgs;
use service::status::Money;

use crate::failure::{self, Outcome};
use crate::{status, table, text};

/// Show the node's books.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Amounts are in wei, since the ledger began. Only what is paid on chain is earned for good.

Examples:
  millrace tickets
  millrace earn --json")]
pub(crate) struct Args {
    /// The node's status socket. Default: /run/millrace/node.sock, else millrace-state/node.sock here
    #[arg(long, value_name = "PATH", env = "MILLRACE_NODE_SOCKET")]
    socket: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(crate) async fn tickets(args: &Args) -> failure::Result {
    let money = status::read(args.socket.as_deref()).await?.money;
    if args.json {
        table::json(&money)?;
    } else {
        print_tickets(&money);
        for (reason, count) in &money.payment_errors {
            println!("refused  {count}  {reason}");
        }
    }
    Ok(Outcome::Done)
}

pub(crate) async fn earn(args: &Args) -> failure::Result {
    let status = status::read(args.socket.as_deref()).await?;
    let money = &status.money;
    if args.json {
        table::json(money)?;
        return Ok(Outcome::Done);
    }
    let gas = status.chain.as_ref().map(|chain| text::money(&chain.hot_balance_wei)).unwrap_or_default();
    table::facts(&[
        ("paid on chain", text::money(&money.paid_wei)),
        ("won, not paid yet", text::money(&money.pending_wei)),
        ("expected of all tickets", text::money(&money.received_ev_wei)),
        ("left for gas", gas),
    ]);
    Ok(Outcome::Done)
}

pub(crate) fn print_tickets(money: &Money) {
    let row = |name: &str, count: u64, wei: &str| vec![name.to_owned(), count.to_string(), text::money(wei)];
    let mut rows = vec![
        row("received", money.tickets_received, &money.received_ev_wei),
        row("won", money.tickets_won, &money.won_wei),
        row("waiting to be redeemed", money.tickets_pending, &money.pending_wei),
        row("redeemed", money.tickets_redeemed, &money.paid_wei),
    ];
    if money.tickets_abandoned > 0 {
        rows.push(vec!["given up".to_owned(), money.tickets_abandoned.to_string(), "lost".to_owned()]);
    }
    table::print(&["tickets", "number", "worth"], &rows);
    if money.redemption_failures > 0 {
        println!("{} attempts to redeem failed; they are repeated by themselves", money.redemption_failures);
    }
}
