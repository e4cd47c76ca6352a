//! A price feed on a real chain.
use chain::EthBroker;
use livepeer::address::Address;
use livepeer::broker::Broker;
use livepeer::units::Timestamp;
use millrace_tests::anvil::Anvil;
use millrace_tests::devchain::{DevChain, Params};

#[tokio::test]
async fn a_feed_on_chain_tells_what_ether_costs_and_nonsense_is_no_price() {
    let anvil = Anvil::start().await.unwrap();
    let mut chain = DevChain::deploy(&anvil, &Params::default()).await.unwrap();
    let feed = chain.deploy_price_feed("ETH / USD", 8).await.unwrap();
    let us = Address::from_bytes(&[0x0b; 20]).unwrap();
    let broker = EthBroker::new(chain.config(us), Box::new(|| Timestamp(0))).unwrap();
    let silent = broker.ether_price(feed).await.unwrap_err();
    assert!(silent.detail.contains("answer is not positive"), "{silent}");

    chain.tell_price(250_012_345_678, 1_700_000_000).await.unwrap();
    let told = broker.ether_price(feed).await.unwrap();
    assert_eq!((told.price.display(), told.updated_at), ("2500.12 USD".to_owned(), Timestamp(1_700_000_000)));
    let price = "0.41USD".parse::<livepeer::price::quoted::QuotedPrice>().unwrap();
    let wei = price.per_pixel(1_000_000_000_000, Some(&told.price)).unwrap().parts();
    assert_eq!(wei.0 / wei.1, 163, "0.41 / 2500.12 ether for 10^12 pixels");

    chain.tell_price(-1, 1_700_000_000).await.unwrap();
    assert!(broker.ether_price(feed).await.is_err());
    chain.tell_price(1, 0).await.unwrap();
    assert!(broker.ether_price(feed).await.unwrap_err().detail.contains("never had an answer"));
    assert!(broker.ether_price(chain.address("Controller")).await.is_err(), "another contract is no feed");
    assert!(broker.ether_price(us).await.is_err(), "an account is no feed");
}
