// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import "./Managed.sol";

/// Stake, the pool of orchestrators ordered by stake, the active set, rewards and fees.
///
/// Simpler than the deployed contract where the node cannot see it: rewards and fees are credited wholly to the
/// orchestrator (as with rewardCut 100 % and feeShare 0), position hints are accepted and not used, and there are
/// no voting checkpoints.
contract BondingManager is Managed {
    struct Lock {
        uint256 amount;
        uint256 withdrawRound;
    }

    struct Delegator {
        uint256 bondedAmount;
        uint256 fees;
        address delegateAddress;
        uint256 delegatedAmount;
        uint256 startRound;
        uint256 lastClaimRound;
        uint256 nextUnbondingLockId;
        mapping(uint256 => Lock) locks;
    }

    struct Transcoder {
        uint256 lastRewardRound;
        uint256 rewardCut;
        uint256 feeShare;
        uint256 lastActiveStakeUpdateRound;
        uint256 activationRound;
        uint256 deactivationRound;
        uint256 cumulativeRewards;
        uint256 cumulativeFees;
        uint256 lastFeeRound;
        // Stake that counts from `lastActiveStakeUpdateRound` on, and what counted before it.
        uint256 activeStake;
        uint256 previousActiveStake;
    }

    /// One entry of the pool: its neighbours, the zero address at the ends.
    struct Place {
        address prev;
        address next;
    }

    enum TranscoderStatus { NotRegistered, Registered }
    enum DelegatorStatus { Pending, Bonded, Unbonded }

    event Bond(
        address indexed newDelegate,
        address indexed oldDelegate,
        address indexed delegator,
        uint256 additionalAmount,
        uint256 bondedAmount
    );
    event Unbond(
        address indexed delegate,
        address indexed delegator,
        uint256 unbondingLockId,
        uint256 amount,
        uint256 withdrawRound
    );
    event Rebond(address indexed delegate, address indexed delegator, uint256 unbondingLockId, uint256 amount);
    event WithdrawStake(address indexed delegator, uint256 unbondingLockId, uint256 amount, uint256 withdrawRound);
    event WithdrawFees(address indexed delegator, address recipient, uint256 amount);
    event Reward(address indexed transcoder, uint256 amount);
    event RewardCallerSet(address indexed transcoder, address indexed rewardCaller);
    event TranscoderUpdate(address indexed transcoder, uint256 rewardCut, uint256 feeShare);
    event TranscoderActivated(address indexed transcoder, uint256 activationRound);
    event TranscoderDeactivated(address indexed transcoder, uint256 deactivationRound);

    uint256 private constant PERCENT = 1_000_000;
    uint256 private constant NEVER = type(uint256).max;

    uint64 public unbondingPeriod;
    uint256 public currentRoundTotalActiveStake;
    uint256 public nextRoundTotalActiveStake;
    mapping(address => address) public transcoderToRewardCaller;

    mapping(address => Delegator) private delegators;
    mapping(address => Transcoder) private transcoders;
    mapping(address => Place) private pool;
    address private first;
    address private last;
    uint256 private poolSize;
    uint256 private poolMaxSize;
    uint256 private totalBonded;

    constructor(address controller_, uint64 unbondingPeriod_, uint256 poolMaxSize_) Managed(controller_) {
        require(poolMaxSize_ > 0, "pool size cannot be 0");
        unbondingPeriod = unbondingPeriod_;
        poolMaxSize = poolMaxSize_;
    }

    // Bonding.

    function bond(uint256 amount, address to) external {
        _bond(amount, to);
    }

    function bondWithHint(uint256 amount, address to, address, address, address, address) external {
        _bond(amount, to);
    }

    function _bond(uint256 amount, address to) private whenSystemNotPaused whenRoundInitialized {
        Delegator storage delegator = delegators[msg.sender];
        address old = delegator.delegateAddress;
        uint256 moved = amount;
        if (delegatorStatus(msg.sender) == DelegatorStatus.Unbonded) {
            delegator.startRound = _round() + 1;
        } else if (old != to) {
            require(
                !isRegisteredTranscoder(msg.sender),
                "registered transcoders can't delegate towards other addresses"
            );
            delegator.startRound = _round() + 1;
            moved += delegator.bondedAmount;
            _decrease(old, delegator.bondedAmount);
        }
        require(moved > 0, "delegation amount must be greater than 0");
        delegator.delegateAddress = to;
        delegator.bondedAmount += amount;
        totalBonded += amount;
        _increase(to, moved);
        if (amount > 0) {
            token().transferFrom(msg.sender, address(minter()), amount);
        }
        emit Bond(to, old, msg.sender, amount, delegator.bondedAmount);
    }

    function unbond(uint256 amount) external {
        _unbond(amount);
    }

    function unbondWithHint(uint256 amount, address, address) external {
        _unbond(amount);
    }

    function _unbond(uint256 amount) private whenSystemNotPaused whenRoundInitialized {
        require(delegatorStatus(msg.sender) == DelegatorStatus.Bonded, "caller must be bonded");
        require(amount > 0, "unbond amount must be greater than 0");
        Delegator storage delegator = delegators[msg.sender];
        require(amount <= delegator.bondedAmount, "amount is greater than bonded amount");
        address delegate = delegator.delegateAddress;
        uint256 id = delegator.nextUnbondingLockId++;
        uint256 withdrawRound = _round() + unbondingPeriod;
        delegator.locks[id] = Lock(amount, withdrawRound);
        delegator.bondedAmount -= amount;
        totalBonded -= amount;
        if (delegator.bondedAmount == 0) {
            delegator.delegateAddress = address(0);
            delegator.startRound = 0;
        }
        _decrease(delegate, amount);
        if (delegate == msg.sender && delegator.bondedAmount == 0 && _inPool(msg.sender)) {
            _leave(msg.sender);
        }
        emit Unbond(delegate, msg.sender, id, amount, withdrawRound);
    }

    function rebond(uint256 id) external {
        _rebond(id);
    }

    function rebondWithHint(uint256 id, address, address) external {
        _rebond(id);
    }

    function _rebond(uint256 id) private whenSystemNotPaused whenRoundInitialized {
        require(delegatorStatus(msg.sender) != DelegatorStatus.Unbonded, "caller must be bonded");
        _processRebond(id);
    }

    function rebondFromUnbonded(address to, uint256 id) external {
        _rebondFromUnbonded(to, id);
    }

    function rebondFromUnbondedWithHint(address to, uint256 id, address, address) external {
        _rebondFromUnbonded(to, id);
    }

    function _rebondFromUnbonded(address to, uint256 id) private whenSystemNotPaused whenRoundInitialized {
        require(delegatorStatus(msg.sender) == DelegatorStatus.Unbonded, "caller must be unbonded");
        delegators[msg.sender].startRound = _round() + 1;
        delegators[msg.sender].delegateAddress = to;
        _processRebond(id);
    }

    function _processRebond(uint256 id) private {
        Delegator storage delegator = delegators[msg.sender];
        require(isValidUnbondingLock(msg.sender, id), "invalid unbonding lock ID");
        uint256 amount = delegator.locks[id].amount;
        delete delegator.locks[id];
        delegator.bondedAmount += amount;
        totalBonded += amount;
        _increase(delegator.delegateAddress, amount);
        emit Rebond(delegator.delegateAddress, msg.sender, id, amount);
    }

    function withdrawStake(uint256 id) external whenSystemNotPaused whenRoundInitialized {
        require(isValidUnbondingLock(msg.sender, id), "invalid unbonding lock ID");
        Lock memory lock = delegators[msg.sender].locks[id];
        require(lock.withdrawRound <= _round(), "withdraw round must be before or equal to the current round");
        delete delegators[msg.sender].locks[id];
        minter().transferTokens(msg.sender, lock.amount);
        emit WithdrawStake(msg.sender, id, lock.amount, lock.withdrawRound);
    }

    // Being an orchestrator.

    function transcoder(uint256 rewardCut, uint256 feeShare) external {
        _transcoder(rewardCut, feeShare);
    }

    function transcoderWithHint(uint256 rewardCut, uint256 feeShare, address, address) external {
        _transcoder(rewardCut, feeShare);
    }

    function _transcoder(uint256 rewardCut, uint256 feeShare) private whenSystemNotPaused whenRoundInitialized {
        require(!rounds().currentRoundLocked(), "can't update transcoder params, current round is locked");
        require(rewardCut <= PERCENT, "invalid rewardCut percentage");
        require(feeShare <= PERCENT, "invalid feeShare percentage");
        require(isRegisteredTranscoder(msg.sender), "transcoder must be registered");
        Transcoder storage t = transcoders[msg.sender];
        require(
            !isActiveTranscoder(msg.sender) || t.lastRewardRound == _round(),
            "caller can't be active or must have already called reward for the current round"
        );
        t.rewardCut = rewardCut;
        t.feeShare = feeShare;
        if (!_inPool(msg.sender)) {
            _tryJoin(msg.sender, delegators[msg.sender].delegatedAmount);
        }
        emit TranscoderUpdate(msg.sender, rewardCut, feeShare);
    }

    function setRewardCaller(address rewardCaller) external whenSystemNotPaused {
        transcoderToRewardCaller[msg.sender] = rewardCaller;
        emit RewardCallerSet(msg.sender, rewardCaller);
    }

    function reward() external {
        _reward(msg.sender);
    }

    function rewardWithHint(address, address) external {
        _reward(msg.sender);
    }

    function rewardForTranscoder(address account) external {
        _rewardFor(account);
    }

    function rewardForTranscoderWithHint(address account, address, address) external {
        _rewardFor(account);
    }

    function _rewardFor(address account) private {
        require(
            transcoderToRewardCaller[account] == msg.sender,
            "caller must be a reward caller set by the transcoder"
        );
        _reward(account);
    }

    function _reward(address account) private whenSystemNotPaused whenRoundInitialized {
        uint256 round = _round();
        require(isActiveTranscoder(account), "transcoder must be active");
        Transcoder storage t = transcoders[account];
        require(t.lastRewardRound != round, "caller has already called reward for the current round");
        t.lastRewardRound = round;
        uint256 amount = minter().createReward(_activeStake(t, round), currentRoundTotalActiveStake);
        t.cumulativeRewards += amount;
        delegators[account].bondedAmount += amount;
        delegators[account].lastClaimRound = round;
        totalBonded += amount;
        delegators[account].delegatedAmount += amount;
        if (_inPool(account)) {
            _updateStake(account, delegators[account].delegatedAmount);
        }
        emit Reward(account, amount);
    }

    // Fees.

    function updateTranscoderWithFees(address account, uint256 fees, uint256 round) external whenSystemNotPaused {
        require(msg.sender == controller.getContract(BROKER), "caller must be TicketBroker");
        round;
        require(isActiveTranscoder(account), "transcoder must be active");
        Transcoder storage t = transcoders[account];
        t.cumulativeFees += fees;
        t.lastFeeRound = _round();
        delegators[account].fees += fees;
    }

    function withdrawFees(address recipient, uint256 amount) external whenSystemNotPaused whenRoundInitialized {
        require(recipient != address(0), "invalid recipient");
        Delegator storage delegator = delegators[msg.sender];
        require(amount <= delegator.fees, "insufficient fees to withdraw");
        delegator.fees -= amount;
        delegator.lastClaimRound = _round();
        minter().withdrawETH(payable(recipient), amount);
        emit WithdrawFees(msg.sender, recipient, amount);
    }

    /// Earnings are credited at once here, so claiming only records the round.
    function claimEarnings(uint256) external whenSystemNotPaused whenRoundInitialized {
        delegators[msg.sender].lastClaimRound = _round();
    }

    function setCurrentRoundTotalActiveStake() external {
        require(msg.sender == controller.getContract(ROUNDS), "caller must be RoundsManager");
        currentRoundTotalActiveStake = nextRoundTotalActiveStake;
    }

    // Views.

    function pendingStake(address account, uint256) external view returns (uint256) {
        return delegators[account].bondedAmount;
    }

    function pendingFees(address account, uint256) external view returns (uint256) {
        return delegators[account].fees;
    }

    function transcoderTotalStake(address account) external view returns (uint256) {
        return delegators[account].delegatedAmount;
    }

    function transcoderStatus(address account) external view returns (TranscoderStatus) {
        return isRegisteredTranscoder(account) ? TranscoderStatus.Registered : TranscoderStatus.NotRegistered;
    }

    function delegatorStatus(address account) public view returns (DelegatorStatus) {
        Delegator storage delegator = delegators[account];
        if (delegator.bondedAmount == 0) {
            return DelegatorStatus.Unbonded;
        }
        return delegator.startRound > _round() ? DelegatorStatus.Pending : DelegatorStatus.Bonded;
    }

    function getTranscoder(address account)
        external
        view
        returns (
            uint256 lastRewardRound,
            uint256 rewardCut,
            uint256 feeShare,
            uint256 lastActiveStakeUpdateRound,
            uint256 activationRound,
            uint256 deactivationRound,
            uint256 activeCumulativeRewards,
            uint256 cumulativeRewards,
            uint256 cumulativeFees,
            uint256 lastFeeRound
        )
    {
        Transcoder storage t = transcoders[account];
        lastRewardRound = t.lastRewardRound;
        rewardCut = t.rewardCut;
        feeShare = t.feeShare;
        lastActiveStakeUpdateRound = t.lastActiveStakeUpdateRound;
        activationRound = t.activationRound;
        deactivationRound = t.deactivationRound;
        activeCumulativeRewards = t.cumulativeRewards;
        cumulativeRewards = t.cumulativeRewards;
        cumulativeFees = t.cumulativeFees;
        lastFeeRound = t.lastFeeRound;
    }

    /// What gateways weigh orchestrators by. Good for this round and the next: older stakes are not kept. Earnings go
    /// wholly to the orchestrator here, so delegators' factors never move.
    function getTranscoderEarningsPoolForRound(address account, uint256 round)
        external
        view
        returns (
            uint256 totalStake,
            uint256 transcoderRewardCut,
            uint256 transcoderFeeShare,
            uint256 cumulativeRewardFactor,
            uint256 cumulativeFeeFactor
        )
    {
        Transcoder storage t = transcoders[account];
        totalStake = _activeStake(t, round);
        transcoderRewardCut = t.rewardCut;
        transcoderFeeShare = t.feeShare;
        cumulativeRewardFactor = 10 ** 27;
        cumulativeFeeFactor = 0;
    }

    function getDelegator(address account)
        external
        view
        returns (
            uint256 bondedAmount,
            uint256 fees,
            address delegateAddress,
            uint256 delegatedAmount,
            uint256 startRound,
            uint256 lastClaimRound,
            uint256 nextUnbondingLockId
        )
    {
        Delegator storage d = delegators[account];
        bondedAmount = d.bondedAmount;
        fees = d.fees;
        delegateAddress = d.delegateAddress;
        delegatedAmount = d.delegatedAmount;
        startRound = d.startRound;
        lastClaimRound = d.lastClaimRound;
        nextUnbondingLockId = d.nextUnbondingLockId;
    }

    function getDelegatorUnbondingLock(address account, uint256 id)
        external
        view
        returns (uint256 amount, uint256 withdrawRound)
    {
        Lock storage lock = delegators[account].locks[id];
        return (lock.amount, lock.withdrawRound);
    }

    function isValidUnbondingLock(address account, uint256 id) public view returns (bool) {
        return delegators[account].locks[id].withdrawRound > 0;
    }

    function getTranscoderPoolMaxSize() external view returns (uint256) {
        return poolMaxSize;
    }

    function getTranscoderPoolSize() external view returns (uint256) {
        return poolSize;
    }

    function getFirstTranscoderInPool() external view returns (address) {
        return first;
    }

    function getNextTranscoderInPool(address account) external view returns (address) {
        return pool[account].next;
    }

    function isActiveTranscoder(address account) public view returns (bool) {
        Transcoder storage t = transcoders[account];
        uint256 round = _round();
        return t.activationRound <= round && round < t.deactivationRound;
    }

    function isRegisteredTranscoder(address account) public view returns (bool) {
        Delegator storage d = delegators[account];
        return d.delegateAddress == account && d.bondedAmount > 0;
    }

    function getTotalBonded() external view returns (uint256) {
        return totalBonded;
    }

    // The pool: a list by total stake, highest first, equals in order of arrival.

    function _round() private view returns (uint256) {
        return rounds().currentRound();
    }

    function _inPool(address account) private view returns (bool) {
        return account != address(0) && (first == account || pool[account].prev != address(0));
    }

    function _increase(address delegate, uint256 amount) private {
        Delegator storage d = delegators[delegate];
        if (isRegisteredTranscoder(delegate)) {
            Transcoder storage t = transcoders[delegate];
            require(
                _inPool(delegate) || !isActiveTranscoder(delegate) || t.lastRewardRound == _round(),
                "transcoder has not yet called reward for the current round"
            );
        }
        d.delegatedAmount += amount;
        if (_inPool(delegate)) {
            _updateStake(delegate, d.delegatedAmount);
        } else if (isRegisteredTranscoder(delegate)) {
            _tryJoin(delegate, d.delegatedAmount);
        }
    }

    function _decrease(address delegate, uint256 amount) private {
        Delegator storage d = delegators[delegate];
        d.delegatedAmount -= amount;
        if (_inPool(delegate)) {
            _updateStake(delegate, d.delegatedAmount);
        }
    }

    function _updateStake(address account, uint256 stake) private {
        uint256 old = _nextStake(transcoders[account]);
        nextRoundTotalActiveStake = nextRoundTotalActiveStake - old + stake;
        _setNextStake(transcoders[account], stake);
        _unlink(account);
        _insert(account, stake);
    }

    function _tryJoin(address account, uint256 stake) private {
        if (poolSize == poolMaxSize) {
            if (stake <= delegators[last].delegatedAmount) {
                return;
            }
            _leave(last);
        }
        uint256 round = _round() + 1;
        Transcoder storage t = transcoders[account];
        t.activationRound = round;
        t.deactivationRound = NEVER;
        _setNextStake(t, stake);
        nextRoundTotalActiveStake += stake;
        _insert(account, stake);
        emit TranscoderActivated(account, round);
    }

    function _leave(address account) private {
        Transcoder storage t = transcoders[account];
        nextRoundTotalActiveStake -= _nextStake(t);
        _setNextStake(t, 0);
        t.deactivationRound = _round() + 1;
        _unlink(account);
        emit TranscoderDeactivated(account, t.deactivationRound);
    }

    function _insert(address account, uint256 stake) private {
        address prev = address(0);
        address next = first;
        while (next != address(0) && delegators[next].delegatedAmount >= stake) {
            prev = next;
            next = pool[next].next;
        }
        pool[account] = Place(prev, next);
        if (prev == address(0)) {
            first = account;
        } else {
            pool[prev].next = account;
        }
        if (next == address(0)) {
            last = account;
        } else {
            pool[next].prev = account;
        }
        poolSize++;
    }

    function _unlink(address account) private {
        Place memory place = pool[account];
        if (place.prev == address(0)) {
            first = place.next;
        } else {
            pool[place.prev].next = place.next;
        }
        if (place.next == address(0)) {
            last = place.prev;
        } else {
            pool[place.next].prev = place.prev;
        }
        delete pool[account];
        poolSize--;
    }

    // Stake counts from the next round on.

    function _setNextStake(Transcoder storage t, uint256 stake) private {
        uint256 next = _round() + 1;
        if (t.lastActiveStakeUpdateRound < next) {
            t.previousActiveStake = t.activeStake;
            t.lastActiveStakeUpdateRound = next;
        }
        t.activeStake = stake;
    }

    function _nextStake(Transcoder storage t) private view returns (uint256) {
        return t.activeStake;
    }

    function _activeStake(Transcoder storage t, uint256 round) private view returns (uint256) {
        return t.lastActiveStakeUpdateRound <= round ? t.activeStake : t.previousActiveStake;
    }
}
