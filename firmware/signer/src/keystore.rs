//! Keystore files of version 3, as geth and its kin write them: scrypt, AES-128-CTR, keccak as MAC.
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aes::cipher::{KeyIvInit, StreamCipher};
use livepeer::address::{Address, keccak256_parts};
use livepeer::signature::SigningKey;
use rand::RngCore;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Most memory scrypt may take for a keystore, in bytes (128 × n × r); geth's standard takes 256 MiB.
const MAX_MEMORY: u64 = 512 * 1024 * 1024;
/// Most parallel rounds.
const MAX_P: u32 = 16;

type Aes128Ctr = ctr::Ctr128BE<aes::Aes128>;

#[derive(Debug, Serialize, Deserialize)]
struct KeystoreFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    crypto: Crypto,
    #[serde(default)]
    id: String,
    version: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Crypto {
    cipher: String,
    cipherparams: CipherParams,
    ciphertext: String,
    kdf: String,
    kdfparams: KdfParams,
    mac: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct CipherParams {
    iv: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct KdfParams {
    dklen: u32,
    #[serde(default)]
    n: u64,
    #[serde(default)]
    p: u32,
    #[serde(default)]
    r: u32,
    salt: String,
}

/// How much work guards the key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    n: u64,
    r: u32,
    p: u32,
}

impl Work {
    /// geth's standard: about a second and 256 MiB.
    pub(crate) const STANDARD: Self = Self { n: 262_144, r: 8, p: 1 };
    /// geth's light setting: a few milliseconds; for throw-away keys.
    pub(crate) const LIGHT: Self = Self { n: 4096, r: 8, p: 6 };
}

/// Why a keystore does not give its key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeystoreError {
    /// The file cannot be read or written.
    #[error("keystore {path} cannot be used")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Not a keystore of version 3.
    #[error("keystore {path} is not a version 3 keystore: {reason}")]
    Format { path: PathBuf, reason: String },
    /// The MAC does not match.
    #[error("keystore {path} does not open: wrong password, or the file is damaged")]
    WrongPassword { path: PathBuf },
    /// The key is not that of the address beside it.
    #[error("keystore {path} holds the key of {found}, not of {stated} as it states")]
    OtherAddress { path: PathBuf, stated: String, found: Address },
}

/// The key in a keystore file.
pub(crate) fn open(path: &Path, password: &[u8]) -> Result<SigningKey, KeystoreError> {
    let text = std::fs::read(path).map_err(|source| KeystoreError::Io { path: path.to_owned(), source })?;
    decrypt(path, &text, password)
}

fn decrypt(path: &Path, text: &[u8], password: &[u8]) -> Result<SigningKey, KeystoreError> {
    let bad = |reason: &str| KeystoreError::Format { path: path.to_owned(), reason: reason.to_owned() };
    let file: KeystoreFile = serde_json::from_slice(text).map_err(|error| bad(&error.to_string()))?;
    let crypto = &file.crypto;
    if file.version != 3 || crypto.cipher != "aes-128-ctr" {
        return Err(bad("version must be 3 and cipher aes-128-ctr"));
    }
    if crypto.kdf != "scrypt" {
        return Err(bad("only the scrypt key derivation is supported; write it again with a current wallet"));
    }
    let kdf = &crypto.kdfparams;
    let memory = kdf.n.checked_mul(128).and_then(|bytes| bytes.checked_mul(u64::from(kdf.r)));
    if kdf.dklen != 32 || kdf.p == 0 || kdf.p > MAX_P || memory.is_none_or(|bytes| bytes > MAX_MEMORY) {
        return Err(bad("scrypt parameters out of range"));
    }
    let unhex = |text: &str, what: &str| hex::decode(text).map_err(|_| bad(what));
    let (salt, iv) = (unhex(&kdf.salt, "salt is not hex")?, unhex(&crypto.cipherparams.iv, "iv is not hex")?);
    let (mut cipher, mac) =
        (Zeroizing::new(unhex(&crypto.ciphertext, "ciphertext is not hex")?), unhex(&crypto.mac, "mac is not hex")?);
    let work = Work { n: kdf.n, r: kdf.r, p: kdf.p };
    let derived = derive(password, &salt, work).ok_or_else(|| bad("scrypt parameters out of range"))?;
    if mac != mac_of(&derived, &cipher) {
        return Err(KeystoreError::WrongPassword { path: path.to_owned() });
    }
    apply_cipher(&derived, &iv, &mut cipher).ok_or_else(|| bad("iv must be 16 bytes"))?;
    let bytes: [u8; 32] = cipher.as_slice().try_into().map_err(|_| bad("the key is not 32 bytes"))?;
    let bytes = Zeroizing::new(bytes);
    let key = SigningKey::from_bytes(&bytes).map_err(|_| bad("the key is not on the curve"))?;
    if let Some(stated) = file.address
        && !stated.trim_start_matches("0x").eq_ignore_ascii_case(&hex::encode(key.address().as_bytes()))
    {
        return Err(KeystoreError::OtherAddress { path: path.to_owned(), stated, found: key.address() });
    }
    Ok(key)
}

/// Writes a key to a new file of mode 0600, durably.
pub(crate) fn create(
    path: &Path,
    key: &SigningKey,
    password: &[u8],
    work: Work,
    rng: &mut impl RngCore,
) -> Result<(), KeystoreError> {
    let io = |source| KeystoreError::Io { path: path.to_owned(), source };
    let text = encrypt(key, password, work, rng);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(io)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
}

