use proptest::prelude::*;

use super::*;

#[test]
fn commands_are_the_bytes_the_specification_has() {
    assert_eq!(hex(&wire::read_public(INDEX).bytes()), "80010000000e0000016901804d4c");
    let session = concat!("00000009", "40000009", "0000", "00", "0000");
    assert_eq!(
        hex(&wire::read(INDEX, SIZE).bytes()),
        format!("8002{}{}01804d4c01804d4c{session}00400000", "00000023", "0000014e")
    );
    assert_eq!(
        hex(&wire::define(INDEX, ATTRIBUTES, SIZE).bytes()),
        format!("8002{}{}40000001{session}0000{}", "0000002d", "0000012a", "000e01804d4c000b0204000400000040")
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn an_answer_is_read_and_a_broken_one_is_none() {
    let command = wire::read(INDEX, 4);
    let good = [0x80, 2, 0, 0, 0, 25, 0, 0, 0, 0, 0, 0, 0, 6, 0, 4, b'a', b'b', b'c', b'd', 0, 0, 1, 0, 0];
    let reply = Reply::read(good.to_vec(), &command).unwrap();
    assert_eq!(wire::sized(&reply.parameters).unwrap(), b"abcd");
    for cut in 0..good.len() {
        assert!(Reply::read(good[..cut].to_vec(), &command).is_none(), "{cut}");
    }
    let refused = [0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x8b];
    assert!(wire::is_no_such_handle(Reply::read(refused.to_vec(), &command).unwrap().code));
}

#[test]
fn a_record_that_was_cut_while_it_was_written_is_none() {
    let record = wrap("1.2.0").unwrap();
    assert_eq!(unwrap(&record).as_deref(), Some("1.2.0"));
    let earlier = wrap("10.20.30~rc4").unwrap();
    // Of two records no mixture is one, but for the two themselves.
    for cut in 1..14 {
        let mixed = [&record[..cut], &earlier[cut..]].concat();
        assert_eq!(unwrap(&mixed), None, "{cut}");
    }
    assert!(wrap(&"1".repeat(56)).is_none());
}

#[test]
fn no_tpm_is_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let tpm = Tpm::at(dir.path().join("dev/tpmrm0"));
    assert!(matches!(tpm.read(), Err(TpmError::None)));
    assert!(matches!(tpm.write("1.0"), Err(TpmError::None)));
}

#[test]
fn a_device_that_is_no_tpm_is_an_error_and_not_a_floor() {
    let dir = tempfile::tempdir().unwrap();
    let device = dir.path().join("tpmrm0");
    std::fs::write(&device, vec![0xff; 64]).unwrap();
    assert!(Tpm::at(device).read().is_err());
}

proptest! {
    #[test]
    fn no_answer_of_a_broken_tpm_makes_us_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = unwrap(&bytes);
        if let Some(reply) = Reply::read(bytes, &wire::read_public(INDEX)) {
            let _ = wire::public(&reply.parameters);
            let _ = wire::sized(&reply.parameters);
        }
    }
}
