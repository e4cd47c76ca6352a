// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import "./Managed.sol";

/// Holds all ETH and all bonded stake, and mints the inflation of a round.
contract Minter is Managed {
    event SetCurrentRewardTokens(uint256 currentMintableTokens, uint256 currentInflation);

    uint256 private constant SCALE = 1_000_000_000;

    uint256 public inflation;
    uint256 public inflationChange;
    uint256 public targetBondingRate;
    uint256 public currentMintableTokens;
    uint256 public currentMintedTokens;

    constructor(address controller_, uint256 inflation_, uint256 inflationChange_, uint256 targetBondingRate_) Managed(controller_) {
        inflation = inflation_;
        inflationChange = inflationChange_;
        targetBondingRate = targetBondingRate_;
    }

    modifier onlyFrom(bytes32 id) {
        require(msg.sender == controller.getContract(id), "caller may not use the minter");
        _;
    }

    function getGlobalTotalSupply() public view returns (uint256) {
        return token().totalSupply();
    }

    function depositETH() external payable {}

    /// Pays out with only the 2300-gas stipend and reverts without a reason, as the deployed contract does.
    function withdrawETH(address payable to, uint256 amount) external {
        require(
            msg.sender == controller.getContract(BONDING) || msg.sender == controller.getContract(BROKER),
            "caller may not use the minter"
        );
        (bool taken, ) = to.call{value: amount, gas: 0}("");
        if (!taken) {
            revert();
        }
    }

    function transferTokens(address to, uint256 amount) external onlyFrom(BONDING) {
        token().transfer(to, amount);
    }

    function createReward(uint256 stake, uint256 totalStake) external onlyFrom(BONDING) returns (uint256) {
        if (totalStake == 0) {
            return 0;
        }
        uint256 amount = (currentMintableTokens * ((stake * SCALE) / totalStake)) / SCALE;
        currentMintedTokens += amount;
        require(currentMintedTokens <= currentMintableTokens, "minted tokens cannot exceed mintable tokens");
        token().mint(address(this), amount);
        return amount;
    }

    function setCurrentRewardTokens() external onlyFrom(ROUNDS) {
        uint256 supply = getGlobalTotalSupply();
        uint256 bondedRate = supply == 0 ? 0 : (bonding().getTotalBonded() * SCALE) / supply;
        if (bondedRate < targetBondingRate) {
            inflation += inflationChange;
        } else if (bondedRate > targetBondingRate) {
            inflation = inflation > inflationChange ? inflation - inflationChange : 0;
        }
        currentMintableTokens = (supply * inflation) / SCALE;
        currentMintedTokens = 0;
        emit SetCurrentRewardTokens(currentMintableTokens, inflation);
    }
}
