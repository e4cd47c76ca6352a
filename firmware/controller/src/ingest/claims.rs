//! Machines become boxes: a claim for each, made by an operator, used once. One use is one key: a machine that did not hear
//! our answer asks again with the same key and gets the same certificate.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fleet_protocol::api::{Claim, NewClaim};
use fleet_protocol::enrol::{Answer, Request, is_serial, proves};
use fleet_protocol::{BoxId, FleetId};
use rand::RngCore as _;
use rand::rngs::OsRng;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SerialNumber,
};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::Ingest;
use super::ask::AskError;
use super::boxes::Tracked;
use crate::config::{Config, Enrol};
use crate::store::Store;

/// Refused requests in [`WINDOW`]; with more, nobody is answered until it has passed.
const REFUSED_MAX: usize = 30;
/// The time over which they are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// A day in milliseconds.
const DAY_MS: i64 = 86_400_000;

/// The authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssuerError {
    #[error("{0} cannot be read")]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{0} can be read by others: chmod 600")]
    Open(PathBuf),
    #[error("{0} is no key or certificate of an authority")]
    Shape(PathBuf, #[source] rcgen::Error),
}

/// The authority that certifies boxes.
pub(crate) struct Issuer {
    issuer: rcgen::Issuer<'static, KeyPair>,
    /// Its own certificate, which goes with every other.
    pem: String,
    days: u32,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("days", &self.days).finish_non_exhaustive()
    }
}

impl Issuer {
    pub(crate) fn read(config: &Enrol) -> Result<Self, IssuerError> {
        use std::os::unix::fs::PermissionsExt as _;
        let read =
            |path: &Path| std::fs::read_to_string(path).map_err(|error| IssuerError::Read(path.to_owned(), error));
        let (path, cert) = (&config.issuer_key, &config.issuer_cert);
        let text = Zeroizing::new(read(path)?);
        let mode =
            std::fs::metadata(path).map_err(|error| IssuerError::Read(path.clone(), error))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(IssuerError::Open(path.clone()));
        }
        let key = KeyPair::from_pem(&text).map_err(|error| IssuerError::Shape(path.clone(), error))?;
        let pem = read(cert)?;
        let issuer = rcgen::Issuer::from_ca_cert_pem(&pem, key);
        let issuer = issuer.map_err(|error| IssuerError::Shape(cert.clone(), error))?;
        Ok(Self { issuer, pem, days: config.leaf_days })
    }

    /// A certificate for this key and this name; nothing else that the request says counts.
    fn certify(
        &self,
        id: &BoxId,
        request: &CertificateSigningRequestParams,
        now_ms: i64,
    ) -> Result<String, rcgen::Error> {
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name = DistinguishedName::new();
        leaf.distinguished_name.push(DnType::CommonName, id.as_str());
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        leaf.use_authority_key_identifier_extension = true;
        let mut serial = [0; 16];
        OsRng.fill_bytes(&mut serial);
        serial[0] &= 0x7f;
        leaf.serial_number = Some(SerialNumber::from_slice(&serial));
        let now = OffsetDateTime::from_unix_timestamp(now_ms / 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        // A box's clock may be behind ours.
        leaf.not_before = now - time::Duration::days(2);
        leaf.not_after = now + time::Duration::days(self.days.into());
        let certificate = leaf.signed_by(&request.public_key, &self.issuer)?;
        Ok(format!("{}{}", certificate.pem(), self.pem))
    }
}

/// Claims and who uses them.
#[derive(Debug)]
pub(super) struct Claims {
    issuer: Option<Issuer>,
    refused: VecDeque<Duration>,
}

impl Claims {
    pub(super) fn new(issuer: Option<Issuer>) -> Self {
        Self { issuer, refused: VecDeque::new() }
    }

    /// A claim for a serial; an unused one before it is worth nothing from now on. Durable on return.
    pub(super) fn make(&self, store: &mut Store, wanted: &NewClaim, now_ms: i64) -> Result<Claim, AskError> {
        let bad = |text: &str| Err(AskError::Bad(text.to_owned()));
        if self.issuer.is_none() {
            return bad("this controller enrols nobody: it has no [enrol] part");
        }
        if !is_serial(&wanted.serial) {
            return bad("a serial is 1 to 64 letters, digits, -, _ and .");
        }
        if !(1..=365).contains(&wanted.days) {
            return bad("days must be 1 to 365");
        }
        let Ok(ring) = FleetId::new(wanted.ring.as_deref().unwrap_or("all")) else {
            return bad("a ring is 1 to 24 of a-z, 0-9 and -");
        };
        if hex::decode(&wanted.token_sha256).map_or(true, |key| key.len() != 32) {
            return bad("token_sha256 must be 64 hex digits");
        }
        let mut id = [0; 8];
        OsRng.fill_bytes(&mut id);
        let id = format!("box-{}", hex::encode(id));
        let exp_ms = now_ms.saturating_add(i64::from(wanted.days) * DAY_MS);
        let (serial, ring) = (wanted.serial.clone(), ring.to_string());
        let claim = Claim { serial, id, ring, at_ms: now_ms, exp_ms, used_ms: None };
        let batch = store.batch()?;
        batch.claim(&claim, &wanted.token_sha256.to_ascii_lowercase())?;
        batch.commit()?;
        tracing::info!(serial = claim.serial, box_id = claim.id, "claim was made");
        Ok(claim)
    }

