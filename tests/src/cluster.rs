//! A whole box on one machine: node, signer, fleet agent, with throw-away keys.
