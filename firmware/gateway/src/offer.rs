//! An orchestrator's offer: parsed, then judged.
//!
//! *Source:* livepeer-wire §1.3, §5.3 (what a stock gateway rejects), §5.4 (the price guard).
use http::Uri;
use livepeer::address::{Address, H256};
use livepeer::capability::CapabilitySet;
use livepeer::credentials::AuthToken;
use livepeer::params::TicketParams;
use livepeer::price::{PriceError, PricePerPixel};
use livepeer::units::{ExpectedValue, L1Block, Wei, WinProb};
use livepeer::wire::{self, WireError, net};

use crate::chain_view::ChainSnapshot;
use crate::needs;

/// A price may grow to this many times the session's first one.
const PRICE_GROWTH: u128 = 2;

/// The ability to make perceptual hashes.
const PERCEPTUAL_HASH: u32 = 14;

/// What an orchestrator wants to be paid, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// What tickets must look like.
    pub params: TicketParams,
    /// What a pixel costs.
    pub price: PricePerPixel,
}

impl Terms {
    /// What one ticket is worth.
    #[must_use]
    pub fn ticket_value(&self) -> ExpectedValue {
        ExpectedValue::of(self.params.face_value, self.params.win_prob)
    }
}

/// An orchestrator that would take our stream.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Where segments go.
    pub service_uri: Uri,
    /// Who signs results; may differ from who is paid.
    pub signer: Address,
    /// The session it opened for us.
    pub auth_token: AuthToken,
    /// How it is paid; absent off-chain.
    pub terms: Option<Terms>,
    /// Does it make perceptual hashes of its renditions?
    pub hashes: bool,
}

/// Bounds a gateway sets on offers.
#[derive(Debug, Clone)]
pub struct OfferLimits {
    /// Highest price at the start of a session.
    pub max_price: Option<PricePerPixel>,
    /// Highest expected value of one ticket.
    pub max_ticket_value: Wei,
    /// Highest expected value of the tickets for one segment.
    pub max_segment_value: Wei,
}

impl Default for OfferLimits {
    /// No bound on the price; tickets as the stock gateway takes them.
    fn default() -> Self {
        Self {
            max_price: None,
            max_ticket_value: Wei::from(3_000_000_000_000),
            max_segment_value: Wei::from(20_000_000_000_000),
        }
    }
}

