//! What this node cannot do: sign with the stake key, which is never on a box, or be a gateway. Each is answered with
//! where and how it is done.
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::{any, get};
use http::{StatusCode, Uri};

use super::{Admin, Answer, Refusal};

/// Paths that need the stake key: the contract and the call to send with it instead.
const STAKE: &[(&str, &str, &str)] = &[
    ("/bond", "BondingManager", "bond(uint256,address)"),
    ("/rebond", "BondingManager", "rebond(uint256)"),
    ("/unbond", "BondingManager", "unbond(uint256)"),
    ("/withdrawStake", "BondingManager", "withdrawStake(uint256)"),
    ("/withdrawFees", "BondingManager", "withdrawFees(address,uint256)"),
    ("/claimEarnings", "BondingManager", "claimEarnings(uint256)"),
    ("/activateOrchestrator", "BondingManager", "transcoder(uint256,uint256)"),
    ("/setOrchestratorConfig", "BondingManager", "transcoder(uint256,uint256)"),
    ("/transferTokens", "LivepeerToken", "transfer(address,uint256)"),
    ("/vote", "poll you vote in", "vote(uint256)"),
    ("/voteOnProposal", "LivepeerGovernor", "castVote(uint256,uint8)"),
];

/// Paths of a gateway.
const GATEWAY: &[&str] = &[
    "/fundDepositAndReserve",
    "/fundDeposit",
    "/unlock",
    "/cancelUnlock",
    "/withdraw",
    "/setBroadcastConfig",
    "/getBroadcastConfig",
    "/getAvailableTranscodingOptions",
    "/setMaxPriceForCapability",
    "/getAISessionPoolsInfo",
];

pub(super) fn routes(mut router: Router<Arc<Admin>>) -> Router<Arc<Admin>> {
    for (path, ..) in STAKE {
        router = router.route(path, any(stake));
    }
    for path in GATEWAY {
        router = router.route(path, any(gateway));
    }
    router.route("/getNetworkCapabilities", get(capabilities)).route("/signMessage", any(sign))
}

async fn stake(State(admin): State<Arc<Admin>>, uri: Uri) -> Answer {
    let known = STAKE.iter().find(|(path, ..)| *path == uri.path());
    let (_, contract, call) = known.copied().unwrap_or(("", "contract", "call"));
    let address = match &admin.chain {
        Some(chain) => chain.broker.contract_addresses().await.ok().and_then(|known| match contract {
            "BondingManager" => Some(known.bonding_manager.0.to_string()),
            "LivepeerToken" => Some(known.livepeer_token.0.to_string()),
            _ => None,
        }),
        None => None,
    };
    let to = address.unwrap_or_else(|| "CONTRACT".to_owned());
    let more = match uri.path() {
        "/setOrchestratorConfig" => {
            ". The price is set here: POST /setPriceForBroadcaster with broadcasterEthAddr=default"
        }
        _ => "",
    };
    Err(Refusal(
        StatusCode::FORBIDDEN,
        format!(
            "the stake key is never on this box: send it from where that key is, to the {contract}, for instance: \
             cast send {to} '{call}' ARGUMENTS --ledger{more}"
        ),
    ))
}

/// In the stock node's words.
async fn capabilities() -> Refusal {
    Refusal::bad("Node must be gateway node to get network capabilities")
}

async fn gateway() -> Refusal {
    Refusal::bad("Node must be gateway node: see `millrace gateway --help`")
}

async fn sign() -> Refusal {
    let why = "millrace-signer signs results, tickets' redemptions and errands, and nothing else";
    Refusal(StatusCode::FORBIDDEN, why.to_owned())
}
