//! The files under `tests/vectors` and how their values are read.
use livepeer::address::{Address, H256};
use primitive_types::U256;
use serde_json::Value;

/// A file of vectors, whole.
pub(crate) fn file(name: &str) -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/");
    let text = std::fs::read_to_string(format!("{path}{name}")).expect("the vectors are part of the repository");
    serde_json::from_str(&text).expect("the vectors are JSON")
}

/// The names of a file's vectors.
pub(crate) fn names(name: &str) -> Vec<String> {
    file(name)["vectors"].as_object().expect("an object").keys().cloned().collect()
}

/// One vector of a file.
pub(crate) fn vector(file_name: &str, name: &str) -> Value {
    let vector = file(file_name)["vectors"][name].take();
    assert!(vector.is_object(), "no vector {name}");
    vector
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("text expected, found {value}"))
}

/// Hexadecimal, with or without `0x`.
pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(text(value).trim_start_matches("0x")).expect("hex")
}

pub(crate) fn hash(value: &Value) -> H256 {
    H256::from_slice(&bytes(value))
}

pub(crate) fn address(value: &Value) -> Address {
    text(value).parse().expect("an address with its checksum")
}

/// A number, decimal as number or text, or hexadecimal with `0x`.
pub(crate) fn number(value: &Value) -> U256 {
    let text = value.as_number().map_or_else(|| text(value).to_owned(), ToString::to_string);
    match text.strip_prefix("0x") {
        Some(digits) => U256::from_str_radix(digits, 16).expect("hex"),
        None => U256::from_dec_str(&text).expect("decimal"),
    }
}
