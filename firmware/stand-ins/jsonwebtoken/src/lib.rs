//! Stand-in for `jsonwebtoken` 8: the names that `ethers-providers` mentions for the engine API's
//! authentication, which the product does not use. Every call answers an error.
use std::collections::HashSet;

pub mod errors {
    /// The only error there is: tokens are not built in.
    #[derive(Debug, Clone)]
    pub struct Error;
    impl std::fmt::Display for Error {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("json web tokens are not built in")
        }
    }
    impl std::error::Error for Error {}
}

#[derive(Debug, Clone, Copy, Default)]
pub enum Algorithm {
    #[default]
    HS256,
}
#[derive(Debug, Clone, Default)]
pub struct Header;
impl Header {
    pub fn new(_algorithm: Algorithm) -> Self {
        Self
    }
}
#[derive(Clone, Default)]
pub struct EncodingKey;
impl EncodingKey {
    pub fn from_secret(_secret: &[u8]) -> Self {
        Self
    }
}
#[derive(Clone, Default)]
pub struct DecodingKey;
impl DecodingKey {
    pub fn from_secret(_secret: &[u8]) -> Self {
        Self
    }
}
#[derive(Debug, Clone, Default)]
pub struct Validation {
    pub validate_exp: bool,
    pub required_spec_claims: HashSet<String>,
}
impl Validation {
    pub fn new(_algorithm: Algorithm) -> Self {
        Self::default()
    }
}
#[derive(Debug)]
pub struct TokenData<T> {
    pub header: Header,
    pub claims: T,
}
pub fn get_current_timestamp() -> u64 {
    0
}
pub fn encode<T: serde::Serialize>(_: &Header, _: &T, _: &EncodingKey) -> Result<String, errors::Error> {
    Err(errors::Error)
}
pub fn decode<T: serde::de::DeserializeOwned>(
    _: &str,
    _: &DecodingKey,
    _: &Validation,
) -> Result<TokenData<T>, errors::Error> {
    Err(errors::Error)
}
