//! The development deployment of the Livepeer contracts.
//!
//! Transactions are sent from unlocked accounts of the local EVM node, so no key appears here: the cold key's doings
//! (stake, service URI) and the gateway's funding are what a person does elsewhere.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chain::{ChainConfig, contract_id};
use ethers::abi::{Abi, Token, Tokenizable};
use ethers::types::{Bytes, H160, H256, TransactionReceipt, U256};
use livepeer::address::Address;
use livepeer::units::{Round, Wei};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::anvil::{Anvil, Mining, repository};

/// The account that deploys and owns everything.
const OWNER: Address = Address(H160([0x0d; 20]));
/// What each account we act for is given, in wei: a thousand ether.
const POCKET: u128 = 1_000_000_000_000_000_000_000;

/// When a transaction that is mined at once should long have been.
const SLEPT_OVER: Duration = Duration::from_secs(5);
/// How long a transaction may wait for its block.
const MINED: Duration = Duration::from_secs(60);
/// How often its receipt is asked for.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Terms of a development deployment. The defaults suit the demo.
#[derive(Debug, Clone)]
pub struct Params {
    /// Blocks per round; longer than the 40 blocks a ticket offer lives.
    pub round_length: u64,
    /// Share of the round in which rates are fixed, in parts per million.
    pub round_lock_amount: u64,
    /// Number of the round that begins with the deployment.
    pub first_round: u64,
    /// Rounds until unbonded stake is free.
    pub unbonding_period: u64,
    /// Rounds a sender must wait to withdraw.
    pub unlock_period: u64,
    /// Rounds a ticket is good for.
    pub ticket_validity_period: u64,
    /// Size of the active set.
    pub pool_size: u64,
    /// Inflation per round, in parts per thousand million.
    pub inflation: u64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            round_length: 100,
            round_lock_amount: 100_000,
            first_round: 1,
            unbonding_period: 7,
            unlock_period: 2,
            ticket_validity_period: 2,
            pool_size: 100,
            inflation: 222_500,
        }
    }
}

/// One compiled contract.
#[derive(Debug, Deserialize)]
struct Artefact {
    abi: Abi,
    bytecode: Bytes,
    slots: BTreeMap<String, String>,
}

/// A deployment of our contracts on a local EVM node.
#[derive(Debug)]
pub struct DevChain<'a> {
    anvil: &'a Anvil,
    contracts: BTreeMap<&'static str, (Address, Artefact)>,
}

