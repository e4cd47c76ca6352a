// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import "./Managed.sol";

/// Deposits, reserves and the redemption of winning tickets (behaviour of mid-2026).
contract TicketBroker is Managed {
    struct Ticket {
        address recipient;
        address sender;
        uint256 faceValue;
        uint256 winProb;
        uint256 senderNonce;
        bytes32 recipientRandHash;
        bytes auxData;
    }

    struct SenderState {
        uint256 deposit;
        uint256 withdrawRound;
    }

    struct ReserveInfo {
        uint256 fundsRemaining;
        uint256 claimedInCurrentRound;
    }

    struct Reserve {
        uint256 funds;
        mapping(uint256 => uint256) claimedIn;
        mapping(uint256 => mapping(address => uint256)) claimedBy;
    }

    event DepositFunded(address indexed sender, uint256 amount);
    event ReserveFunded(address indexed reserveHolder, uint256 amount);
    event ReserveClaimed(address indexed reserveHolder, address claimant, uint256 amount);
    event WinningTicketTransfer(address indexed sender, address indexed recipient, uint256 amount);
    event WinningTicketRedeemed(
        address indexed sender,
        address indexed recipient,
        uint256 faceValue,
        uint256 winProb,
        uint256 senderNonce,
        uint256 recipientRand,
        bytes auxData
    );
    event Unlock(address indexed sender, uint256 startRound, uint256 endRound);
    event UnlockCancelled(address indexed sender);
    event Withdrawal(address indexed sender, uint256 deposit, uint256 reserve);

    /// Half the order of secp256k1: the largest `s` a ticket signature may have.
    uint256 private constant MAX_S = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    uint256 public unlockPeriod;
    uint256 public ticketValidityPeriod;
    mapping(bytes32 => bool) public usedTickets;
    mapping(address => SenderState) private senders;
    mapping(address => Reserve) private reserves;

    constructor(address controller_, uint256 unlockPeriod_, uint256 ticketValidityPeriod_) Managed(controller_) {
        unlockPeriod = unlockPeriod_;
        ticketValidityPeriod = ticketValidityPeriod_;
    }

    // Funding.

    function fundDeposit() external payable whenSystemNotPaused {
        _fundDeposit(msg.sender, msg.value);
        _keep();
    }

    function fundReserve() external payable whenSystemNotPaused {
        _fundReserve(msg.sender, msg.value);
        _keep();
    }

    function fundDepositAndReserve(uint256 deposit, uint256 reserve) external payable {
        fundDepositAndReserveFor(msg.sender, deposit, reserve);
    }

    function fundDepositAndReserveFor(address account, uint256 deposit, uint256 reserve) public payable whenSystemNotPaused {
        require(msg.value == deposit + reserve, "msg.value does not equal sum of deposit amount and reserve amount");
        _fundDeposit(account, deposit);
        _fundReserve(account, reserve);
        _keep();
    }

    function _fundDeposit(address account, uint256 amount) private {
        _relock(account);
        senders[account].deposit += amount;
        emit DepositFunded(account, amount);
    }

    function _fundReserve(address account, uint256 amount) private {
        _relock(account);
        reserves[account].funds += amount;
        emit ReserveFunded(account, amount);
    }

    /// Only the account's own funding takes an unlock back.
    function _relock(address account) private {
        if (account == msg.sender && isUnlockInProgress(account)) {
            _cancelUnlock(account);
        }
    }

    function _keep() private {
        minter().depositETH{value: msg.value}();
    }

    // Unlocking and withdrawing.

    function unlock() external whenSystemNotPaused {
        SenderState storage sender = senders[msg.sender];
        require(sender.deposit + reserves[msg.sender].funds > 0, "sender deposit and reserve are zero");
        require(!isUnlockInProgress(msg.sender), "unlock already initiated");
        uint256 round = rounds().currentRound();
        sender.withdrawRound = round + unlockPeriod;
        emit Unlock(msg.sender, round, sender.withdrawRound);
    }

    function cancelUnlock() external whenSystemNotPaused {
        require(isUnlockInProgress(msg.sender), "no unlock request in progress");
        _cancelUnlock(msg.sender);
    }

    function _cancelUnlock(address account) private {
        senders[account].withdrawRound = 0;
        emit UnlockCancelled(account);
    }

    function withdraw() external whenSystemNotPaused {
        SenderState storage sender = senders[msg.sender];
        uint256 deposit = sender.deposit;
        uint256 reserve = reserves[msg.sender].funds;
        require(deposit + reserve > 0, "sender deposit and reserve are zero");
        require(isUnlockInProgress(msg.sender), "no unlock request in progress");
        require(!_isLocked(sender), "account is locked");
        sender.deposit = 0;
        sender.withdrawRound = 0;
        reserves[msg.sender].funds = 0;
        minter().withdrawETH(payable(msg.sender), deposit + reserve);
        emit Withdrawal(msg.sender, deposit, reserve);
    }

    // Redeeming.

    function redeemWinningTicket(Ticket memory ticket, bytes memory sig, uint256 recipientRand)
        public
        whenSystemNotPaused
        whenRoundInitialized
    {
        bytes32 hash = getTicketHash(ticket);
        uint256 creationRound = _requireWinner(ticket, hash, sig, recipientRand);
        SenderState storage sender = senders[ticket.sender];
        require(_isLocked(sender), "sender is unlocked");
        require(
            sender.deposit + reserves[ticket.sender].funds >= ticket.faceValue,
            "sender deposit and reserve insufficient to cover ticket face value"
        );
        usedTickets[hash] = true;

        uint256 paid = _collect(ticket.sender, ticket.recipient, ticket.faceValue);
        if (paid > 0) {
            bonding().updateTranscoderWithFees(ticket.recipient, paid, creationRound);
            emit WinningTicketTransfer(ticket.sender, ticket.recipient, paid);
        }
        emit WinningTicketRedeemed(
            ticket.sender,
            ticket.recipient,
            ticket.faceValue,
            ticket.winProb,
            ticket.senderNonce,
            recipientRand,
            ticket.auxData
        );
    }

    /// Redeems what can be redeemed and stays silent about the rest.
    function batchRedeemWinningTickets(Ticket[] memory tickets, bytes[] memory sigs, uint256[] memory recipientRands)
        external
        whenSystemNotPaused
        whenRoundInitialized
    {
        for (uint256 i = 0; i < tickets.length; i++) {
            (bool ok, ) = address(this).call(
                abi.encodeCall(this.redeemWinningTicket, (tickets[i], sigs[i], recipientRands[i]))
            );
            ok;
        }
    }

    /// Every check on the ticket itself, in the order peers rely on; answers its creation round.
    function _requireWinner(Ticket memory ticket, bytes32 hash, bytes memory sig, uint256 recipientRand)
        private
        view
        returns (uint256 creationRound)
    {
        require(ticket.recipient != address(0), "ticket recipient is null address");
        require(ticket.sender != address(0), "ticket sender is null address");
        require(ticket.auxData.length == 64, "invalid length for ticket auxData: must be 64 bytes");
        bytes32 creationHash;
        (creationRound, creationHash) = abi.decode(ticket.auxData, (uint256, bytes32));
        bytes32 knownHash = rounds().blockHashForRound(creationRound);
        require(knownHash != bytes32(0), "ticket creationRound does not have a block hash");
        require(knownHash == creationHash, "ticket creationRoundBlockHash invalid for creationRound");
        require(creationRound + ticketValidityPeriod > rounds().currentRound(), "ticket is expired");
        require(
            keccak256(abi.encodePacked(recipientRand)) == ticket.recipientRandHash,
            "recipientRand does not match recipientRandHash"
        );
        require(!usedTickets[hash], "ticket is used");
        require(_signer(hash, sig) == ticket.sender, "invalid signature over ticket hash");
        require(uint256(keccak256(abi.encodePacked(sig, recipientRand))) < ticket.winProb, "ticket did not win");
    }

    function _signer(bytes32 hash, bytes memory sig) private pure returns (address signer) {
        require(sig.length == 65, "INVALID_SIGNATURE_LENGTH");
        bytes32 r;
        bytes32 s;
        uint8 v;
        assembly {
            r := mload(add(sig, 32))
            s := mload(add(sig, 64))
            v := byte(0, mload(add(sig, 96)))
        }
        require(uint256(s) <= MAX_S, "ECDSA: invalid signature 's' value");
        signer = ecrecover(keccak256(abi.encodePacked("\x19Ethereum Signed Message:\n32", hash)), v, r, s);
        require(signer != address(0), "ECDSA: invalid signature");
    }

    /// Takes the face value from the deposit and, as far as the claimant's share goes, from the reserve.
    function _collect(address holder, address claimant, uint256 faceValue) private returns (uint256 paid) {
        SenderState storage sender = senders[holder];
        if (faceValue <= sender.deposit) {
            sender.deposit -= faceValue;
            return faceValue;
        }
        paid = sender.deposit;
        uint256 share = claimableReserve(holder, claimant);
        uint256 claim = faceValue - paid < share ? faceValue - paid : share;
        sender.deposit = 0;
        if (claim > 0) {
            uint256 round = rounds().currentRound();
            Reserve storage reserve = reserves[holder];
            reserve.funds -= claim;
            reserve.claimedIn[round] += claim;
            reserve.claimedBy[round][claimant] += claim;
            emit ReserveClaimed(holder, claimant, claim);
            paid += claim;
        }
    }

    // Views.

    function getTicketHash(Ticket memory ticket) public pure returns (bytes32) {
        return keccak256(
            abi.encodePacked(
                ticket.recipient,
                ticket.sender,
                ticket.faceValue,
                ticket.winProb,
                ticket.senderNonce,
                ticket.recipientRandHash,
                ticket.auxData
            )
        );
    }

    function getSenderInfo(address account) external view returns (SenderState memory sender, ReserveInfo memory reserve) {
        return (senders[account], getReserveInfo(account));
    }

    function getReserveInfo(address holder) public view returns (ReserveInfo memory info) {
        Reserve storage reserve = reserves[holder];
        info.fundsRemaining = reserve.funds;
        info.claimedInCurrentRound = reserve.claimedIn[rounds().currentRound()];
    }

    /// The subtraction may underflow when the pool grew after the claimant took its share: callers see panic 0x11.
    function claimableReserve(address holder, address claimant) public view returns (uint256) {
        uint256 poolSize = bonding().getTranscoderPoolSize();
        if (poolSize == 0 || !bonding().isActiveTranscoder(claimant)) {
            return 0;
        }
        Reserve storage reserve = reserves[holder];
        uint256 round = rounds().currentRound();
        return (reserve.funds + reserve.claimedIn[round]) / poolSize - reserve.claimedBy[round][claimant];
    }

    function claimedReserve(address holder, address claimant) external view returns (uint256) {
        return reserves[holder].claimedBy[rounds().currentRound()][claimant];
    }

    function isUnlockInProgress(address account) public view returns (bool) {
        return senders[account].withdrawRound > 0;
    }

    function _isLocked(SenderState storage sender) private view returns (bool) {
        return sender.withdrawRound == 0 || rounds().currentRound() < sender.withdrawRound;
    }
}
