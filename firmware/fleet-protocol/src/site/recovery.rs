//! The key that opens a box's `/var` without its board: made on the box, sealed there to the operator, kept by anybody.

use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

/// Largest escrow file.
pub const ESCROW_MAX: usize = 4096;

/// The public half of an operator's recovery key: X25519, in JSON as base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RecoveryKey(pub [u8; 32]);

impl FromStr for RecoveryKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = BASE64.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or("a recovery key must be what `millrace site recovery-key new` prints")
    }
}

impl TryFrom<String> for RecoveryKey {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RecoveryKey> for String {
    fn from(key: RecoveryKey) -> Self {
        BASE64.encode(key.0)
    }
}

/// What a box keeps of its recovery passphrase: nothing that it could open itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Escrow {
    /// Version of this document, 1.
    pub v: u8,
    /// Which box, for people.
    pub serial: String,
    /// For whom it is sealed.
    pub to: RecoveryKey,
    /// The passphrase in an anonymous sealed box (X25519, XSalsa20-Poly1305), base64.
    pub sealed: String,
    /// When it was made, Unix seconds.
    pub at: i64,
}

impl Escrow {
    /// What was sealed.
    #[must_use]
    pub fn sealed_bytes(&self) -> Option<Vec<u8>> {
        BASE64.decode(&self.sealed).ok()
    }

    /// An escrow of these sealed bytes.
    #[must_use]
    pub fn new(serial: &str, to: RecoveryKey, sealed: &[u8], at: i64) -> Self {
        Self { v: 1, serial: serial.to_owned(), to, sealed: BASE64.encode(sealed), at }
    }
}
