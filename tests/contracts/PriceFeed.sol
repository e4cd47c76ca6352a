// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

/// A price feed that tells whatever it was told, for prices in other currencies.
contract PriceFeed {
    string public description;
    uint8 public decimals;
    uint80 private round;
    int256 private answer;
    uint256 private updatedAt;

    constructor(string memory description_, uint8 decimals_) {
        description = description_;
        decimals = decimals_;
    }

    function tell(int256 answer_, uint256 updatedAt_) external {
        round += 1;
        answer = answer_;
        updatedAt = updatedAt_;
    }

    function latestRoundData() external view returns (uint80, int256, uint256, uint256, uint80) {
        return (round, answer, updatedAt, updatedAt, round);
    }
}