impl<'a> DevChain<'a> {
    /// Deploys the contracts, initialises the first round they are in.
    ///
    /// # Errors
    /// When the contracts are not compiled or the node refuses a step.
    pub async fn deploy(anvil: &'a Anvil, params: &Params) -> Result<DevChain<'a>> {
        anvil.request::<Value>("anvil_autoImpersonateAccount", json!([true])).await?;
        anvil.set_balance(OWNER, Wei(POCKET.into())).await?;
        let mut chain = Self { anvil, contracts: BTreeMap::new() };
        let n = |n: u64| Token::Uint(n.into());
        let controller = chain.create("Controller", &[]).await?;
        let controller = Token::Address(controller.0);
        chain.create("LivepeerToken", &[]).await?;
        chain.create("Minter", &[controller.clone(), n(params.inflation), n(500), n(500_000_000)]).await?;
        chain.create("BondingManager", &[controller.clone(), n(params.unbonding_period), n(params.pool_size)]).await?;
        chain
            .create("TicketBroker", &[controller.clone(), n(params.unlock_period), n(params.ticket_validity_period)])
            .await?;
        let rounds = [controller, n(params.round_length), n(params.round_lock_amount), n(params.first_round)];
        chain.create("RoundsManager", &rounds).await?;
        chain.create("ServiceRegistry", &[]).await?;
        for name in ["LivepeerToken", "Minter", "BondingManager", "TicketBroker", "RoundsManager", "ServiceRegistry"] {
            for id in [name.to_owned(), format!("{name}Target")] {
                let entry =
                    [fixed(contract_id(&id)), Token::Address(chain.address(name).0), Token::FixedBytes(vec![0; 20])];
                chain.send(OWNER, "Controller", "setContractInfo", &entry, Wei::ZERO).await?;
            }
        }
        let minter = chain.address("Minter");
        chain.send(OWNER, "LivepeerToken", "setMinter", &[Token::Address(minter.0)], Wei::ZERO).await?;
        chain.initialize_round().await?;
        Ok(chain)
    }

    /// The address of a contract by its name in the Controller (or `Controller`).
    ///
    /// # Panics
    /// When there is no such contract.
    #[must_use]
    pub fn address(&self, name: &str) -> Address {
        self.contracts.get(name).map_or_else(|| panic!("no contract {name}"), |(address, _)| *address)
    }

    /// The storage slot of a contract's state variable.
    ///
    /// # Panics
    /// When there is no such contract or variable.
    #[must_use]
    pub fn slot(&self, name: &str, variable: &str) -> U256 {
        let (_, artefact) = self.contracts.get(name).unwrap_or_else(|| panic!("no contract {name}"));
        let slot = artefact.slots.get(variable).unwrap_or_else(|| panic!("no variable {variable}"));
        U256::from_dec_str(slot).expect("the compiler writes decimal slots")
    }

    /// A chain configuration for a recipient, made for a development chain: fast polls, one confirmation.
    #[must_use]
    pub fn config(&self, recipient: Address) -> ChainConfig {
        let controller = self.address("Controller");
        let mut config = ChainConfig::new(vec![self.anvil.endpoint()], controller, self.anvil.chain_id(), recipient);
        config.poll_interval_ms = 200;
        config.request_timeout_ms = 5_000;
        config.confirmations = 1;
        config
    }

    /// Gives a gateway's account a deposit and a reserve.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn fund_sender(&self, sender: Address, deposit: Wei, reserve: Wei) -> Result<()> {
        let sum = deposit.checked_add(reserve).context("deposit and reserve overflow")?;
        self.anvil.set_balance(sender, sum.saturating_add(Wei(POCKET.into()))).await?;
        let amounts = [Token::Uint(deposit.0), Token::Uint(reserve.0)];
        self.send(sender, "TicketBroker", "fundDepositAndReserve", &amounts, sum).await.map(drop)
    }