    /// Certifies a machine that holds the token of its serial. Durable on return.
    pub(super) fn enrol(
        &mut self,
        store: &mut Store,
        config: &Config,
        request: &Request,
        now: Duration,
        now_ms: i64,
    ) -> Result<Answer, AskError> {
        while self.refused.front().is_some_and(|at| now.saturating_sub(*at) > WINDOW) {
            self.refused.pop_front();
        }
        if self.refused.len() >= REFUSED_MAX {
            return Err(AskError::Busy("too many requests were refused: try again in a minute".to_owned()));
        }
        let enrolled = self.certified(store, config, request, now_ms);
        if matches!(enrolled, Err(AskError::Refused | AskError::Bad(_))) {
            self.refused.push_back(now);
        }
        enrolled
    }

    fn certified(
        &self,
        store: &mut Store,
        config: &Config,
        request: &Request,
        now_ms: i64,
    ) -> Result<Answer, AskError> {
        let (Some(issuer), Some(enrol)) = (&self.issuer, &config.enrol) else {
            return Err(AskError::Bad("this controller enrols nobody".to_owned()));
        };
        let refused = |why: &str| {
            tracing::warn!(serial = request.serial.chars().take(64).collect::<String>(), why, "enrolment was refused");
            AskError::Refused
        };
        if request.v != 1 || !is_serial(&request.serial) {
            return Err(refused("malformed"));
        }
        // The proof first: nothing else of a stranger's request is read.
        let holds = |token: &str| {
            let mut key = [0; 32];
            hex::decode_to_slice(token, &mut key).is_ok() && proves(&key, &request.serial, &request.csr, &request.proof)
        };
        let claim = store.claims_of(&request.serial)?.into_iter().find(|claim| holds(&claim.token));
        let claim = claim.ok_or_else(|| refused("no token of this serial fits"))?;
        // Its signature is checked as well: who asks has the key.
        let csr = CertificateSigningRequestParams::from_pem(&request.csr).map_err(|_| refused("malformed request"))?;
        if csr.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(refused("the key is not of P-256"));
        }
        let spki = hex::encode(Sha256::digest(csr.public_key.subject_public_key_info()));
        let stored = |text: &str| AskError::Bad(format!("the claim's {text} makes no sense"));
        let box_id = BoxId::new(claim.box_id.as_str()).map_err(|_| stored("box"))?;
        let ring = FleetId::new(claim.ring.as_str()).map_err(|_| stored("ring"))?;
        let chain = match (claim.spki, claim.chain) {
            (Some(used), Some(chain)) if used == spki => chain,
            (Some(_), _) | (_, Some(_)) => return Err(refused("the token was used already, with another key")),
            (None, None) if now_ms >= claim.exp_ms => return Err(refused("the token is too old")),
            (None, None) => {
                let chain = issuer.certify(&box_id, &csr, now_ms).map_err(|_| refused("it cannot be certified"))?;
                let batch = store.batch()?;
                batch.claim_used(&claim.token, now_ms, &spki, &chain)?;
                batch.enrol(&box_id, &config.fleet, now_ms)?;
                batch.ring(&box_id, &ring)?;
                batch.commit()?;
                tracing::info!(serial = request.serial, box_id = %box_id, "machine was enrolled");
                chain
            }
        };
        Ok(Answer { v: 1, box_id, fleet: config.fleet.clone(), ring, chain, brokers: enrol.brokers.clone() })
    }
}

impl Ingest {
    /// A box whose row is committed.
    pub(super) fn enrolled(&mut self, id: &BoxId, ring: FleetId) {
        let fleet = self.config.fleet.clone();
        let tracked = self.boxes.entry(id.clone()).or_insert_with(|| {
            let mut tracked = Tracked::new(fleet);
            tracked.fresh = false;
            tracked
        });
        tracked.ring = ring;
    }
}

#[cfg(test)]
mod tests;
