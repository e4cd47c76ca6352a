//! Enrolment by claim: a machine shows that it holds a token bound to its serial, and becomes a box. What it sends is not
//! secret: the token itself never travels, only what it was mixed with.

use hmac::{Hmac, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::name::{BoxId, FleetId};
use crate::site::Broker;

/// Where a request goes, below the controller's enrolment address.
pub const PATH: &str = "/enrol";
/// The port of the enrolment endpoint, if nothing else is said.
pub const PORT: u16 = 8096;
/// Largest request and answer, bytes.
pub const MESSAGE_MAX: usize = 32 * 1024;
/// Days for which a token is taken.
pub const TOKEN_DAYS: u32 = 30;
/// Bytes of a token: 128 bits.
pub const TOKEN_BYTES: usize = 16;

/// `POST /enrol`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Version of this document, 1.
    pub v: u8,
    /// The machine's serial.
    pub serial: String,
    /// The certificate signing request, PEM.
    pub csr: String,
    /// [`proof`] over serial and request.
    pub proof: String,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Version of this document, 1.
    pub v: u8,
    /// Who it is from now on.
    #[serde(rename = "box")]
    pub box_id: BoxId,
    /// Its fleet.
    pub fleet: FleetId,
    /// Its ring.
    pub ring: FleetId,
    /// Its certificate and those above it, PEM.
    pub chain: String,
    /// Its brokers, the preferred one first.
    pub brokers: Vec<Broker>,
}

/// A machine's serial as the label shows it.
#[must_use]
pub fn is_serial(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// What is kept of a token in place of it.
#[must_use]
pub fn token_key(token: &str) -> [u8; 32] {
    Sha256::new().chain_update("millrace-claim-v1\n").chain_update(token.trim()).finalize().into()
}

/// What the label's QR holds.
#[must_use]
pub fn label(serial: &str, token: &str) -> String {
    format!("MILLRACE1:{serial}:{token}")
}

/// Shows that who sends this request under this serial holds the token, without saying it.
#[must_use]
pub fn proof(key: &[u8; 32], serial: &str, csr: &str) -> String {
    hex::encode(mac(key, serial, csr).finalize().into_bytes())
}

/// Whether a proof holds; takes the same time whatever is wrong with it.
#[must_use]
pub fn proves(key: &[u8; 32], serial: &str, csr: &str, proof: &str) -> bool {
    hex::decode(proof).is_ok_and(|proof| mac(key, serial, csr).verify_slice(&proof).is_ok())
}

fn mac(key: &[u8; 32], serial: &str, csr: &str) -> Hmac<Sha256> {
    let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(key).expect("a key of any length will do");
    for part in [serial, csr] {
        mac.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        mac.update(part.as_bytes());
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_of_one_token_one_serial_and_one_request() {
        let key = token_key("abcdefghijklmnop");
        let good = proof(&key, "SN-1", "csr");
        assert!(proves(&key, "SN-1", "csr", &good));
        assert_eq!(key, token_key("abcdefghijklmnop\n"), "a line end is none of the token");
        for (key, serial, csr, proof) in [
            (token_key("abcdefghijklmnoq"), "SN-1", "csr", good.as_str()),
            (key, "SN-2", "csr", &good),
            (key, "SN-1", "csr2", &good),
            // Where one part ends and the next begins is part of it.
            (key, "SN-1c", "sr", &good),
            (key, "SN-1", "csr", "zz"),
            (key, "SN-1", "csr", ""),
        ] {
            assert!(!proves(&key, serial, csr, proof), "{serial} {csr} {proof}");
        }
    }

    #[test]
    fn a_serial_is_a_plain_word() {
        assert!(is_serial("MR-2026.0001_a") && !is_serial("") && !is_serial("a b") && !is_serial("a:b"));
    }
}
