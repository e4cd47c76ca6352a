//! Frames: four bytes of length, big-endian, and as many bytes of JSON, at most 64 KiB.
use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest frame, without its length.
pub const MAX_FRAME: usize = 64 * 1024;

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer went away, hangs, or the socket broke.
    #[error("connection broke")]
    Io(#[from] io::Error),
    /// Longer than [`MAX_FRAME`].
    #[error("frame of {0} bytes is longer than {MAX_FRAME}")]
    TooLong(usize),
    /// Not a message of this version.
    #[error("message not understood")]
    Malformed(#[source] serde_json::Error),
}

/// A message as it travels.
///
/// # Errors
/// [`FrameError::TooLong`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let body = serde_json::to_vec(message).map_err(FrameError::Malformed)?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_FRAME);
    let length = length.ok_or(FrameError::TooLong(body.len()))?;
    Ok([&length.to_be_bytes()[..], &body].concat())
}

/// How long the body is, from the four bytes before it.
///
/// # Errors
/// [`FrameError::TooLong`].
pub fn body_length(header: [u8; 4]) -> Result<usize, FrameError> {
    let length = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
    if length > MAX_FRAME { Err(FrameError::TooLong(length)) } else { Ok(length) }
}

/// The message in a body.
///
/// # Errors
/// [`FrameError::Malformed`].
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(body).map_err(FrameError::Malformed)
}

/// Writes one message.
///
/// # Errors
/// [`FrameError`].
pub fn write<T: Serialize>(stream: &mut impl Write, message: &T) -> Result<(), FrameError> {
    stream.write_all(&encode(message)?)?;
    Ok(stream.flush()?)
}

/// Reads one message.
///
/// # Errors
/// [`FrameError`].
pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> Result<T, FrameError> {
    let mut header = [0; 4];
    stream.read_exact(&mut header)?;
    let mut body = vec![0; body_length(header)?];
    stream.read_exact(&mut body)?;
    decode(&body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Refusal, Request, Response};
    use livepeer::address::{Address, H256};
    use livepeer::transaction::Transaction;
    use livepeer::units::Wei;
    use proptest::prelude::*;

    fn request() -> impl Strategy<Value = Request> {
        let transaction =
            (any::<u64>(), any::<u64>(), any::<[u64; 4]>(), proptest::collection::vec(any::<u8>(), 0..2000)).prop_map(
                |(chain_id, nonce, limbs, data)| {
                    let wei = Wei(primitive_types::U256(limbs));
                    Transaction {
                        chain_id,
                        nonce,
                        max_priority_fee_per_gas: Wei::ZERO,
                        max_fee_per_gas: wei,
                        gas_limit: nonce,
                        to: Address::NULL,
                        value: wei,
                        data,
                    }
                },
            );
        prop_oneof![
            Just(Request::Hello),
            Just(Request::Usage),
            any::<[u8; 32]>().prop_map(|digest| Request::SignResult { digest: H256(digest) }),
            proptest::collection::vec(any::<u8>(), 0..100).prop_map(|value| Request::SignPing { value }),
            transaction.prop_map(|transaction| Request::SignTransaction { transaction }),
        ]
    }

    proptest! {
        #[test]
        fn a_request_arrives_as_it_was_sent(request in request()) {
            let bytes = encode(&request).unwrap();
            prop_assert_eq!(read::<Request>(&mut &bytes[..]).unwrap(), request);
        }

        #[test]
        fn rubbish_is_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read::<Request>(&mut &bytes[..]);
            let _ = read::<Response>(&mut &bytes[..]);
        }
    }

    #[test]
    fn a_frame_too_long_is_refused_before_it_is_read() {
        let header = u32::MAX.to_be_bytes();
        assert!(matches!(read::<Request>(&mut &header[..]), Err(FrameError::TooLong(_))));
        let long = Request::SignPing { value: vec![0; MAX_FRAME] };
        assert!(matches!(encode(&long), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn an_unknown_request_is_refused() {
        assert!(decode::<Request>(br#""sign_anything""#).is_err());
        assert!(decode::<Request>(br#"{"sign_result":{"digest":"0x00","and":1}}"#).is_err());
    }

    #[test]
    fn a_refusal_arrives_with_its_numbers() {
        let refusal = Response::Refused(Refusal::GasLimit { found: 5, cap: 4 });
        assert_eq!(read::<Response>(&mut &encode(&refusal).unwrap()[..]).unwrap(), refusal);
    }
}
