//! What a refusal by the contracts means: its data decoded, and one table of what to do about it.
//!
//! *Source:* livepeer-chain §13.
use std::fmt;

use ethers::types::U256;
use livepeer::broker::FaultClass;

const ERROR: [u8; 4] = [0x08, 0xc3, 0x79, 0xa0];
const PANIC: [u8; 4] = [0x4e, 0x48, 0x7b, 0x71];
/// The longest text of a contract we repeat; theirs stay below a hundred characters.
const MAX_TEXT: usize = 200;

/// Custom errors of the contracts, by selector.
pub const CUSTOM_ERRORS: &[([u8; 4], &str)] = &[
    ([0x20, 0x81, 0xb2, 0x23], "InvalidVoteType(uint8)"),
    ([0xb3, 0x80, 0x8b, 0xab], "VoteAlreadyCast()"),
    ([0x7f, 0x07, 0x44, 0x9b], "FutureLookup(uint256,uint256)"),
    ([0x86, 0x6c, 0xb4, 0x2d], "MustCallBondingManager(string)"),
    ([0x16, 0xce, 0xce, 0x48], "InvalidCaller(address,address)"),
    ([0xb9, 0x86, 0xb5, 0x99], "InvalidStartRound(uint256,uint256)"),
    ([0x10, 0x70, 0x98, 0xb2], "FutureLastClaimRound(uint256,uint256)"),
    ([0x29, 0xaf, 0x3f, 0xdf], "InvalidTotalStakeCheckpointRound(uint256,uint256)"),
    ([0x92, 0xad, 0x5a, 0x72], "MissingEarningsPool(address,uint256)"),
    ([0x28, 0xff, 0xde, 0x61], "DecreasingValues(uint256,uint256)"),
];

/// Why the EVM undid a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revert {
    /// `require` with a text.
    Text(String),
    /// A failed check of the compiler's: overflow 0x11, division by zero 0x12, index 0x32.
    Panic(U256),
    /// A custom error we know.
    Custom(&'static str),
    /// A custom error we do not know.
    Unknown([u8; 4]),
    /// No data at all: out of gas, a transfer refused, or a call to something that is no contract.
    Empty,
}

impl Revert {
    /// Reads revert data. Every input has an answer.
    #[must_use]
    pub fn decode(data: &[u8]) -> Self {
        let Some((selector, body)) = data.split_first_chunk::<4>() else {
            return Self::Empty;
        };
        match *selector {
            ERROR => text(body).map_or(Self::Unknown(*selector), Self::Text),
            PANIC if body.len() == 32 => Self::Panic(U256::from_big_endian(body)),
            known => CUSTOM_ERRORS
                .iter()
                .find(|(selector, _)| *selector == known)
                .map_or(Self::Unknown(known), |(_, name)| Self::Custom(name)),
        }
    }

    /// Reads what a node without revert data says in words, such as `execution reverted: ticket is used`.
    #[must_use]
    pub fn from_message(message: &str) -> Self {
        match message.split_once("reverted: ") {
            Some((_, reason)) => Self::Text(bounded(reason)),
            None => Self::Empty,
        }
    }
}

impl fmt::Display for Revert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Panic(code) => write!(f, "Panic(0x{code:02x})"),
            Self::Custom(name) => f.write_str(name),
            Self::Unknown(selector) => write!(f, "unknown error 0x{}", hex::encode(selector)),
            Self::Empty => f.write_str("no reason given"),
        }
    }
}

/// The text of `Error(string)`, or `None` when the encoding is not the one form compilers write.
fn text(body: &[u8]) -> Option<String> {
    let word = |at: usize| {
        let bytes = body.get(at..at.checked_add(32)?)?;
        let (high, low) = bytes.split_at(24);
        let low: [u8; 8] = low.try_into().ok()?;
        if high.iter().any(|b| *b != 0) {
            return None;
        }
        usize::try_from(u64::from_be_bytes(low)).ok()
    };
    let at = word(0)?;
    let length = word(at)?;
    let start = at.checked_add(32)?;
    let bytes = body.get(start..start.checked_add(length)?)?;
    Some(bounded(&String::from_utf8_lossy(bytes)))
}

fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

/// Which call was refused: some answers mean different things to different calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// `redeemWinningTicket`, `claimableReserve`.
    Redeem,
    /// `initializeRound` and the views on rounds.
    Round,
    /// `reward` and its variants.
    Reward,
    /// `transcoder` and its variants.
    Transcoder,
    /// Every call that moves stake.
    Stake,
    /// `withdrawFees`, `claimEarnings`.
    Fees,
    /// Deposits, reserves, unlocking.
    Funding,
    /// Proposals and votes.
    Vote,
}

