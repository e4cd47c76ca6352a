//! Reading a key from a geth (version 3) keystore file.
use aes::cipher::{KeyIvInit, StreamCipher};
use livepeer::address::keccak256;
use serde::Deserialize;
use zeroize::Zeroizing;

type Aes128Ctr = ctr::Ctr128BE<aes::Aes128>;

/// Why a keystore file gives no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeystoreError {
    #[error("not a version 3 keystore file")]
    Form(#[from] serde_json::Error),
    #[error("keystore version {0} is unknown: only version 3 can be read")]
    Version(u32),
    #[error("cipher {0:?} is unknown: only aes-128-ctr can be read")]
    Cipher(String),
    #[error(
        "key derivation {0:?} is unknown: only scrypt can be read; import the key into geth to have it written anew"
    )]
    Kdf(String),
    #[error("its scrypt parameters make no sense")]
    Scrypt,
    #[error("it is damaged: {0} has the wrong form")]
    Damaged(&'static str),
    #[error("wrong password")]
    Password,
}

#[derive(Deserialize)]
struct File {
    version: u32,
    #[serde(alias = "Crypto")]
    crypto: Crypto,
}

#[derive(Deserialize)]
struct Crypto {
    cipher: String,
    cipherparams: CipherParams,
    ciphertext: String,
    kdf: String,
    kdfparams: serde_json::Value,
    mac: String,
}

#[derive(Deserialize)]
struct CipherParams {
    iv: String,
}

#[derive(Deserialize)]
struct ScryptParams {
    dklen: usize,
    n: u64,
    p: u32,
    r: u32,
    salt: String,
}

/// Largest scrypt cost taken: four times what geth writes, a gigabyte.
const MAX_COST: u64 = 1 << 20;

/// The 32 secret bytes behind a keystore file.
pub(crate) fn open(json: &[u8], password: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
    let File { version, crypto } = serde_json::from_slice(json)?;
    if version != 3 {
        return Err(KeystoreError::Version(version));
    }
    if crypto.cipher != "aes-128-ctr" {
        return Err(KeystoreError::Cipher(crypto.cipher));
    }
    if crypto.kdf != "scrypt" {
        return Err(KeystoreError::Kdf(crypto.kdf));
    }
    let params: ScryptParams = serde_json::from_value(crypto.kdfparams)?;
    let bytes = |text: &str, what| hex::decode(text).map_err(|_| KeystoreError::Damaged(what));
    let derived = derive(&params, password, &bytes(&params.salt, "salt")?)?;
    let (cipher_key, mac_key) = derived.split_at(16);
    let mut secret = Zeroizing::new(bytes(&crypto.ciphertext, "ciphertext")?);
    if keccak256(&[mac_key, &secret].concat()).as_bytes() != bytes(&crypto.mac, "mac")? {
        return Err(KeystoreError::Password);
    }
    let iv = bytes(&crypto.cipherparams.iv, "iv")?;
    let mut cipher = Aes128Ctr::new_from_slices(cipher_key, &iv).map_err(|_| KeystoreError::Damaged("iv"))?;
    cipher.apply_keystream(&mut secret);
    let secret: [u8; 32] = secret.as_slice().try_into().map_err(|_| KeystoreError::Damaged("ciphertext"))?;
    Ok(Zeroizing::new(secret))
}

fn derive(params: &ScryptParams, password: &[u8], salt: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
    let sane = params.n.is_power_of_two()
        && params.n <= MAX_COST
        && params.dklen == 32
        && params.n.saturating_mul(params.r.into()) <= MAX_COST * 8
        && params.p <= 16;
    let log_n = u8::try_from(params.n.trailing_zeros()).map_err(|_| KeystoreError::Scrypt)?;
    if !sane {
        return Err(KeystoreError::Scrypt);
    }
    let params = scrypt::Params::new(log_n, params.r, params.p, 32).map_err(|_| KeystoreError::Scrypt)?;
    let mut derived = Zeroizing::new([0; 32]);
    scrypt::scrypt(password, salt, &params, &mut *derived).map_err(|_| KeystoreError::Scrypt)?;
    Ok(derived)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file written by geth, with the cheapest scrypt parameters and an empty password; its address is known.
    const FILE: &str = r#"{"address":"45dea0fb0bba44f4fcf290bba71fd57d7117cbb8","crypto":{"cipher":"aes-128-ctr",
        "ciphertext":"b87781948a1befd247bff51ef4063f716cf6c2d3481163e9a8f42e1f9bb74145",
        "cipherparams":{"iv":"dc4926b48a105133d2f16b96833abf1e"},"kdf":"scrypt","kdfparams":{"dklen":32,"n":2,"p":1,"r":8,
        "salt":"004244bbdc51cadda545b1cfa43cff9ed2ae88e08c61f1479dbb45410722f8f0"},
        "mac":"39990c1684557447940d4c69e06b1b82b2aceacb43f284df65c956daf3046b85"},"version":3}"#;

    #[test]
    fn a_geth_keystore_opens_with_its_password_only() {
        let secret = open(FILE.as_bytes(), b"").unwrap();
        let address = livepeer::signature::SigningKey::from_bytes(&secret).unwrap().address();
        assert_eq!(address, "0x45dea0fb0bba44f4fcf290bba71fd57d7117cbb8".parse().unwrap());
        assert!(matches!(open(FILE.as_bytes(), b"wrong"), Err(KeystoreError::Password)));
    }

    #[test]
    fn a_strange_keystore_is_refused_with_the_reason() {
        let changed = |from: &str, to: &str| open(FILE.replace(from, to).as_bytes(), b"");
        assert!(matches!(changed("\"version\":3", "\"version\":1"), Err(KeystoreError::Version(1))));
        assert!(matches!(changed("\"kdf\":\"scrypt\"", "\"kdf\":\"pbkdf2\""), Err(KeystoreError::Kdf(_))));
        assert!(matches!(changed("\"n\":2,", "\"n\":3,"), Err(KeystoreError::Scrypt)));
        assert!(matches!(changed("\"n\":2,", "\"n\":1073741824,"), Err(KeystoreError::Scrypt)));
        assert!(matches!(changed("dc4926b4", "zz"), Err(KeystoreError::Damaged("iv"))));
        assert!(matches!(open(b"not json", b""), Err(KeystoreError::Form(_))));
    }
}
