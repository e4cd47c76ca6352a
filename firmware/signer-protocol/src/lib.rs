//! What the node may ask of the signer, and the one transaction type it signs
