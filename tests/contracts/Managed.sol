// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

interface IController {
    function owner() external view returns (address);
    function paused() external view returns (bool);
    function getContract(bytes32 id) external view returns (address);
}

interface IRounds {
    function currentRound() external view returns (uint256);
    function currentRoundInitialized() external view returns (bool);
    function currentRoundLocked() external view returns (bool);
    function blockHashForRound(uint256 round) external view returns (bytes32);
}

interface IBonding {
    function isActiveTranscoder(address transcoder) external view returns (bool);
    function getTranscoderPoolSize() external view returns (uint256);
    function getTotalBonded() external view returns (uint256);
    function setCurrentRoundTotalActiveStake() external;
    function updateTranscoderWithFees(address transcoder, uint256 fees, uint256 round) external;
}

interface IMinter {
    function depositETH() external payable;
    function withdrawETH(address payable to, uint256 amount) external;
    function transferTokens(address to, uint256 amount) external;
    function createReward(uint256 stake, uint256 totalStake) external returns (uint256);
    function setCurrentRewardTokens() external;
}

interface IToken {
    function mint(address to, uint256 amount) external;
    function totalSupply() external view returns (uint256);
    function transfer(address to, uint256 amount) external returns (bool);
    function transferFrom(address from, address to, uint256 amount) external returns (bool);
}

/// What every contract behind the Controller shares: lookups, the pause switch, the round guard.
abstract contract Managed {
    event SetController(address controller);
    event ParameterUpdate(string param);

    bytes32 internal constant BONDING = keccak256("BondingManager");
    bytes32 internal constant BROKER = keccak256("TicketBroker");
    bytes32 internal constant ROUNDS = keccak256("RoundsManager");
    bytes32 internal constant MINTER = keccak256("Minter");
    bytes32 internal constant TOKEN = keccak256("LivepeerToken");

    IController public controller;

    constructor(address controller_) {
        controller = IController(controller_);
        emit SetController(controller_);
    }

    modifier whenSystemNotPaused() {
        _notPaused();
        _;
    }

    modifier whenRoundInitialized() {
        _roundInitialized();
        _;
    }

    modifier onlyControllerOwner() {
        require(msg.sender == controller.owner(), "caller must be Controller owner");
        _;
    }

    function _notPaused() internal view {
        require(!controller.paused(), "system is paused");
    }

    function _roundInitialized() internal view {
        require(rounds().currentRoundInitialized(), "current round is not initialized");
    }

    function rounds() internal view returns (IRounds) {
        return IRounds(controller.getContract(ROUNDS));
    }

    function bonding() internal view returns (IBonding) {
        return IBonding(controller.getContract(BONDING));
    }

    function minter() internal view returns (IMinter) {
        return IMinter(controller.getContract(MINTER));
    }

    function token() internal view returns (IToken) {
        return IToken(controller.getContract(TOKEN));
    }
}
