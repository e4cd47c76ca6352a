//! What may be signed. Pure: a transaction and the rules in, its greatest cost or a refusal out.
//!
//! | Contract | Function | Condition |
//! |---|---|---|
//! | ticket broker | `redeemWinningTicket` | the ticket pays our recipient |
//! | ticket broker | `batchRedeemWinningTickets` | every ticket pays our recipient |
//! | rounds manager | `initializeRound` | |
//! | bonding manager | `rewardForTranscoder`, `rewardForTranscoderWithHint` | for our recipient |
//!
//! Always: our chain, no value, gas limit and fee within their caps. Everything else is refused: the hot key
//! cannot send ether, fund a deposit, bond, vote or approve.
use livepeer::address::Address;
use livepeer::transaction::Transaction;
use livepeer::units::Wei;
use primitive_types::U256;
use signer_protocol::Refusal;

use crate::config::ChainConfig;

const REDEEM: [u8; 4] = [0xec, 0x8b, 0x3c, 0xb6];
const BATCH_REDEEM: [u8; 4] = [0xd0, 0x1b, 0x80, 0x8e];
const INITIALIZE_ROUND: [u8; 4] = [0xd4, 0x80, 0x7f, 0xb2];
const REWARD_FOR: [u8; 4] = [0x1a, 0x8c, 0x41, 0xf8];
const REWARD_FOR_WITH_HINT: [u8; 4] = [0xb5, 0x56, 0x96, 0x6a];
/// Most tickets in a batch whose recipients are looked at.
const MAX_BATCH: usize = 64;

/// What the transaction can cost at most, if it may be signed at all. The day's limit is not looked at here.
pub(crate) fn examine(rules: Option<&ChainConfig>, transaction: &Transaction) -> Result<Wei, Refusal> {
    let rules = rules.ok_or(Refusal::OffChain)?;
    if transaction.chain_id != rules.chain_id {
        return Err(Refusal::WrongChain { expected: rules.chain_id, found: transaction.chain_id });
    }
    if !transaction.value.is_zero() {
        return Err(Refusal::Value { value: transaction.value });
    }
    examine_call(rules, transaction)?;
    if transaction.gas_limit > rules.max_gas_limit {
        return Err(Refusal::GasLimit { found: transaction.gas_limit, cap: rules.max_gas_limit });
    }
    let dearest = transaction.max_fee_per_gas.max(transaction.max_priority_fee_per_gas);
    if dearest > rules.max_fee_per_gas_wei {
        return Err(Refusal::Fee { found: dearest, cap: rules.max_fee_per_gas_wei });
    }
    transaction.max_cost().ok_or(Refusal::Fee { found: dearest, cap: rules.max_fee_per_gas_wei })
}

fn examine_call(rules: &ChainConfig, transaction: &Transaction) -> Result<(), Refusal> {
    let (to, recipient) = (transaction.to, rules.recipient);
    let selector = transaction.data.get(..4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    let text = || hex::encode(transaction.data.get(..4).unwrap_or(&transaction.data));
    let forbidden = || Refusal::ForbiddenCall { to, selector: text() };
    let arguments = Words(transaction.data.get(4..).unwrap_or_default());
    let selector = selector.ok_or_else(forbidden)?;
    let ours = if to == rules.ticket_broker && selector == REDEEM {
        arguments.at(0).and_then(|ticket| arguments.address(ticket)) == Some(recipient)
    } else if to == rules.ticket_broker && selector == BATCH_REDEEM {
        batch_recipients(arguments).is_some_and(|all| !all.is_empty() && all.iter().all(|one| *one == recipient))
    } else if Some(to) == rules.rounds_manager && selector == INITIALIZE_ROUND {
        transaction.data.len() == 4
    } else if Some(to) == rules.bonding_manager && (selector == REWARD_FOR || selector == REWARD_FOR_WITH_HINT) {
        arguments.address(0) == Some(recipient)
    } else {
        return Err(forbidden());
    };
    if ours { Ok(()) } else { Err(Refusal::ForeignRecipient { selector: text(), recipient }) }
}

/// Who is paid by each ticket of a batch; `None` when the arguments do not decode.
fn batch_recipients(arguments: Words<'_>) -> Option<Vec<Address>> {
    let array = arguments.at(0)?;
    let count = arguments.at(array)?;
    if count > MAX_BATCH {
        return None;
    }
    let tickets = Words(arguments.0.get(array.checked_add(32)?..)?);
    (0..count).map(|i| tickets.address(tickets.at(i.checked_mul(32)?)?)).collect()
}

/// Call arguments in the contract ABI: 32-byte words, offsets in bytes.
#[derive(Clone, Copy)]
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn word(self, offset: usize) -> Option<[u8; 32]> {
        self.0.get(offset..offset.checked_add(32)?)?.try_into().ok()
    }

    /// A word that is an offset or a count.
    fn at(self, offset: usize) -> Option<usize> {
        let number = U256::from_big_endian(&self.word(offset)?);
        (number.bits() <= 32).then(|| usize::try_from(number.low_u64()).ok())?
    }

    fn address(self, offset: usize) -> Option<Address> {
        let word = self.word(offset)?;
        let (padding, address) = word.split_at(12);
        padding.iter().all(|byte| *byte == 0).then(|| Address::from_bytes(address))?
    }
}

#[cfg(test)]
mod tests;
