//! Stand-in for `reqwest` 0.11: the names that `ethers` mentions, none of the code behind them.
//!
//! `ethers` uses reqwest only in its own HTTP transport, gas oracles and NFT metadata. The product
//! uses none of these (its transport lives in `firmware/chain/src/rpc.rs`), so every call here
//! answers [`Error`].
use std::fmt;

pub use http::{header, StatusCode};
pub use url::Url;

/// The only error there is: HTTP through reqwest is not built in.
#[derive(Debug, Clone, Copy)]
pub struct Error;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("http through reqwest is not built in")
    }
}
impl std::error::Error for Error {}
impl Error {
    pub fn is_timeout(&self) -> bool {
        false
    }
    pub fn is_connect(&self) -> bool {
        false
    }
    pub fn status(&self) -> Option<StatusCode> {
        None
    }
}

#[derive(Debug, Clone, Default)]
pub struct Client;
#[derive(Debug, Default)]
pub struct ClientBuilder;
#[derive(Debug)]
pub struct RequestBuilder;
#[derive(Debug)]
pub struct Response;

impl Client {
    pub fn new() -> Self {
        Self
    }
    pub fn builder() -> ClientBuilder {
        ClientBuilder
    }
    pub fn get<U>(&self, _url: U) -> RequestBuilder {
        RequestBuilder
    }
    pub fn post<U>(&self, _url: U) -> RequestBuilder {
        RequestBuilder
    }
}
impl ClientBuilder {
    pub fn default_headers(self, _headers: header::HeaderMap) -> Self {
        self
    }
    pub fn user_agent<V>(self, _value: V) -> Self {
        self
    }
    pub fn build(self) -> Result<Client, Error> {
        Ok(Client)
    }
}
impl RequestBuilder {
    pub fn header<K, V>(self, _key: K, _value: V) -> Self {
        self
    }
    pub fn json<T: serde::Serialize + ?Sized>(self, _body: &T) -> Self {
        self
    }
    pub async fn send(self) -> Result<Response, Error> {
        Err(Error)
    }
}
impl Response {
    pub fn error_for_status(self) -> Result<Self, Error> {
        Err(Error)
    }
    pub async fn json<T: serde::de::DeserializeOwned>(self) -> Result<T, Error> {
        Err(Error)
    }
    pub async fn bytes(self) -> Result<bytes::Bytes, Error> {
        Err(Error)
    }
}
pub async fn get<U>(_url: U) -> Result<Response, Error> {
    Err(Error)
}
