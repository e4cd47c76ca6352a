//! Signed documents: a DSSE envelope with Ed25519 signatures. The broker and the controller only carry them.
//!
//! The signature covers `"DSSEv1" SP len(type) SP type SP len(body) SP body`, so the body needs no canonical form and
//! must be used exactly as it was signed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::strict::{self, StrictError, TO_BOX_MAX};

/// Most signatures in one envelope.
pub const SIGNATURES_MAX: usize = 8;
/// Payload type of a command.
pub const COMMAND: &str = "application/vnd.millrace.cmd.v1+json";
/// Payload type of a campaign: which version goes to whom, in which order.
pub const CAMPAIGN: &str = "application/vnd.millrace.campaign.v1+json";
/// Payload type of a campaign's pace: how far it may go now.
pub const PACE: &str = "application/vnd.millrace.pace.v1+json";
/// Payload type of a signed acknowledgement.
pub const ACK: &str = "application/vnd.millrace.ack.v1+json";

/// Why an envelope was refused; checked in this order, cheap checks first.
#[derive(Debug, thiserror::Error)]
pub enum DsseError {
    /// Over a limit, or not JSON.
    #[error(transparent)]
    Strict(#[from] StrictError),
    /// JSON of another shape, or with an unknown field.
    #[error("envelope has the wrong shape: {0}")]
    Shape(#[from] serde_json::Error),
    /// Another kind of document.
    #[error("envelope is of another payload type")]
    Type,
    /// None, or more than [`SIGNATURES_MAX`].
    #[error("envelope has no signature or too many")]
    Count,
    /// Base64 is malformed or not canonical.
    #[error("envelope holds malformed base64")]
    Base64,
    /// A signature by a known key does not verify.
    #[error("signature by key {0} is wrong")]
    Signature(KeyId),
    /// Fewer distinct known keys signed than the document needs.
    #[error("{valid} of {needed} needed keys signed")]
    Threshold {
        /// Distinct known keys with a valid signature.
        valid: usize,
        /// Keys needed.
        needed: usize,
    },
}

/// First 16 hex digits of the SHA-256 of a public key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(String);

impl KeyId {
    /// The id of a public key.
    #[must_use]
    pub fn of(key: &VerifyingKey) -> Self {
        Self(hex::encode(Sha256::digest(key.as_bytes()).get(..8).unwrap_or_default()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A key id from a peer may hold anything; only what a real one can hold is printed.
        f.write_str(if self.0.len() == 16 && self.0.bytes().all(|b| b.is_ascii_hexdigit()) { &self.0 } else { "?" })
    }
}

/// A signed document as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(rename = "payloadType")]
    payload_type: String,
    payload: String,
    signatures: Vec<WireSignature>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSignature {
    keyid: KeyId,
    sig: String,
}

/// A document whose signatures held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The body, exactly as signed.
    pub body: Vec<u8>,
    /// The distinct known keys that signed, in order of their ids.
    pub keys: Vec<KeyId>,
}

/// The bytes a signature covers.
#[must_use]
pub fn pre_authentication(payload_type: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Sign a body with one key.
///
/// # Errors
/// [`DsseError::Shape`] only if JSON cannot be written, which it can.
pub fn sign(payload_type: &str, body: &[u8], key: &SigningKey) -> Result<Vec<u8>, DsseError> {
    use ed25519_dalek::Signer as _;
    let signature = key.sign(&pre_authentication(payload_type, body));
    let wire = Wire {
        payload_type: payload_type.to_owned(),
        payload: BASE64.encode(body),
        signatures: vec![WireSignature {
            keyid: KeyId::of(&key.verifying_key()),
            sig: BASE64.encode(signature.to_bytes()),
        }],
    };
    Ok(serde_json::to_vec(&wire)?)
}

/// Whether this is an envelope of `payload_type` over exactly these bytes; who signed is not looked at.
#[must_use]
pub fn carries(envelope: &[u8], payload_type: &str, body: &[u8]) -> bool {
    let wire: Result<Wire, _> = serde_json::from_slice(envelope);
    wire.is_ok_and(|wire| wire.payload_type == payload_type && wire.payload == BASE64.encode(body))
}

/// Add one key's signature to an envelope; a signature the key made before is replaced. What others signed is not
/// checked here.
///
/// # Errors
/// [`DsseError`] when it is no envelope of `payload_type`, or is full.
pub fn add_signature(bytes: &[u8], payload_type: &str, key: &SigningKey) -> Result<Vec<u8>, DsseError> {
    let mut wire: Wire = serde_json::from_slice(bytes)?;
    if wire.payload_type != payload_type {
        return Err(DsseError::Type);
    }
    let body = BASE64.decode(&wire.payload).map_err(|_| DsseError::Base64)?;
    let own: Wire = serde_json::from_slice(&sign(payload_type, &body, key)?)?;
    wire.signatures.retain(|signature| own.signatures.iter().all(|own| own.keyid != signature.keyid));
    wire.signatures.extend(own.signatures);
    if wire.signatures.len() > SIGNATURES_MAX {
        return Err(DsseError::Count);
    }
    Ok(serde_json::to_vec(&wire)?)
}

/// Verify an envelope of `payload_type` against the keys trusted for it: at least `needed` distinct ones must have
/// signed. Signatures by unknown keys are ignored; a wrong signature by a known key refuses the whole.
///
/// # Errors
/// [`DsseError`]; nothing of the body has been read by then.
pub fn verify(
    bytes: &[u8],
    payload_type: &str,
    trusted: &[VerifyingKey],
    needed: usize,
) -> Result<Verified, DsseError> {
    // `strict` bounds strings to telemetry size; an envelope's payload is longer, so only its size is bounded here.
    if bytes.len() > TO_BOX_MAX {
        return Err(StrictError::Size { size: bytes.len(), limit: TO_BOX_MAX }.into());
    }
    let wire: Wire = serde_json::from_slice(bytes)?;
    if wire.payload_type != payload_type {
        return Err(DsseError::Type);
    }
    if wire.signatures.is_empty() || wire.signatures.len() > SIGNATURES_MAX {
        return Err(DsseError::Count);
    }
    let body = BASE64.decode(&wire.payload).map_err(|_| DsseError::Base64)?;
    let signed = pre_authentication(payload_type, &body);
    let mut keys = std::collections::BTreeSet::new();
    for signature in &wire.signatures {
        let Some(key) = trusted.iter().find(|key| KeyId::of(key) == signature.keyid) else {
            continue;
        };
        let raw: [u8; 64] =
            BASE64.decode(&signature.sig).ok().and_then(|raw| raw.try_into().ok()).ok_or(DsseError::Base64)?;
        key.verify_strict(&signed, &Signature::from_bytes(&raw))
            .map_err(|_| DsseError::Signature(signature.keyid.clone()))?;
        keys.insert(signature.keyid.clone());
    }
    if keys.len() < needed.max(1) {
        return Err(DsseError::Threshold { valid: keys.len(), needed: needed.max(1) });
    }
    Ok(Verified { body, keys: keys.into_iter().collect() })
}

/// The body of an envelope of `payload_type` as those see it who only carry it: no signature is looked at, and no key is
/// named.
///
/// # Errors
/// [`DsseError`] when it is no such envelope.
pub fn unverified(bytes: &[u8], payload_type: &str) -> Result<Verified, DsseError> {
    if bytes.len() > TO_BOX_MAX {
        return Err(StrictError::Size { size: bytes.len(), limit: TO_BOX_MAX }.into());
    }
    let wire: Wire = serde_json::from_slice(bytes)?;
    if wire.payload_type != payload_type {
        return Err(DsseError::Type);
    }
    let body = BASE64.decode(&wire.payload).map_err(|_| DsseError::Base64)?;
    Ok(Verified { body, keys: Vec::new() })
}

/// Read a verified body: strict JSON first, as with every document from outside.
///
/// # Errors
/// [`DsseError::Strict`] or [`DsseError::Shape`].
pub fn read_body<T: serde::de::DeserializeOwned>(verified: &Verified) -> Result<T, DsseError> {
    Ok(serde_json::from_value(strict::parse(&verified.body, TO_BOX_MAX)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"v":1,"cid":"019ab000-0000-7000-8000-000000000001","op":"drain","aud":{"fleet":"acme","boxes":["box-7f3a9c2e41d05b68"]},"by":"56475aa75463474c","iat":1795327000000,"exp":1795327600000,"ctr":18231,"args":{"grace_s":1800}}"#;

    fn seed(first: u8) -> SigningKey {
        let mut seed = [0u8; 32];
        for (i, byte) in seed.iter_mut().enumerate() {
            *byte = first.wrapping_add(u8::try_from(i).unwrap());
        }
        SigningKey::from_bytes(&seed)
    }

    #[test]
    fn the_contracts_vector_signs_and_verifies() {
        let key = seed(0);
        let public = key.verifying_key();
        assert_eq!(BODY.len(), 221);
        assert_eq!(BASE64.encode(public.as_bytes()), "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=");
        assert_eq!(KeyId::of(&public).as_str(), "56475aa75463474c");
        assert_eq!(
            hex::encode(Sha256::digest(pre_authentication(COMMAND, BODY.as_bytes()))),
            "a381cde2d50be9be1f9a093c5c79931089e828dd685802b2a946809c9cde6ff3"
        );
        let envelope = sign(COMMAND, BODY.as_bytes(), &key).unwrap();
        assert_eq!(envelope.len(), 504);
        assert!(
            String::from_utf8_lossy(&envelope)
                .contains("Z0BWlfLGm/BlaDOBiB4iJfvTHghuvnWsIxFb+ajkH9D3OJTbFc2E3BUcy56LIXTu2txlY7CwMjlAOpxZzdmHBQ==")
        );
        let verified = verify(&envelope, COMMAND, &[public], 1).unwrap();
        assert_eq!(verified.body, BODY.as_bytes());
        assert_eq!(verified.keys, vec![KeyId::of(&public)]);
    }

    #[test]
    fn a_changed_body_type_or_signature_is_refused() {
        let key = seed(0);
        let public = [key.verifying_key()];
        let good = sign(COMMAND, BODY.as_bytes(), &key).unwrap();
        let mut wire: Wire = serde_json::from_slice(&good).unwrap();
        wire.payload = BASE64.encode(BODY.replace("1800", "1801"));
        let forged = serde_json::to_vec(&wire).unwrap();
        assert!(matches!(verify(&forged, COMMAND, &public, 1), Err(DsseError::Signature(_))));
        assert!(matches!(verify(&good, ACK, &public, 1), Err(DsseError::Type)));
        let retyped = String::from_utf8(good.clone()).unwrap().replace("cmd.v1", "ack.v1");
        assert!(matches!(verify(retyped.as_bytes(), ACK, &public, 1), Err(DsseError::Signature(_))));
        assert!(matches!(verify(&good, COMMAND, &[], 1), Err(DsseError::Threshold { valid: 0, needed: 1 })));
        let extra = String::from_utf8(good.clone()).unwrap().replacen('{', "{\"x\":1,", 1);
        assert!(matches!(verify(extra.as_bytes(), COMMAND, &public, 1), Err(DsseError::Shape(_))));
        assert!(matches!(verify(&vec![b' '; TO_BOX_MAX + 1], COMMAND, &public, 1), Err(DsseError::Strict(_))));
    }

    #[test]
    fn one_key_signing_twice_does_not_meet_a_threshold_of_two() {
        let (first, second) = (seed(0), seed(64));
        let trusted = [first.verifying_key(), second.verifying_key()];
        let mut wire: Wire = serde_json::from_slice(&sign(COMMAND, b"{}", &first).unwrap()).unwrap();
        wire.signatures.push(wire.signatures[0].clone());
        let twice = serde_json::to_vec(&wire).unwrap();
        assert!(matches!(verify(&twice, COMMAND, &trusted, 2), Err(DsseError::Threshold { valid: 1, needed: 2 })));
        let other: Wire = serde_json::from_slice(&sign(COMMAND, b"{}", &second).unwrap()).unwrap();
        wire.signatures[1] = other.signatures[0].clone();
        assert_eq!(verify(&serde_json::to_vec(&wire).unwrap(), COMMAND, &trusted, 2).unwrap().keys.len(), 2);
    }

    #[test]
    fn base64_that_is_not_canonical_is_refused() {
        let key = seed(0);
        let good: Wire = serde_json::from_slice(&sign(COMMAND, b"{}", &key).unwrap()).unwrap();
        assert_eq!(good.payload, "e30=");
        for payload in ["e30", "e31=", "e30=\\n", "e3 0="] {
            let text = serde_json::to_string(&good).unwrap().replace("e30=", payload);
            assert!(matches!(verify(text.as_bytes(), COMMAND, &[key.verifying_key()], 1), Err(DsseError::Base64)));
        }
    }
}