/// What to do about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RevertClass {
    /// Confirm by a view, then close it.
    Done,
    /// Try again when a round starts or is initialised.
    WaitForRound,
    /// Try again when the contracts are unpaused.
    WaitForUnpause,
    /// Try again when the sender has funds.
    WaitForFunds,
    /// Try again when the recipient is in the active set.
    WaitForActiveSet,
    /// Call `reward` first.
    NeedReward,
    /// Try again only when the sender cancels its unlocking.
    Conditional,
    /// Never works.
    Permanent,
    /// A person must act.
    Operator,
    /// Makes no sense: stop this call and tell somebody.
    Bug,
}

impl RevertClass {
    /// The class as the rest of the product knows it. `reward` is due every round, so waiting for it is waiting for
    /// the round's work.
    #[must_use]
    pub fn fault(self) -> FaultClass {
        match self {
            Self::Done => FaultClass::Done,
            Self::WaitForRound | Self::NeedReward => FaultClass::WaitForRound,
            Self::WaitForUnpause => FaultClass::WaitForUnpause,
            Self::WaitForFunds => FaultClass::WaitForFunds,
            Self::WaitForActiveSet => FaultClass::WaitForActiveSet,
            Self::Conditional => FaultClass::Conditional,
            Self::Permanent => FaultClass::Permanent,
            Self::Operator => FaultClass::Operator,
            Self::Bug => FaultClass::Bug,
        }
    }
}

