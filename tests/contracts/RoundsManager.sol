// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import "./Managed.sol";

/// Divides the block height into rounds and records one block hash per initialised round.
contract RoundsManager is Managed {
    event NewRound(uint256 indexed round, bytes32 blockHash);

    uint256 private constant PERCENT = 1_000_000;

    uint256 public roundLength;
    uint256 public roundLockAmount;
    uint256 public lastInitializedRound;
    uint256 public lastRoundLengthUpdateRound;
    uint256 public lastRoundLengthUpdateStartBlock;
    mapping(uint256 => bytes32) public blockHashForRound;
    mapping(uint256 => uint256) public lipUpgradeRound;

    /// `firstRound` starts in the block that deploys this contract.
    constructor(address controller_, uint256 roundLength_, uint256 roundLockAmount_, uint256 firstRound) Managed(controller_) {
        require(roundLength_ > 0, "round length cannot be 0");
        require(roundLockAmount_ <= PERCENT, "round lock amount must be a valid percentage");
        roundLength = roundLength_;
        roundLockAmount = roundLockAmount_;
        lastRoundLengthUpdateRound = firstRound;
        lastRoundLengthUpdateStartBlock = block.number;
    }

    function initializeRound() external whenSystemNotPaused {
        uint256 round = currentRound();
        require(lastInitializedRound < round, "round already initialized");
        lastInitializedRound = round;
        bytes32 hash = blockHash(blockNum() - 1);
        blockHashForRound[round] = hash;
        bonding().setCurrentRoundTotalActiveStake();
        minter().setCurrentRewardTokens();
        emit NewRound(round, hash);
    }

    function blockNum() public view returns (uint256) {
        return block.number;
    }

    function blockHash(uint256 number) public view returns (bytes32) {
        require(number < blockNum(), "can only retrieve past block hashes");
        return blockhash(number);
    }

    function currentRound() public view returns (uint256) {
        return lastRoundLengthUpdateRound + (blockNum() - lastRoundLengthUpdateStartBlock) / roundLength;
    }

    function currentRoundStartBlock() public view returns (uint256) {
        uint256 elapsed = (blockNum() - lastRoundLengthUpdateStartBlock) / roundLength;
        return lastRoundLengthUpdateStartBlock + elapsed * roundLength;
    }

    function currentRoundInitialized() external view returns (bool) {
        return lastInitializedRound == currentRound();
    }

    function currentRoundLocked() external view returns (bool) {
        uint256 locked = (roundLength * roundLockAmount) / PERCENT;
        return blockNum() - currentRoundStartBlock() >= roundLength - locked;
    }
}
