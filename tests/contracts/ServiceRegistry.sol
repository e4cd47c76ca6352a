// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

/// Where each orchestrator says its service is; anyone may write their own entry, paused or not.
contract ServiceRegistry {
    event ServiceURIUpdate(address indexed addr, string serviceURI);

    mapping(address => string) private uris;

    function setServiceURI(string calldata uri) external {
        uris[msg.sender] = uri;
        emit ServiceURIUpdate(msg.sender, uri);
    }

    function getServiceURI(address account) external view returns (string memory) {
        return uris[account];
    }
}