fn encrypt(key: &SigningKey, password: &[u8], work: Work, rng: &mut impl RngCore) -> Vec<u8> {
    let (mut salt, mut iv, mut id) = ([0u8; 32], [0u8; 16], [0u8; 16]);
    [&mut salt[..], &mut iv, &mut id].into_iter().for_each(|bytes| rng.fill_bytes(bytes));
    let derived = derive(password, &salt, work).expect("our own scrypt parameters are in range");
    let mut cipher = Zeroizing::new(key.to_secret_bytes().to_vec());
    apply_cipher(&derived, &iv, &mut cipher).expect("the iv has 16 bytes");
    let file = KeystoreFile {
        address: Some(hex::encode(key.address().as_bytes())),
        crypto: Crypto {
            cipher: "aes-128-ctr".into(),
            cipherparams: CipherParams { iv: hex::encode(iv) },
            ciphertext: hex::encode(&*cipher),
            kdf: "scrypt".into(),
            kdfparams: KdfParams { dklen: 32, n: work.n, p: work.p, r: work.r, salt: hex::encode(salt) },
            mac: hex::encode(mac_of(&derived, &cipher)),
        },
        id: uuid(id),
        version: 3,
    };
    serde_json::to_vec(&file).expect("plain data")
}

fn derive(password: &[u8], salt: &[u8], work: Work) -> Option<Zeroizing<[u8; 32]>> {
    if !work.n.is_power_of_two() {
        return None;
    }
    let log_n = u8::try_from(work.n.trailing_zeros()).ok()?;
    let params = scrypt::Params::new(log_n, work.r, work.p, 32).ok()?;
    let mut derived = Zeroizing::new([0; 32]);
    scrypt::scrypt(password, salt, &params, &mut *derived).ok()?;
    Some(derived)
}

fn mac_of(derived: &[u8; 32], cipher: &[u8]) -> Vec<u8> {
    keccak256_parts(&[&derived[16..], cipher]).as_bytes().to_vec()
}

fn apply_cipher(derived: &[u8; 32], iv: &[u8], bytes: &mut [u8]) -> Option<()> {
    Aes128Ctr::new_from_slices(&derived[..16], iv).ok()?.apply_keystream(bytes);
    Some(())
}

/// A random (version 4) UUID as text.
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A keystore that geth wrote, from its test data; its password is empty.
    const KNOWN: &str = r#"{"address":"45dea0fb0bba44f4fcf290bba71fd57d7117cbb8","crypto":{"cipher":"aes-128-ctr",
        "ciphertext":"b87781948a1befd247bff51ef4063f716cf6c2d3481163e9a8f42e1f9bb74145",
        "cipherparams":{"iv":"dc4926b48a105133d2f16b96833abf1e"},
        "kdf":"scrypt","kdfparams":{"dklen":32,"n":2,"p":1,"r":8,
        "salt":"004244bbdc51cadda545b1cfa43cff9ed2ae88e08c61f1479dbb45410722f8f0"},
        "mac":"39990c1684557447940d4c69e06b1b82b2aceacb43f284df65c956daf3046b85"},
        "id":"ce541d8d-c79b-40f8-9f8c-20f59616faba","version":3}"#;

    fn opened(text: &str, password: &str) -> Result<SigningKey, KeystoreError> {
        decrypt(Path::new("keystore"), text.as_bytes(), password.as_bytes())
    }

    #[test]
    fn a_known_keystore_opens() {
        let key = opened(KNOWN, "").unwrap();
        assert_eq!(key.address().to_string(), "0x45DeA0FB0bBA44f4fcF290bbA71Fd57d7117Cbb8");
    }

    #[test]
    fn a_wrong_password_is_not_a_key() {
        assert!(matches!(opened(KNOWN, "wrong"), Err(KeystoreError::WrongPassword { .. })));
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keystore");
        let key = SigningKey::from_bytes(&[0x77; 32]).unwrap();
        create(&path, &key, b"password", Work::LIGHT, &mut rand::rngs::OsRng).unwrap();
        assert_eq!(open(&path, b"password").unwrap().address(), key.address());
        assert!(!std::fs::read_to_string(&path).unwrap().contains("777777"));
        let again = create(&path, &key, b"password", Work::LIGHT, &mut rand::rngs::OsRng);
        assert!(matches!(again, Err(KeystoreError::Io { .. })), "a keystore is never overwritten");
    }

    #[test]
    fn hostile_parameters_are_refused_before_any_work() {
        for (from, to) in [
            ("\"n\":2", "\"n\":1099511627776"),
            ("\"n\":2", "\"n\":3"),
            ("\"n\":2", "\"n\":0"),
            ("\"p\":1", "\"p\":4000000"),
            ("\"r\":8", "\"r\":4294967295"),
            ("\"dklen\":32", "\"dklen\":0"),
            ("scrypt", "pbkdf2"),
            ("\"version\":3", "\"version\":1"),
            ("dc4926b4", "dc4926"),
        ] {
            let text = KNOWN.replacen(from, to, 1);
            assert_ne!(text, KNOWN);
            assert!(matches!(opened(&text, ""), Err(KeystoreError::Format { .. })), "{to}");
        }
    }

    #[test]
    fn a_keystore_that_states_another_address_is_refused() {
        let text = KNOWN.replacen("45dea0fb", "00000000", 1);
        assert!(matches!(opened(&text, ""), Err(KeystoreError::OtherAddress { .. })));
    }
}
