//! Settings that hold until the node ends, and errands for the chain. What shall hold longer stands in the
//! configuration.
use std::sync::Arc;

use axum::extract::State;
use chain::GasBounds;
use http::StatusCode;
use livepeer::address::Address;
use livepeer::price::quoted::QuotedPrice;
use livepeer::units::Wei;
use orchestrator::config::MaxSessions;
use orchestrator::redeemer::{AskError, Wanted};

use super::{Admin, Answer, Form, Refusal, plain};

/// The price of a gateway, or with `broadcasterEthAddr=default` of all that have none of their own.
pub(super) async fn price(State(admin): State<Arc<Admin>>, form: Form) -> Answer {
    let (price, pixels) = (form.must("pricePerUnit")?, form.must("pixelsPerUnit")?);
    let whom = form.must("broadcasterEthAddr")?;
    let Some(node) = &admin.node else { return Err(Refusal::not_serving("set price for broadcaster")) };
    let till = node.till().ok_or_else(|| Refusal::bad("the node works off-chain, for nothing"))?;
    let gateway =
        match whom {
            "default" => None,
            address => Some(address.parse::<Address>().map_err(|_| {
                Refusal::bad(format!("broadcasterEthAddr is not a valid eth address, provided {address}"))
            })?),
        };
    let quoted: QuotedPrice =
        format!("{price}{}", form.maybe("currency").unwrap_or_default()).parse().map_err(Refusal::bad)?;
    let count = whole(pixels).filter(|count| *count > 0).ok_or_else(|| {
        Refusal::bad(format!("pixels per unit must be a whole number greater than 0, provided {pixels}"))
    })?;
    till.prices().set(gateway, quoted, count).map_err(Refusal::bad)?;
    plain(format!("Price per pixel set to {price} wei for {pixels} pixels for broadcaster {whom}\n"))
}

/// A whole number, which may have an exponent: `1000` or `1e12`.
fn whole(text: &str) -> Option<u64> {
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(digits) || !plain(exponent) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(10_u64.checked_pow(exponent.parse().ok()?)?)
}

pub(super) async fn max_sessions(State(admin): State<Arc<Admin>>, form: Form) -> Answer {
    let asked = form.must("maxSessions")?;
    let Some(node) = &admin.node else { return Err(Refusal::not_serving("set maxSessions")) };
    let most = match asked {
        "auto" => MaxSessions::Auto,
        number => match number.parse() {
            Ok(most) if most > 0 => MaxSessions::Fixed(most),
            _ => return Err(Refusal::bad("Max Sessions must be 'auto' or greater than zero")),
        },
    };
    node.allow_sessions(most).map_err(Refusal::bad)?;
    plain(format!("Max sessions set to {asked}\n"))
}

/// Zero lifts the bound.
pub(super) async fn max_face_value(State(admin): State<Arc<Admin>>, form: Form) -> Answer {
    let asked = form.must("maxfacevalue")?;
    let Some(node) = &admin.node else { return Err(Refusal::not_serving("set maxfacevalue")) };
    let till = node.till().ok_or_else(|| Refusal::bad("the node works off-chain, for nothing"))?;
    let most = Wei::from_dec_str(asked).map_err(|_| Refusal::bad("maxfacevalue not set to number"))?;
    till.set_max_face_value(most);
    plain("ticket max face value set")
}

/// Zero lifts the bound.
pub(super) async fn max_gas_price(State(admin): State<Arc<Admin>>, form: Form) -> Answer {
    let chain = admin.chain()?;
    let asked = form.must("amount")?;
    let most = Wei::from_dec_str(asked).map_err(|error| Refusal::bad(format!("Parsing failed for price: {error}")))?;
    set_gas_bounds(chain, |bounds| GasBounds { max: Some(most).filter(|most| !most.is_zero()), ..bounds })
}

pub(super) async fn min_gas_price(State(admin): State<Arc<Admin>>, form: Form) -> Answer {
    let chain = admin.chain()?;
    let asked = form.must("minGasPrice")?;
    let min = Wei::from_dec_str(asked).map_err(|error| Refusal::bad(format!("invalid minGasPrice: {error}")))?;
    set_gas_bounds(chain, |bounds| GasBounds { min, ..bounds })
}

fn set_gas_bounds(chain: &super::OnChain, change: impl FnOnce(GasBounds) -> GasBounds) -> Answer {
    let bounds = change(chain.broker.gas_bounds());
    if let Some(max) = bounds.max.filter(|max| *max < bounds.min) {
        return Err(Refusal::bad(format!("the least gas price {} would be above the most, {max}", bounds.min)));
    }
    chain.broker.set_gas_bounds(bounds);
    plain("")
}

/// A filter such as `warn,orchestrator=debug`, or a number as stock has it: up to 4 is `info`, more is `debug`.
pub(super) async fn log_level(form: Form) -> Answer {
    let asked = form.must("loglevel")?;
    let filter = match asked.parse::<u32>() {
        Ok(0..=4) => "info",
        Ok(_) => "debug",
        Err(_) => asked,
    };
    service::set_log_filter(filter).map_err(|error| Refusal::bad(service::with_causes(&error)))?;
    tracing::info!(filter, "log filter was set");
    plain("")
}

pub(super) async fn reward(State(admin): State<Arc<Admin>>) -> Answer {
    errand(&admin, Wanted::Reward, "Error calling reward").await
}

pub(super) async fn initialize_round(State(admin): State<Arc<Admin>>) -> Answer {
    errand(&admin, Wanted::InitializeRound, "could not initialize round").await
}

/// Has the redeemer do it, and waits until it is in a block.
async fn errand(admin: &Admin, wanted: Wanted, failed: &str) -> Answer {
    match admin.chain()?.desk.ask(wanted).await {
        Ok(_) => plain(""),
        Err(error) => {
            let status = match error {
                AskError::Busy => StatusCode::SERVICE_UNAVAILABLE,
                AskError::Late => StatusCode::GATEWAY_TIMEOUT,
                AskError::Refused(_) | AskError::Stopped => StatusCode::INTERNAL_SERVER_ERROR,
            };
            Err(Refusal(status, format!("{failed}: {error}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_may_be_counted_with_an_exponent() {
        assert_eq!(whole("1"), Some(1));
        assert_eq!(whole("1e12"), Some(1_000_000_000_000));
        for bad in ["", "-1", "1.5", "1e", "e3", "1e99", "1e-3", "0x10", "1 "] {
            assert_eq!(whole(bad), None, "{bad}");
        }
    }
}
