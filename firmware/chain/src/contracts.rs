//! The contracts' interfaces, each written as the specification writes it. The only `abigen!` in the product.
//!
//! *Source:* livepeer-chain §2 and §4.
#![expect(missing_docs, reason = "generated from the interfaces, whose names are the contracts' own")]

use ethers::contract::abigen;

abigen!(
    Controller,
    r#"[
        function getContract(bytes32 _id) view returns (address)
        function getContractInfo(bytes32 _id) view returns (address, bytes20)
        function paused() view returns (bool)
        function owner() view returns (address)
        event SetContractInfo(bytes32 id, address contractAddress, bytes20 gitCommitHash)
        event Pause()
        event Unpause()
    ]"#
);

abigen!(
    TicketBroker,
    r#"[
        struct Ticket { address recipient; address sender; uint256 faceValue; uint256 winProb; uint256 senderNonce; bytes32 recipientRandHash; bytes auxData; }
        struct SenderState { uint256 deposit; uint256 withdrawRound; }
        struct ReserveInfo { uint256 fundsRemaining; uint256 claimedInCurrentRound; }
        function redeemWinningTicket(Ticket _ticket, bytes _sig, uint256 _recipientRand)
        function batchRedeemWinningTickets(Ticket[] _tickets, bytes[] _sigs, uint256[] _recipientRands)
        function getTicketHash(Ticket _ticket) pure returns (bytes32)
        function usedTickets(bytes32) view returns (bool)
        function getSenderInfo(address _sender) view returns (SenderState sender, ReserveInfo reserve)
        function getReserveInfo(address _reserveHolder) view returns (ReserveInfo info)
        function claimableReserve(address _reserveHolder, address _claimant) view returns (uint256)
        function claimedReserve(address _reserveHolder, address _claimant) view returns (uint256)
        function isUnlockInProgress(address _sender) view returns (bool)
        function unlockPeriod() view returns (uint256)
        function ticketValidityPeriod() view returns (uint256)
        function fundDeposit() payable
        function fundReserve() payable
        function fundDepositAndReserve(uint256 _depositAmount, uint256 _reserveAmount) payable
        function fundDepositAndReserveFor(address _addr, uint256 _depositAmount, uint256 _reserveAmount) payable
        function unlock()
        function cancelUnlock()
        function withdraw()
        event DepositFunded(address indexed sender, uint256 amount)
        event ReserveFunded(address indexed reserveHolder, uint256 amount)
        event ReserveClaimed(address indexed reserveHolder, address claimant, uint256 amount)
        event WinningTicketTransfer(address indexed sender, address indexed recipient, uint256 amount)
        event WinningTicketRedeemed(address indexed sender, address indexed recipient, uint256 faceValue, uint256 winProb, uint256 senderNonce, uint256 recipientRand, bytes auxData)
        event Unlock(address indexed sender, uint256 startRound, uint256 endRound)
        event UnlockCancelled(address indexed sender)
        event Withdrawal(address indexed sender, uint256 deposit, uint256 reserve)
    ]"#
);

abigen!(
    RoundsManager,
    r#"[
        function initializeRound()
        function currentRound() view returns (uint256)
        function currentRoundInitialized() view returns (bool)
        function currentRoundLocked() view returns (bool)
        function currentRoundStartBlock() view returns (uint256)
        function lastInitializedRound() view returns (uint256)
        function blockHashForRound(uint256 _round) view returns (bytes32)
        function blockNum() view returns (uint256)
        function blockHash(uint256 _block) view returns (bytes32)
        function roundLength() view returns (uint256)
        function roundLockAmount() view returns (uint256)
        function lastRoundLengthUpdateRound() view returns (uint256)
        function lastRoundLengthUpdateStartBlock() view returns (uint256)
        function lipUpgradeRound(uint256) view returns (uint256)
        event NewRound(uint256 indexed round, bytes32 blockHash)
    ]"#
);

abigen!(
    BondingManager,
    r#"[
        function reward()
        function rewardWithHint(address _newPosPrev, address _newPosNext)
        function rewardForTranscoder(address _transcoder)
        function rewardForTranscoderWithHint(address _transcoder, address _newPosPrev, address _newPosNext)
        function transcoderToRewardCaller(address) view returns (address)
        function pendingStake(address _delegator, uint256 _endRound) view returns (uint256)
        function pendingFees(address _delegator, uint256 _endRound) view returns (uint256)
        function transcoderTotalStake(address _transcoder) view returns (uint256)
        function transcoderStatus(address _transcoder) view returns (uint8)
        function delegatorStatus(address _delegator) view returns (uint8)
        function getTranscoder(address _transcoder) view returns (uint256 lastRewardRound, uint256 rewardCut, uint256 feeShare, uint256 lastActiveStakeUpdateRound, uint256 activationRound, uint256 deactivationRound, uint256 activeCumulativeRewards, uint256 cumulativeRewards, uint256 cumulativeFees, uint256 lastFeeRound)
        function getDelegator(address _delegator) view returns (uint256 bondedAmount, uint256 fees, address delegateAddress, uint256 delegatedAmount, uint256 startRound, uint256 lastClaimRound, uint256 nextUnbondingLockId)
        function getTranscoderPoolMaxSize() view returns (uint256)
        function getTranscoderPoolSize() view returns (uint256)
        function getFirstTranscoderInPool() view returns (address)
        function getNextTranscoderInPool(address _transcoder) view returns (address)
        function isActiveTranscoder(address _transcoder) view returns (bool)
        function isRegisteredTranscoder(address _transcoder) view returns (bool)
        function getTotalBonded() view returns (uint256)
        function getDelegatorUnbondingLock(address _delegator, uint256 _unbondingLockId) view returns (uint256 amount, uint256 withdrawRound)
        function unbondingPeriod() view returns (uint64)
        event Reward(address indexed transcoder, uint256 amount)
        event RewardCallerSet(address indexed transcoder, address indexed rewardCaller)
        event TranscoderUpdate(address indexed transcoder, uint256 rewardCut, uint256 feeShare)
        event TranscoderActivated(address indexed transcoder, uint256 activationRound)
        event TranscoderDeactivated(address indexed transcoder, uint256 deactivationRound)
    ]"#
);

abigen!(
    Minter,
    r#"[
        function inflation() view returns (uint256)
        function inflationChange() view returns (uint256)
        function targetBondingRate() view returns (uint256)
        function getGlobalTotalSupply() view returns (uint256)
    ]"#
);

abigen!(
    LivepeerToken,
    r#"[
        function balanceOf(address account) view returns (uint256)
    ]"#
);

abigen!(
    ServiceRegistry,
    r#"[
        function setServiceURI(string _serviceURI)
        function getServiceURI(address _addr) view returns (string)
        event ServiceURIUpdate(address indexed addr, string serviceURI)
    ]"#
);

abigen!(
    NodeInterface,
    r#"[
        function gasEstimateL1Component(address to, bool contractCreation, bytes data) payable returns (uint64 gasEstimateForL1, uint256 baseFee, uint256 l1BaseFeeEstimate)
    ]"#
);

abigen!(
    PriceFeed,
    r#"[
        function latestRoundData() view returns (uint80 roundId, int256 answer, uint256 startedAt, uint256 updatedAt, uint80 answeredInRound)
        function decimals() view returns (uint8)
        function description() view returns (string)
    ]"#
);