    /// Bonds stake to itself and sets rates; the orchestrator is active from the next round on.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn register_orchestrator(&self, orchestrator: Address, stake: Wei) -> Result<()> {
        self.give_stake(orchestrator, stake).await?;
        let bond = [Token::Uint(stake.0), Token::Address(orchestrator.0)];
        self.send(orchestrator, "BondingManager", "bond", &bond, Wei::ZERO).await?;
        let rates = [Token::Uint(1_000_000.into()), Token::Uint(0.into())];
        self.send(orchestrator, "BondingManager", "transcoder", &rates, Wei::ZERO).await.map(drop)
    }

    /// Registers and goes to the next round, so that the orchestrator is active now.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn activate_orchestrator(&self, orchestrator: Address, stake: Wei) -> Result<()> {
        self.register_orchestrator(orchestrator, stake).await?;
        self.next_round().await.map(drop)
    }

    /// Gives an account stake tokens, gas and the allowance to bond them.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn give_stake(&self, account: Address, stake: Wei) -> Result<()> {
        self.anvil.set_balance(account, Wei(POCKET.into())).await?;
        let mint = [Token::Address(account.0), Token::Uint(stake.0)];
        self.send(OWNER, "LivepeerToken", "mint", &mint, Wei::ZERO).await?;
        let approve = [Token::Address(self.address("BondingManager").0), Token::Uint(stake.0)];
        self.send(account, "LivepeerToken", "approve", &approve, Wei::ZERO).await.map(drop)
    }

    /// Sets the service URI of an account, as its cold key would.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn set_service_uri(&self, account: Address, uri: &str) -> Result<()> {
        self.anvil.set_balance(account, Wei(POCKET.into())).await?;
        let uri = [Token::String(uri.to_owned())];
        self.send(account, "ServiceRegistry", "setServiceURI", &uri, Wei::ZERO).await.map(drop)
    }

    /// Names the account that may call reward for an orchestrator.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn set_reward_caller(&self, orchestrator: Address, caller: Address) -> Result<()> {
        let caller = [Token::Address(caller.0)];
        self.send(orchestrator, "BondingManager", "setRewardCaller", &caller, Wei::ZERO).await.map(drop)
    }

    /// Initialises the current round; anyone may.
    ///
    /// # Errors
    /// When it is initialised already.
    pub async fn initialize_round(&self) -> Result<()> {
        self.send(OWNER, "RoundsManager", "initializeRound", &[], Wei::ZERO).await.map(drop)
    }

    /// Makes so many blocks.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn advance_blocks(&self, blocks: u64) -> Result<()> {
        self.anvil.mine(blocks).await
    }

    /// Goes to the first block of the next round, without initialising it.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn skip_to_next_round(&self) -> Result<Round> {
        let start = self.view_number("RoundsManager", "currentRoundStartBlock", &[]).await?;
        let length = self.view_number("RoundsManager", "roundLength", &[]).await?;
        let now = self.anvil.block_number().await?;
        let target = start.saturating_add(length);
        self.anvil.mine(target.saturating_sub(U256::from(now)).as_u64()).await?;
        self.round().await
    }

    /// Goes to the next round and initialises it.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn next_round(&self) -> Result<Round> {
        self.skip_to_next_round().await?;
        self.initialize_round().await?;
        self.round().await
    }

    /// The current round.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn round(&self) -> Result<Round> {
        Ok(Round(self.view_number("RoundsManager", "currentRound", &[]).await?.as_u64()))
    }

    /// Pauses or unpauses the contracts.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn set_paused(&self, paused: bool) -> Result<()> {
        let function = if paused { "pause" } else { "unpause" };
        self.send(OWNER, "Controller", function, &[], Wei::ZERO).await.map(drop)
    }

    /// Fees an orchestrator may withdraw.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn pending_fees(&self, orchestrator: Address) -> Result<Wei> {
        let question = [Token::Address(orchestrator.0), Token::Uint(0.into())];
        Ok(Wei(self.view_number("BondingManager", "pendingFees", &question).await?))
    }

    /// Overwrites the block hash the contracts remember for a round, and whether it counts as initialised.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn set_round_hash(&self, round: Round, hash: H256) -> Result<()> {
        let slot = self.slot("RoundsManager", "blockHashForRound");
        let mut key = [0; 64];
        U256::from(round.0).to_big_endian(&mut key[..32]);
        slot.to_big_endian(&mut key[32..]);
        let place = livepeer::address::keccak256(&key);
        self.set_storage("RoundsManager", place, hash).await
    }

    async fn set_storage(&self, name: &str, place: H256, value: H256) -> Result<()> {
        let params = json!([self.address(name).0, place, value]);
        self.anvil.request::<Value>("anvil_setStorageAt", params).await.map(drop)
    }

    /// Calls a function that changes nothing and returns one number.
    ///
    /// # Errors
    /// When the contract or the node refuses.
    pub async fn view_number(&self, name: &str, function: &str, args: &[Token]) -> Result<U256> {
        let token = self.view(name, function, args).await?.into_iter().next().context("no answer")?;
        Ok(U256::from_token(token)?)
    }

    /// Calls a function that changes nothing.
    ///
    /// # Errors
    /// When the contract or the node refuses.
    pub async fn view(&self, name: &str, function: &str, args: &[Token]) -> Result<Vec<Token>> {
        let data = self.encode(name, function, args)?;
        let call = json!([{ "to": self.address(name).0, "data": data }, "latest"]);
        let answer: Bytes = self.anvil.request("eth_call", call).await.with_context(|| format!("{name}.{function}"))?;
        let (_, artefact) = self.contracts.get(name).context("no such contract")?;
        Ok(artefact.abi.function(function)?.decode_output(&answer)?)
    }

    /// The call data of a function.
    ///
    /// # Errors
    /// When there is no such function or the arguments do not fit.
    pub fn encode(&self, name: &str, function: &str, args: &[Token]) -> Result<Bytes> {
        let (_, artefact) = self.contracts.get(name).with_context(|| format!("no contract {name}"))?;
        Ok(artefact.abi.function(function)?.encode_input(args)?.into())
    }

    /// Sends a transaction from any account and waits until it is mined.
    ///
    /// # Errors
    /// When it is refused or reverts.
    pub async fn send(
        &self,
        from: Address,
        name: &str,
        function: &str,
        args: &[Token],
        value: Wei,
    ) -> Result<TransactionReceipt> {
        let data = self.encode(name, function, args)?;
        self.transact(from, Some(self.address(name)), data, value)
            .await
            .with_context(|| format!("{name}.{function} from {from}"))
    }

    /// Deploys a price feed, which has told nothing yet.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn deploy_price_feed(&mut self, description: &str, decimals: u8) -> Result<Address> {
        self.create("PriceFeed", &[Token::String(description.to_owned()), Token::Uint(decimals.into())]).await
    }

    /// Makes the price feed tell this from now on.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn tell_price(&self, answer: i64, updated_at: u64) -> Result<()> {
        let told = [Token::Int(ethers::types::I256::from(answer).into_raw()), Token::Uint(updated_at.into())];
        self.send(OWNER, "PriceFeed", "tell", &told, Wei::ZERO).await.map(drop)
    }

    async fn create(&mut self, name: &'static str, args: &[Token]) -> Result<Address> {
        let path: PathBuf = repository().join(".tools/contracts").join(format!("{name}.json"));
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{name} is not compiled: run tests/contracts/install.sh"))?;
        let artefact: Artefact = serde_json::from_str(&text).with_context(|| format!("artefact of {name}"))?;
        let code = match &artefact.abi.constructor {
            Some(constructor) => constructor.encode_input(artefact.bytecode.to_vec(), args)?,
            None => artefact.bytecode.to_vec(),
        };
        let receipt =
            self.transact(OWNER, None, code.into(), Wei::ZERO).await.with_context(|| format!("deploy {name}"))?;
        let address = Address(receipt.contract_address.context("no address for a new contract")?);
        self.contracts.insert(name, (address, artefact));
        Ok(address)
    }

    /// Sends a transaction from any account and waits until it is mined.
    ///
    /// # Errors
    /// When it is refused or reverts.
    pub async fn transact(
        &self,
        from: Address,
        to: Option<Address>,
        data: Bytes,
        value: Wei,
    ) -> Result<TransactionReceipt> {
        let mut call = json!({ "from": from.0, "data": data, "value": value.0 });
        if let Some(to) = to {
            call["to"] = json!(to.0);
        }
        let mut hash: H256 = self.anvil.request("eth_sendTransaction", json!([&call])).await?;
        let receipt = tokio::time::timeout(MINED, async {
            let mut sent = Instant::now();
            loop {
                let receipt: Option<TransactionReceipt> =
                    self.anvil.request("eth_getTransactionReceipt", json!([hash])).await?;
                match (receipt, self.anvil.mining()) {
                    (Some(receipt), _) => return anyhow::Ok(receipt),
                    (None, Mining::OnDemand) => self.anvil.mine(1).await?,
                    // Seen on a loaded machine: the node slept over a transaction, and is woken; or after a rewind it took
                    // it for the one of the same number that it had just unmade, and has none of it: it is sent again.
                    (None, Mining::OnTransaction) if sent.elapsed() > SLEPT_OVER => {
                        let known: Option<Value> =
                            self.anvil.request("eth_getTransactionByHash", json!([hash])).await?;
                        if known.is_none() {
                            hash = self.anvil.request("eth_sendTransaction", json!([&call])).await?;
                        }
                        self.anvil.mine(1).await?;
                        sent = Instant::now();
                    }
                    (None, Mining::OnTransaction | Mining::Every(_)) => tokio::time::sleep(LOOK_AGAIN).await,
                }
            }
        })
        .await
        .context("a transaction was not mined in time")??;
        if receipt.status != Some(1.into()) {
            bail!("transaction {hash:?} reverted");
        }
        Ok(receipt)
    }
}

fn fixed(bytes: [u8; 32]) -> Token {
    Token::FixedBytes(bytes.to_vec())
}
