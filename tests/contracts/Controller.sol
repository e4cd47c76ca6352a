// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

/// Registry of the deployment's contracts and its pause switch.
/// Development deployment: written from the interface description, for tests and the demo only.
contract Controller {
    event SetContractInfo(bytes32 id, address contractAddress, bytes20 gitCommitHash);
    event Pause();
    event Unpause();
    event OwnershipTransferred(address indexed previousOwner, address indexed newOwner);

    struct Entry {
        address target;
        bytes20 commit;
    }

    address public owner;
    bool public paused;
    mapping(bytes32 => Entry) private entries;

    modifier onlyOwner() {
        require(msg.sender == owner, "Ownable: caller is not the owner");
        _;
    }

    constructor() {
        owner = msg.sender;
        emit OwnershipTransferred(address(0), msg.sender);
    }

    function transferOwnership(address newOwner) external onlyOwner {
        emit OwnershipTransferred(owner, newOwner);
        owner = newOwner;
    }

    function setContractInfo(bytes32 id, address target, bytes20 commit) external onlyOwner {
        entries[id] = Entry(target, commit);
        emit SetContractInfo(id, target, commit);
    }

    function getContract(bytes32 id) external view returns (address) {
        return entries[id].target;
    }

    function getContractInfo(bytes32 id) external view returns (address, bytes20) {
        return (entries[id].target, entries[id].commit);
    }

    function pause() external onlyOwner {
        paused = true;
        emit Pause();
    }

    function unpause() external onlyOwner {
        paused = false;
        emit Unpause();
    }
}