/// Why an offer is of no use to us.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// No service URI, or not an absolute one.
    #[error("offer names no usable service URI")]
    ServiceUri,
    /// No session was opened.
    #[error("offer has no auth token")]
    AuthToken,
    /// Cannot do what the stream needs.
    #[error("lacks capabilities {0:?}")]
    Capabilities(Vec<u32>),
    /// We pay, it takes no payment.
    #[error("offers no ticket parameters: it runs off-chain, so leave the gateway's key away or choose another")]
    OffChain,
    /// A field makes no sense.
    #[error("offer makes no sense")]
    Wire(#[from] WireError),
    /// The price makes no sense.
    #[error("offer's price makes no sense")]
    Price(#[from] PriceError),
    /// Too dear.
    #[error("price of {0} is above our maximum")]
    TooDear(PricePerPixel),
    /// The price grew too much during the session.
    #[error("price grew from {first} to {now}")]
    PriceGrew {
        /// At the session's start.
        first: PricePerPixel,
        /// Now.
        now: PricePerPixel,
    },
    /// Tickets would come too late.
    #[error("TicketParams expired")]
    Expired,
    /// Every ticket would win.
    #[error("tickets that always win are not bought")]
    CertainWin,
    /// One ticket is worth too much.
    #[error("ticket of {0} wei expected value is above our maximum")]
    TicketTooDear(Wei),
    /// The gateway has no money with the ticket broker, or is taking it away.
    #[error("our deposit or reserve is empty or unlocking: fund it first")]
    NoFunds,
    /// A winner could not be paid from our deposit.
    #[error("face value of {face_value} wei is above our deposit of {deposit} wei")]
    AboveDeposit {
        /// Asked for.
        face_value: Wei,
        /// There.
        deposit: Wei,
    },
}

/// Reads an offer and judges it.
pub(crate) fn judge(
    info: &net::OrchestratorInfo,
    needed: &CapabilitySet,
    pays: bool,
    limits: &OfferLimits,
    chain: Option<&ChainSnapshot>,
) -> Result<Offer, OfferError> {
    let offer = read(info, pays, chain)?;
    let lacking = needs::mismatch(needed, info.capabilities.as_ref());
    if !lacking.is_empty() {
        return Err(OfferError::Capabilities(lacking));
    }
    if let Some(terms) = &offer.terms {
        check_price(terms.price, limits)?;
        check_params(&terms.params, limits, chain)?;
    }
    Ok(offer)
}

/// Reads an offer without judging its terms.
pub(crate) fn read(
    info: &net::OrchestratorInfo,
    pays: bool,
    chain: Option<&ChainSnapshot>,
) -> Result<Offer, OfferError> {
    let service_uri: Uri = info.transcoder.trim_end_matches('/').parse().map_err(|_| OfferError::ServiceUri)?;
    if service_uri.authority().is_none() || !matches!(service_uri.scheme_str(), Some("https" | "http")) {
        return Err(OfferError::ServiceUri);
    }
    let token = info.auth_token.as_ref().ok_or(OfferError::AuthToken)?;
    let terms = if pays { Some(read_terms(info, chain)?) } else { None };
    let named = Address::from_bytes(&info.address).filter(|address| !address.is_null());
    let recipient = terms.as_ref().map_or(Address::NULL, |terms| terms.params.recipient);
    let offered = info.capabilities.as_ref().map(|offered| CapabilitySet::from_bitstring(&offered.bitstring));
    let hashes = offered.is_some_and(|offered| offered.iter().any(|number| number == PERCEPTUAL_HASH));
    Ok(Offer {
        service_uri,
        signer: named.unwrap_or(recipient),
        auth_token: wire::auth_token_from_wire(token),
        terms,
        hashes,
    })
}

fn read_terms(info: &net::OrchestratorInfo, chain: Option<&ChainSnapshot>) -> Result<Terms, OfferError> {
    let params = info.ticket_params.as_ref().ok_or(OfferError::OffChain)?;
    let price = info.price_info.as_ref().ok_or(OfferError::OffChain)?;
    let price = PricePerPixel::from_wire(price.price_per_unit, price.pixels_per_unit)?;
    let ours = chain.map(|chain| net::TicketExpirationParams {
        creation_round: i64::try_from(chain.round.0).unwrap_or(i64::MAX),
        creation_round_block_hash: chain.round_block_hash.as_bytes().to_vec(),
    });
    let theirs = params.expiration_params.as_ref().filter(|params| params.creation_round != 0);
    let params = wire::params_from_wire(params, theirs.or(ours.as_ref()).or(Some(&no_round())))?;
    Ok(Terms { params, price })
}

/// Neither side knows a round: tickets without one exist in tests only, and cannot be redeemed.
fn no_round() -> net::TicketExpirationParams {
    net::TicketExpirationParams { creation_round: 0, creation_round_block_hash: H256::zero().as_bytes().to_vec() }
}

fn check_price(price: PricePerPixel, limits: &OfferLimits) -> Result<(), OfferError> {
    match limits.max_price {
        Some(max) if exceeds(price, max, 1) => Err(OfferError::TooDear(price)),
        _ => Ok(()),
    }
}

/// Refuses a price more than twice the session's first one.
pub(crate) fn check_growth(first: PricePerPixel, now: PricePerPixel) -> Result<(), OfferError> {
    if exceeds(now, first, PRICE_GROWTH) { Err(OfferError::PriceGrew { first, now }) } else { Ok(()) }
}

/// Is `price` more than `factor` times `bound`? Exact: the parts have 63 bits.
fn exceeds(price: PricePerPixel, bound: PricePerPixel, factor: u128) -> bool {
    let ((wei, pixels), (bound_wei, bound_pixels)) = (price.parts(), bound.parts());
    let left = u128::from(wei) * u128::from(bound_pixels);
    let right = u128::from(bound_wei) * u128::from(pixels) * factor;
    left > right
}

/// Judges ticket parameters as the stock gateway does.
///
/// *Source:* livepeer-wire §5.3, last paragraph.
pub(crate) fn check_params(
    params: &TicketParams,
    limits: &OfferLimits,
    chain: Option<&ChainSnapshot>,
) -> Result<(), OfferError> {
    if expires(params, chain) {
        return Err(OfferError::Expired);
    }
    let value = ExpectedValue::of(params.face_value, params.win_prob);
    if value.numerator().is_zero() {
        return Ok(());
    }
    if value >= ExpectedValue::of(params.face_value, WinProb::ALWAYS) {
        return Err(OfferError::CertainWin);
    }
    if value > ExpectedValue::of(limits.max_ticket_value, WinProb::ALWAYS) {
        return Err(OfferError::TicketTooDear(value.to_wei_ceil()));
    }
    if let Some(chain) = chain {
        if chain.deposit.is_zero() || chain.reserve.is_zero() || chain.unlocking {
            return Err(OfferError::NoFunds);
        }
        if params.face_value > chain.deposit {
            return Err(OfferError::AboveDeposit { face_value: params.face_value, deposit: chain.deposit });
        }
    }
    Ok(())
}

/// Is there no more than one block left to use these parameters in?
pub(crate) fn expires(params: &TicketParams, chain: Option<&ChainSnapshot>) -> bool {
    let next = chain.map_or(L1Block(0), |chain| L1Block(chain.l1_block.0.saturating_add(1)));
    params.expired(next)
}

#[cfg(test)]
mod tests;