/// What a row of the table matches.
enum Is {
    /// The text, or the name of the custom error.
    Words(&'static str),
    /// The beginning of the text.
    Begins(&'static str),
    /// The panic code.
    Panic(u64),
    /// No data.
    Nothing,
}

use Is::{Begins, Nothing, Panic, Words};
use RevertClass::{
    Bug, Conditional, Done, NeedReward, Operator, Permanent, WaitForActiveSet, WaitForFunds, WaitForRound,
    WaitForUnpause,
};

/// The one table. The first row that matches the call (an empty list matches every call) and the answer decides.
const TABLE: &[(&[Call], Is, RevertClass)] = &[
    (&[], Words("system is paused"), WaitForUnpause),
    (&[], Words("current round is not initialized"), WaitForRound),
    // Done.
    (&[Call::Redeem], Words("ticket is used"), Done),
    (&[Call::Round], Words("round already initialized"), Done),
    (&[Call::Reward], Words("caller has already called reward for the current round"), Done),
    (&[Call::Vote], Words("VoteAlreadyCast()"), Done),
    // Redeeming.
    (&[Call::Redeem], Panic(0x11), WaitForRound),
    (&[Call::Redeem], Panic(0x12), WaitForActiveSet),
    (&[Call::Redeem], Words("sender deposit and reserve insufficient to cover ticket face value"), WaitForFunds),
    (&[Call::Redeem], Words("sender deposit and reserve are zero"), WaitForFunds),
    (&[Call::Redeem], Words("transcoder must be active"), WaitForActiveSet),
    (&[Call::Redeem], Words("transcoder must be registered"), WaitForActiveSet),
    (&[Call::Redeem], Words("sender is unlocked"), Conditional),
    (&[Call::Redeem], Words("ticket is expired"), Permanent),
    (&[Call::Redeem], Words("ticket creationRound does not have a block hash"), Permanent),
    (&[Call::Redeem], Words("ticket creationRoundBlockHash invalid for creationRound"), Permanent),
    (&[Call::Redeem], Words("recipientRand does not match recipientRandHash"), Permanent),
    (&[Call::Redeem], Words("invalid signature over ticket hash"), Permanent),
    (&[Call::Redeem], Words("INVALID_SIGNATURE_LENGTH"), Permanent),
    (&[Call::Redeem], Begins("ECDSA:"), Permanent),
    (&[Call::Redeem], Words("ticket did not win"), Permanent),
    (&[Call::Redeem], Words("ticket recipient is null address"), Permanent),
    (&[Call::Redeem], Words("ticket sender is null address"), Permanent),
    (&[Call::Redeem], Words("invalid length for ticket auxData: must be 64 bytes"), Permanent),
    (&[Call::Redeem], Words("caller must be TicketBroker"), Permanent),
    // Rounds and rewards.
    (&[Call::Round], Words("can only retrieve past block hashes"), Permanent),
    (&[Call::Reward], Words("transcoder must be active"), WaitForActiveSet),
    (&[Call::Reward], Words("caller must be an active transcoder"), WaitForActiveSet),
    (&[Call::Reward], Words("caller must be a reward caller set by the transcoder"), Operator),
    // Being an orchestrator.
    (&[Call::Transcoder], Words("can't update transcoder params, current round is locked"), WaitForRound),
    (
        &[Call::Transcoder],
        Words("caller can't be active or must have already called reward for the current round"),
        NeedReward,
    ),
    (&[Call::Transcoder], Words("transcoder must be registered"), Operator),
    (&[Call::Transcoder], Words("invalid rewardCut percentage"), Permanent),
    (&[Call::Transcoder], Words("invalid feeShare percentage"), Permanent),
    // Stake and fees.
    (&[Call::Stake], Words("transcoder has not yet called reward for the current round"), NeedReward),
    (&[Call::Stake], Words("ILLEGAL_CLAIM_EARNINGS"), NeedReward),
    (&[Call::Stake], Words("withdraw round must be before or equal to the current round"), WaitForRound),
    (&[Call::Stake], Begins("ERC20: transfer amount exceeds"), Operator),
    (&[Call::Stake], Words("delegation amount must be greater than 0"), Permanent),
    (&[Call::Stake], Words("registered transcoders can't delegate towards other addresses"), Permanent),
    (&[Call::Stake], Words("unbond amount must be greater than 0"), Permanent),
    (&[Call::Stake], Words("amount is greater than bonded amount"), Permanent),
    (&[Call::Stake], Words("invalid unbonding lock ID"), Permanent),
    (&[Call::Stake], Words("caller must be bonded"), Permanent),
    (&[Call::Stake], Words("caller must be unbonded"), Permanent),
    (&[Call::Stake], Words("INVALID_DELEGATOR"), Permanent),
    (&[Call::Stake], Words("caller must be Verifier"), Permanent),
    (&[Call::Fees], Words("invalid recipient"), Permanent),
    (&[Call::Fees], Words("insufficient fees to withdraw"), Permanent),
    (&[Call::Fees], Nothing, Operator),
    // Deposits and reserves.
    (&[Call::Funding], Words("account is locked"), WaitForRound),
    (&[Call::Funding], Words("sender deposit and reserve are zero"), Permanent),
    (&[Call::Funding], Words("no unlock request in progress"), Permanent),
    (&[Call::Funding], Words("unlock already initiated"), Done),
    // Votes.
    (&[Call::Vote], Words("Governor: vote not currently active"), WaitForRound),
    (&[Call::Vote], Words("Governor: unknown proposal id"), Permanent),
    (&[Call::Vote], Words("InvalidVoteType(uint8)"), Permanent),
    (&[Call::Vote], Words("FutureLookup(uint256,uint256)"), Permanent),
    (&[Call::Vote], Words("MustCallBondingManager(string)"), Permanent),
    (&[Call::Vote], Words("Governor: proposer votes below proposal threshold"), Operator),
];

/// What to do about this refusal of this call. Anything not in the table is a [`RevertClass::Bug`]: the contracts
/// changed, or we did.
#[must_use]
pub fn classify(call: Call, revert: &Revert) -> RevertClass {
    TABLE
        .iter()
        .find(|(calls, is, _)| (calls.is_empty() || calls.contains(&call)) && is.matches(revert))
        .map_or(Bug, |(_, _, class)| *class)
}

impl Is {
    fn matches(&self, revert: &Revert) -> bool {
        match (self, revert) {
            (Words(words), Revert::Text(text)) => text == words,
            (Words(words), Revert::Custom(name)) => name == words,
            (Begins(words), Revert::Text(text)) => text.starts_with(words),
            (Panic(code), Revert::Panic(found)) => *found == U256::from(*code),
            (Nothing, Revert::Empty) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_revert_data_is_an_unknown_error_not_a_panic() {
        let whole = hex::decode(concat!(
            "08c379a0",
            "0000000000000000000000000000000000000000000000000000000000000020",
            "000000000000000000000000000000000000000000000000000000000000000e",
            "7469636b65742069732075736564000000000000000000000000000000000000"
        ))
        .unwrap();
        assert_eq!(Revert::decode(&whole), Revert::Text("ticket is used".to_owned()));
        for cut in 4..82 {
            assert_eq!(Revert::decode(&whole[..cut]), Revert::Unknown(ERROR), "cut at {cut}");
        }
        let mut huge = whole.clone();
        huge[4..36].fill(0xff);
        assert_eq!(Revert::decode(&huge), Revert::Unknown(ERROR));
        assert_eq!(Revert::decode(&[1, 2]), Revert::Empty);
        assert_eq!(classify(Call::Redeem, &Revert::Unknown([1, 2, 3, 4])), RevertClass::Bug);
    }

    #[test]
    fn the_same_words_mean_different_things_to_different_calls() {
        let zero = Revert::Text("sender deposit and reserve are zero".to_owned());
        assert_eq!(classify(Call::Redeem, &zero), RevertClass::WaitForFunds);
        assert_eq!(classify(Call::Funding, &zero), RevertClass::Permanent);
        assert_eq!(classify(Call::Redeem, &Revert::Panic(0x11.into())), RevertClass::WaitForRound);
        assert_eq!(classify(Call::Reward, &Revert::Panic(0x11.into())), RevertClass::Bug);
    }

    #[test]
    fn a_reason_given_only_in_words_is_understood() {
        assert_eq!(Revert::from_message("execution reverted: ticket is used"), Revert::Text("ticket is used".into()));
        assert_eq!(Revert::from_message("execution reverted"), Revert::Empty);
    }
}
