//! Prices, tickets, the chain, and how the key gets to where it belongs.
use livepeer::address::Address;
use livepeer::units::Wei;
use toml::Value;

use super::super::prices::{self, StockPrice};
use super::super::value;
use super::{ConvertError, Converter, Fate, Result, TextOrFile, read_file};

/// The network that Livepeer works on, and its chain's id.
const ARBITRUM_ONE: (&str, i64) = ("arbitrum-one-mainnet", 42_161);

impl Converter<'_> {
    /// What the work costs.
    pub(super) fn prices(&mut self) -> Result {
        let price = self.text("pricePerUnit");
        let pixels = self.text("pixelsPerUnit").unwrap_or_else(|| "1".to_owned());
        let all = match &price {
            Some(price) => {
                let parsed = StockPrice::parse(price, &pixels);
                Some(parsed.map_err(|why| self.wrong("pricePerUnit", &why.to_string()))?)
            }
            None => None,
        };
        // The old name wins, as it does in go-livepeer.
        let list = ["pricePerBroadcaster", "pricePerGateway"]
            .into_iter()
            .find(|flag| self.text(flag).is_some_and(|text| !text.is_empty()));
        let gateways = match list {
            Some(flag) => self.gateways(flag)?,
            None => Vec::new(),
        };
        if list == Some("pricePerBroadcaster") {
            let remark = "-pricePerBroadcaster, the old name, wins in go-livepeer";
            self.entry("pricePerGateway", Fate::NotNeeded, &[], remark);
        }
        if all.is_some() || !gateways.is_empty() {
            let flag = if all.is_some() { "pricePerUnit" } else { list.unwrap_or("pricePerGateway") };
            let found = prices::common(all, &gateways).map_err(|why| self.wrong(flag, &why.to_string()))?;
            let mut keys = Vec::new();
            if let Some(price) = &found.all {
                keys.push(self.document.set("payment", "price_per_pixel", price.as_str()));
            }
            let pixels = i64::try_from(found.pixels).map_err(|_| self.wrong(flag, "too many pixels"))?;
            let unit = self.document.set("payment", "pixels_per_unit", pixels);
            keys.push(unit.clone());
            self.mapped("pricePerUnit", &keys, "");
            self.mapped("pixelsPerUnit", &[unit], "one unit for all prices");
            for (address, price) in &found.gateways {
                self.document.set("payment.price_per_gateway", &address.to_string(), price.as_str());
            }
            if let Some(flag) = list {
                self.mapped(flag, &["payment.price_per_gateway".to_owned()], "");
            }
        }
        let address = self.text("priceFeedAddr").filter(|text| !text.is_empty());
        if let Some(text) = address {
            let feed = self.account("priceFeedAddr", &text)?;
            self.map("priceFeedAddr", "payment", "price_feed", feed.to_string(), "");
        }
        if let Some(adjust) = self.boolean("autoAdjustPrice")? {
            self.map("autoAdjustPrice", "payment", "auto_adjust_price", adjust, "max_price_per_pixel bounds it");
        }
        if let Some(value) = self.wei("ticketEV")? {
            if value.is_zero() {
                return Err(self.wrong("ticketEV", "must not be zero: no ticket could be offered"));
            }
            self.map("ticketEV", "payment", "ticket_ev_wei", value.to_string(), "");
        }
        if let Some(value) = self.wei("maxFaceValue")? {
            self.map("maxFaceValue", "payment", "max_face_value_wei", value.to_string(), "");
        }
        Ok(())
    }

    fn gateways(&mut self, flag: &'static str) -> Result<Vec<(Address, StockPrice)>> {
        let json = match self.text_or_file(flag)? {
            Some(TextOrFile::Text(json)) => json,
            _ => return Err(self.wrong(flag, "its file is not on this machine")),
        };
        prices::per_gateway(&json).map_err(|why| self.wrong(flag, &why.to_string()))
    }

    /// The chain, when there is one.
    pub(super) fn chain(&mut self) -> Result {
        let network = self.text("network").unwrap_or_else(|| "offchain".to_owned());
        let chain_id = match network.as_str() {
            "offchain" => {
                self.mapped("network", &[], "no section chain: for anybody, for nothing");
                return Ok(());
            }
            "mainnet" | "rinkeby" | "arbitrum-one-rinkeby" => {
                return Err(self.wrong("network", "Livepeer left that network; use arbitrum-one-mainnet"));
            }
            name if name == ARBITRUM_ONE.0 => ARBITRUM_ONE.1,
            _ => {
                let Some(id) = self.options.chain_id else {
                    return Err(
                        self.wrong("network", "go-livepeer asks such a network for its id: say --chain-id NUMBER")
                    );
                };
                i64::try_from(id).map_err(|_| self.wrong("network", "its chain id is too large"))?
            }
        };
        self.map("network", "chain", "chain_id", chain_id, "");
        self.endpoint()?;
        let controller = self.text("ethController").filter(|text| !text.is_empty());
        match controller {
            Some(text) => {
                let controller = self.account("ethController", &text)?;
                self.map("ethController", "chain", "controller", controller.to_string(), "");
            }
            None if chain_id != ARBITRUM_ONE.1 => {
                return Err(ConvertError { flag: "ethController", what: "needed on that network".to_owned() });
            }
            None => {}
        }
        let own = self.accounts(chain_id)?;
        self.fees()?;
        self.rounds(own)?;
        self.todo.push(
            "let go-livepeer redeem its winning tickets before it goes: they lie in its own database. Never let both send \
             transactions from one account"
                .to_owned(),
        );
        Ok(())
    }

    fn endpoint(&mut self) -> Result {
        let Some(url) = self.text("ethUrl").filter(|url| !url.is_empty()) else {
            return Err(ConvertError { flag: "ethUrl", what: "a node on chain needs an endpoint".to_owned() });
        };
        let uri = url.parse::<http::Uri>().ok();
        let known = uri.as_ref().is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("https" | "http"))
                && uri.authority().is_some_and(|a| !a.as_str().contains('@'))
        });
        if !known {
            let what = "must be http:// or https:// without a user name: web sockets and files are not spoken";
            return Err(self.wrong("ethUrl", what));
        }
        let bare = uri.is_some_and(|uri| matches!(uri.path(), "" | "/") && uri.query().is_none());
        let remark = if bare { "" } else { "it may hold an access token: let only the node read the file" };
        self.map("ethUrl", "chain", "rpc", vec![Value::from(url)], remark);
        self.todo.push(
            "name a second endpoint of another provider in chain.rpc: one alone is a single point of failure"
                .to_owned(),
        );
        Ok(())
    }

    /// Who is paid, and what becomes of the key. Did the recipient's own account do the sending?
    fn accounts(&mut self, chain_id: i64) -> Result<bool> {
        let orchestrator = match self.text("ethOrchAddr").filter(|text| !text.is_empty()) {
            Some(text) => Some(self.account("ethOrchAddr", &text)?),
            None => None,
        };
        let keystore = self.text("ethKeystorePath").filter(|text| !text.is_empty());
        let in_file = keystore.as_ref().and_then(|path| address_in(path));
        let account = match self.text("ethAcctAddr").filter(|text| !text.is_empty()) {
            Some(text) => Some(self.account("ethAcctAddr", &text)?),
            None => in_file,
        };
        let Some(recipient) = orchestrator.or(account) else {
            return Err(ConvertError {
                flag: "ethOrchAddr",
                what: "who is paid? Neither it nor -ethAcctAddr is set, and no key file names an account: add -ethOrchAddr \
                       after `--`, or the account with -ethAcctAddr"
                    .to_owned(),
            });
        };
        let key = self.document.set("chain", "recipient", recipient.to_string());
        let own = orchestrator.is_none() || account == orchestrator;
        self.mapped("ethOrchAddr", std::slice::from_ref(&key), "");
        let (fate, keys) = if orchestrator.is_none() { (Fate::Mapped, vec![key]) } else { (Fate::ByHand, Vec::new()) };
        let remark = if own {
            "the orchestrator's own account: its key stays off this box"
        } else {
            "may go on as the hot account"
        };
        self.entry("ethAcctAddr", fate, &keys, remark);
        self.entry("ethKeystorePath", Fate::ByHand, &[], "keys are not copied; see what is left to do");
        self.entry("ethPassword", Fate::ByHand, &[], "passwords are not copied; see what is left to do");
        self.todo.push(if own {
            "the key that holds the stake stays off this box. Make a hot account: `millrace-signer init --keystore \
             /etc/millrace/credentials/keystore --password-file /etc/millrace/credentials/keystore-password`, send it some \
             ETH for gas, and name it with the stake's key: setRewardCaller(HOT ACCOUNT) on the bonding manager"
                .to_owned()
        } else {
            "the account that redeemed may go on as the hot account: copy its key file to \
             /etc/millrace/credentials/keystore and its password to /etc/millrace/credentials/keystore-password, both of \
             mode 0600; or make a new one by `millrace-signer init`"
                .to_owned()
        });
        let broker = if chain_id == ARBITRUM_ONE.1 { "as shipped" } else { "of that network" };
        self.todo.push(format!(
            "signer.toml, [chain]: chain_id = {chain_id}, recipient = \"{recipient}\", ticket_broker {broker}"
        ));
        Ok(own)
    }

    /// Fees and patience.
    fn fees(&mut self) -> Result {
        if let Some(text) = self.text("maxGasPrice") {
            let price = value::integer(&text).ok_or_else(|| self.wrong("maxGasPrice", "must be wei"))?;
            if price == 0 {
                self.entry(
                    "maxGasPrice",
                    Fate::NotNeeded,
                    &[],
                    "none was set; here chain.max_gas_price_wei always bounds",
                );
            } else {
                let price = Wei::from(price).to_string();
                let remark = "signer.toml bounds it too: max_fee_per_gas_wei";
                self.map("maxGasPrice", "chain", "max_gas_price_wei", price, remark);
            }
        }
        if let Some(text) = self.text("minGasPrice") {
            let price = value::integer(&text).ok_or_else(|| self.wrong("minGasPrice", "must be wei"))?;
            self.map("minGasPrice", "chain", "min_fee_cap_wei", Wei::from(price).to_string(), "");
        }
        if let Some((seconds, remark)) = self.duration("transactionTimeout", 1000, 1, 3600)? {
            self.map("transactionTimeout", "redeem", "stuck_after_s", seconds, remark);
        }
        if let Some((count, remark)) = self.number("maxTransactionReplacements", 0, 20)? {
            self.map("maxTransactionReplacements", "redeem", "max_replacements", count, remark);
        }
        if let Some((seconds, remark)) = self.number("blockPollingInterval", 1, 60)? {
            self.map("blockPollingInterval", "chain", "poll_interval_ms", seconds.saturating_mul(1000), remark);
        }
        Ok(())
    }

    /// The round's errands. Without a word go-livepeer calls the reward when its own account is the orchestrator's.
    fn rounds(&mut self, own: bool) -> Result {
        let told = self.boolean("reward")?;
        let reward = told.unwrap_or(own);
        if told.is_some() || reward {
            let remark = "the hot account must be the reward caller";
            self.map("reward", "rounds", "reward", reward, if reward { remark } else { "" });
        }
        let initialize = self.boolean("initializeRound")?;
        if let Some(initialize) = initialize {
            self.map("initializeRound", "rounds", "initialize", initialize, "");
        }
        if let Some((seconds, remark)) = self.duration("initializeRoundMaxDelay", 1000, 0, 3600)? {
            self.map("initializeRoundMaxDelay", "rounds", "initialize_max_delay_s", seconds, remark);
        }
        if reward {
            let unasked =
                if told.is_none() { "go-livepeer called the reward unasked, so [rounds] reward is on. " } else { "" };
            self.todo.push(format!("{unasked}signer.toml, [chain]: bonding_manager, so that the reward may be called"));
        }
        if initialize == Some(true) {
            self.todo.push("signer.toml, [chain]: rounds_manager, so that rounds may be initialised".to_owned());
        }
        Ok(())
    }

    fn account(&self, flag: &'static str, text: &str) -> Result<Address> {
        let what = "no account, or its checksum is wrong (in lower case it has none)";
        prices::account(text).ok_or_else(|| self.wrong(flag, what))
    }
}

/// The account a key file says it is for; nothing else of it is looked at.
fn address_in(path: &str) -> Option<Address> {
    #[derive(serde::Deserialize)]
    struct KeyFile {
        address: String,
    }
    let path = std::path::Path::new(path);
    let text = zeroize::Zeroizing::new(read_file(path).ok().filter(|_| path.is_file())?);
    let file: KeyFile = serde_json::from_str(&text).ok()?;
    prices::account(&file.address)
}
