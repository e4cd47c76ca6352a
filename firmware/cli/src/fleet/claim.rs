//! `millrace claim`: tokens by which machines become boxes. Made here; the controller only learns what it must check.
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Subcommand;
use fleet_protocol::FleetId;
use fleet_protocol::api::{Claim, ClaimList, NewClaim};
use fleet_protocol::enrol::{TOKEN_BYTES, TOKEN_DAYS, is_serial, label, token_key};
use rand::RngCore as _;
use serde::Serialize;
use zeroize::Zeroizing;

use super::Controller;
use crate::failure::{self, Code, Failure};
use crate::table;

/// Tokens by which machines become boxes.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the token of one machine; it is shown once and kept nowhere
    #[command(after_help = "Example:
  millrace claim new --serial MR-2026-0001
The token goes into the machine's site file as controller.claim_token, the label text into the label's QR code. It is
taken once, from a machine of this serial; a new one for the same serial replaces one that was not used.")]
    New {
        /// The machine's serial, as its label and its firmware say it
        #[arg(long, value_name = "SERIAL")]
        serial: String,
        /// The rollout ring the box will be in
        #[arg(long, value_name = "RING")]
        ring: Option<FleetId>,
        /// Days until it is no longer taken
        #[arg(long, default_value_t = TOKEN_DAYS, value_parser = clap::value_parser!(u32).range(1..=365))]
        days: u32,
        /// Where the controller is
        #[command(flatten)]
        controller: Controller,
    },
    /// List all claims, used or not
    #[command(after_help = "Example:\n  millrace claim ls")]
    Ls {
        /// Where the controller is
        #[command(flatten)]
        controller: Controller,
    },
}

/// A claim with its secret: shown to whoever made it, once.
#[derive(Serialize)]
struct Made {
    #[serde(flatten)]
    claim: Claim,
    token: String,
    label: String,
}

pub(crate) async fn run(command: Command) -> failure::Result {
    match command {
        Command::New { serial, ring, days, controller } => {
            if !is_serial(&serial) {
                return Err(Failure::new(Code::Usage, "a serial is 1 to 64 letters, digits, -, _ and ."));
            }
            let mut bytes = Zeroizing::new([0u8; TOKEN_BYTES]);
            rand::rngs::OsRng.fill_bytes(&mut *bytes);
            let token = URL_SAFE_NO_PAD.encode(*bytes);
            let token_sha256 = hex::encode(token_key(&token));
            let wanted = NewClaim { serial, token_sha256, ring: ring.map(String::from), days };
            let claim: Claim = controller.post("/api/claims", &wanted).await?;
            let made = Made { label: label(&claim.serial, &token), token, claim };
            controller.show(&made, |made| {
                table::facts(&[
                    ("serial", made.claim.serial.clone()),
                    ("box", made.claim.id.clone()),
                    ("ring", made.claim.ring.clone()),
                    ("token", made.token.clone()),
                    ("label", made.label.clone()),
                    ("days", days.to_string()),
                ]);
            })
        }
        Command::Ls { controller } => {
            let list: ClaimList = controller.get("/api/claims").await?;
            controller.show(&list, |list| {
                let row = |claim: &Claim| {
                    let used = if claim.used_ms.is_some() { "used" } else { "open" };
                    vec![claim.serial.clone(), claim.id.clone(), claim.ring.clone(), used.to_owned()]
                };
                table::print(&["serial", "box", "ring", "state"], &list.claims.iter().map(row).collect::<Vec<_>>());
            })
        }
    }
}
