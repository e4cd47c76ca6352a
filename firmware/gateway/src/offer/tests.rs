use super::*;
use livepeer::units::Round;
use primitive_types::U256;

fn params() -> TicketParams {
    TicketParams {
        recipient: Address::from_bytes(&[2; 20]).unwrap(),
        face_value: Wei::from(1_200_000_000_000_000),
        win_prob: WinProb(U256::MAX / 150_000),
        recipient_rand_hash: H256([3; 32]),
        seed: 7.into(),
        expiration_block: L1Block(140),
        creation_round: Round(5),
        creation_round_block_hash: H256([4; 32]),
    }
}

fn chain() -> ChainSnapshot {
    ChainSnapshot {
        l1_block: L1Block(100),
        round: Round(5),
        round_block_hash: H256([4; 32]),
        deposit: Wei::from(10_000_000_000_000_000),
        reserve: Wei::from(1),
        unlocking: false,
    }
}

fn info() -> net::OrchestratorInfo {
    net::OrchestratorInfo {
        transcoder: "https://127.0.0.1:8935".into(),
        ticket_params: Some(wire::params_to_wire(&params())),
        price_info: Some(net::PriceInfo { price_per_unit: 7, pixels_per_unit: 10, ..Default::default() }),
        auth_token: Some(net::AuthToken { token: vec![1; 32], session_id: "00c0ffee".into(), expiration: 1 << 40 }),
        capabilities: Some(net::Capabilities { bitstring: vec![0x1fff], ..Default::default() }),
        ..Default::default()
    }
}

fn judged(info: &net::OrchestratorInfo) -> Result<Offer, OfferError> {
    let needed = needs::needs(mpegts::VideoCodec::H264, &[]);
    judge(info, &needed, true, &OfferLimits::default(), Some(&chain()))
}

#[test]
fn a_good_offer_is_taken_and_the_recipient_signs_where_no_signer_is_named() {
    let offer = judged(&info()).unwrap();
    assert_eq!(offer.signer, params().recipient);
    assert_eq!(offer.terms.unwrap().params, params());
    let other = net::OrchestratorInfo { address: vec![9; 20], ..info() };
    assert_eq!(judged(&other).unwrap().signer, Address::from_bytes(&[9; 20]).unwrap());
}

#[test]
fn offers_without_a_place_a_session_or_an_ability_are_refused() {
    assert_eq!(
        judged(&net::OrchestratorInfo { transcoder: "no uri".into(), ..info() }).unwrap_err(),
        OfferError::ServiceUri
    );
    assert_eq!(judged(&net::OrchestratorInfo { auth_token: None, ..info() }).unwrap_err(), OfferError::AuthToken);
    assert_eq!(
        judged(&net::OrchestratorInfo { capabilities: None, ..info() }).unwrap_err(),
        OfferError::Capabilities(vec![12])
    );
    assert_eq!(judged(&net::OrchestratorInfo { ticket_params: None, ..info() }).unwrap_err(), OfferError::OffChain);
}

#[test]
fn ticket_parameters_are_judged_as_the_stock_gateway_does() {
    let limits = OfferLimits::default();
    let check = |params: TicketParams| check_params(&params, &limits, Some(&chain()));
    assert_eq!(check(params()), Ok(()));
    assert_eq!(check(TicketParams { expiration_block: L1Block(101), ..params() }), Err(OfferError::Expired));
    assert_eq!(check(TicketParams { expiration_block: L1Block(102), ..params() }), Ok(()));
    assert_eq!(check(TicketParams { win_prob: WinProb::ALWAYS, ..params() }), Err(OfferError::CertainWin));
    let dear = TicketParams { win_prob: WinProb(U256::MAX / 2), ..params() };
    assert!(matches!(check(dear), Err(OfferError::TicketTooDear(_))));
    let huge = TicketParams { face_value: Wei::from(10_000_000_000_000_001), ..params() };
    assert!(matches!(check(huge), Err(OfferError::AboveDeposit { .. })));
    let free = TicketParams { face_value: Wei::ZERO, win_prob: WinProb::NEVER, ..params() };
    assert_eq!(check(free), Ok(()));
    let poor = ChainSnapshot { reserve: Wei::ZERO, ..chain() };
    assert_eq!(check_params(&params(), &limits, Some(&poor)), Err(OfferError::NoFunds));
    let leaving = ChainSnapshot { unlocking: true, ..chain() };
    assert_eq!(check_params(&params(), &limits, Some(&leaving)), Err(OfferError::NoFunds));
}

#[test]
fn without_a_view_of_the_chain_only_block_zero_is_expired() {
    let limits = OfferLimits::default();
    assert_eq!(check_params(&params(), &limits, None), Ok(()));
    let zero = TicketParams { expiration_block: L1Block(0), ..params() };
    assert_eq!(check_params(&zero, &limits, None), Err(OfferError::Expired));
}

#[test]
fn a_price_may_double_and_no_more() {
    let price = |wei, pixels| PricePerPixel::new(wei, pixels).unwrap();
    assert_eq!(check_growth(price(7, 10), price(14, 10)), Ok(()));
    assert!(check_growth(price(7, 10), price(15, 10)).is_err());
    assert_eq!(check_growth(price(7, 10), price(1, 10)), Ok(()));
    let limits = OfferLimits { max_price: Some(price(7, 10)), ..OfferLimits::default() };
    assert_eq!(check_price(price(7, 10), &limits), Ok(()));
    assert_eq!(check_price(price(701, 1000), &limits), Err(OfferError::TooDear(price(701, 1000))));
}

#[test]
fn an_offer_without_a_round_gets_ours() {
    let mut wire = info();
    wire.ticket_params.as_mut().unwrap().expiration_params = None;
    let round = ChainSnapshot { round: Round(9), ..chain() };
    let offer = read(&wire, true, Some(&round)).unwrap();
    assert_eq!(offer.terms.unwrap().params.creation_round, Round(9));
}
