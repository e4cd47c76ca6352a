//! Tickets used twice, prices nobody asked, messages with parts missing; against the real till and ledger.
use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use ledger::Account;
use livepeer::units::Wei;
use livepeer::wire::net;
use prost::Message;

use crate::node::peer::{Speak, Upload, data, open, told};
use crate::node::scripted::{Stage, gateway, paid, pay, pixels, unpaid};

/// Sends a segment; status and text.
async fn answered(stage: &Stage, upload: &Upload, path: &str) -> (u16, String) {
    told(open(&stage.uri, Speak::Http1, upload.request(&stage.uri, Speak::Http1, path)).await).await
}

fn session(info: &net::OrchestratorInfo) -> Account {
    Account::session(gateway().address(), &info.auth_token.as_ref().unwrap().session_id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_counts_once_in_whatever_order_place_or_race() {
    let stage = Stage::on_chain().await;
    let (info, other) = (stage.offer().await.unwrap(), stage.offer().await.unwrap());
    let received = || stage.ledger().totals().tickets_received;
    data(&paid(&info, 0, [5, 3, 9, 1]).send(&stage.uri, Speak::Http1).await);
    assert_eq!(received(), 4, "their order means nothing");

    // The same payment eight times at once.
    let racing = paid(&info, 1, 10..=13);
    let told = join_all((0..8).map(|_| answered(&stage, &racing, "/segment"))).await;
    let taken = told.iter().filter(|(status, _)| *status == 200).count();
    assert_eq!((taken, received()), (1, 8), "{told:?}");
    assert!(
        told.iter()
            .filter(|(status, _)| *status != 200)
            .all(|(status, text)| { *status == 400 && text.starts_with("invalid ticket senderNonce: already seen") })
    );

    // Twice in one payment, in another session, for another purpose.
    let twice = answered(&stage, &paid(&info, 2, [20, 20]), "/segment").await;
    assert!(twice.0 == 400 && twice.1.starts_with("invalid ticket senderNonce: already seen"), "{twice:?}");
    assert_eq!(received(), 9, "the first of the two was good");
    let mut elsewhere = paid(&other, 0, [1]);
    elsewhere.payment = pay(&info, [5]);
    let seen = answered(&stage, &elsewhere, "/segment").await;
    assert!(seen.0 == 400 && seen.1.starts_with("invalid ticket senderNonce: already seen"), "{seen:?}");
    let token = info.auth_token.as_ref().unwrap();
    let mut kept = Upload::new(token, 0, Default::default(), &[]).signed(&gateway(), &[]);
    kept.payment = pay(&info, [3]);
    let seen = answered(&stage, &kept, "/payment").await;
    assert!(seen.0 == 400 && seen.1.starts_with("invalid ticket senderNonce: already seen"), "{seen:?}");

    // One ticket's signature under another's number, one offer's tickets under another's.
    let mut renamed = paid(&info, 3, [30]);
    renamed.payment.ticket_sender_params[0].sender_nonce = 31;
    assert_eq!(answered(&stage, &renamed, "/segment").await, (400, "invalid ticket signature\n".to_owned()));
    let mut mixed = paid(&info, 3, [40]);
    let foreign = other.ticket_params.as_ref().unwrap().recipient_rand_hash.clone();
    mixed.payment.ticket_params.as_mut().unwrap().recipient_rand_hash = foreign;
    let refused = "invalid recipientRand for ticket recipientRandHash\n".to_owned();
    assert_eq!(answered(&stage, &mixed, "/segment").await, (400, refused));

    assert_eq!(received(), 9);
    let worth = |account: &Account| stage.ledger().balance(account).unwrap().credit;
    let one = stage.ledger().totals().received;
    assert_eq!(worth(&session(&info)), one, "all credit is that of the nine");
    assert_eq!(worth(&Account::manifest(gateway().address(), "stream")), Wei::ZERO);
}

#[tokio::test]
async fn no_price_that_a_gateway_can_write_is_worked_for_but_ours() {
    let stage = Stage::on_chain().await;
    let info = stage.offer().await.unwrap();
    let ours = info.price_info.as_ref().unwrap().price_per_unit;
    let (least, most) = (i64::MIN, i64::MAX);
    let games =
        [(0, 1), (-1, 1), (least, 1), (1, 0), (0, 0), (1, -1), (least, least), (1, most), (most, 1), (ours + 1, 1)];
    let priced = |upload: Upload, (wei, pixels): (i64, i64)| {
        let mut upload = upload;
        let price = net::PriceInfo { price_per_unit: wei, pixels_per_unit: pixels, ..Default::default() };
        upload.payment.expected_price = Some(price);
        upload
    };
    // Before anything is settled, with tickets for the true offer and without any.
    for game in games {
        let (status, text) = answered(&stage, &priced(paid(&info, 0, [700]), game), "/segment").await;
        assert_eq!(status, 400, "{game:?}: {text}");
        let (status, text) = answered(&stage, &priced(unpaid(&info, 0, 0), game), "/segment").await;
        assert_eq!(status, 400, "{game:?}: {text}");
    }
    assert_eq!(stage.ledger().totals().tickets_received, 0);

    // In the middle of a session that has credit: up, down, and ours in other words.
    data(&paid(&info, 0, 1..=10).send(&stage.uri, Speak::Http1).await);
    for game in games {
        let (status, text) = answered(&stage, &priced(unpaid(&info, 1, 0), game), "/segment").await;
        assert!(status == 400 && text.starts_with("invalid expected price sent with payment"), "{game:?}: {text}");
    }
    data(&priced(unpaid(&info, 1, 0), (2 * ours, 2)).send(&stage.uri, Speak::Http1).await);
    let charged = u64::try_from(ours).unwrap() * pixels() * 2;
    assert_eq!(stage.ledger().balance(&session(&info)).unwrap().debit, Wei::from(charged));
}

/// One field of a message as it stands on the wire: all its bytes, and its content if it has a length.
type Field = (std::ops::Range<usize>, Option<std::ops::Range<usize>>);

fn fields(message: &[u8]) -> Option<Vec<Field>> {
    let number = |at: &mut usize| {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *message.get(*at)?;
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    };
    let (mut at, mut found) = (0, Vec::new());
    while at < message.len() {
        let start = at;
        let key = number(&mut at)?;
        let content = match key & 7 {
            0 => number(&mut at).map(|_| None)?,
            2 => {
                let length = usize::try_from(number(&mut at)?).ok()?;
                let begin = at;
                at = at.checked_add(length)?;
                Some(begin..at)
            }
            _ => return None,
        };
        if key < 8 || at > message.len() {
            return None;
        }
        found.push((start..at, content));
    }
    Some(found)
}

/// The message without one of its fields, or of those inside them, in every way there is; and with one of them empty.
fn spoilt(message: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (field, content) in fields(message).unwrap_or_default() {
        all.push([&message[..field.start], &message[field.end..]].concat());
        let Some(content) = content else { continue };
        let key = &message[field.start..=field.start];
        // Lengths above 127 take another byte; keys above 15 too, and are cut by the node as nonsense.
        for inner in spoilt(&message[content.clone()]).into_iter().chain([Vec::new()]) {
            let mut length = vec![u8::try_from(inner.len() & 0x7f).unwrap()];
            if inner.len() > 127 {
                length =
                    vec![u8::try_from(inner.len() & 0x7f | 0x80).unwrap(), u8::try_from(inner.len() >> 7).unwrap()];
            }
            all.push([&message[..field.start], key, &length, &inner, &message[field.end..]].concat());
        }
    }
    all
}

#[tokio::test]
async fn whatever_is_missing_in_a_message_is_the_peers_fault_and_earns_nothing() {
    let stage = Stage::on_chain().await;
    let info = stage.offer().await.unwrap();
    let good = paid(&info, 0, 1..=2);
    let (segment, payment) = (good.data.encode_to_vec(), good.payment.encode_to_vec());
    let mut tried = BTreeMap::new();
    for (header, variants) in [("Livepeer-Segment", spoilt(&segment)), ("Livepeer-Payment", spoilt(&payment))] {
        assert!(variants.len() > 20, "{header}: {}", variants.len());
        for variant in variants {
            let mut request = good.request(&stage.uri, Speak::Http1, "/segment");
            request.headers_mut().insert(header, STANDARD.encode(&variant).parse().unwrap());
            let (status, text) = told(open(&stage.uri, Speak::Http1, request).await).await;
            assert!(matches!(status, 200 | 400 | 402 | 403), "{header} {}: {status} {text}", hex::encode(&variant));
            *tried.entry(status).or_insert(0) += 1;
        }
    }
    assert!(tried[&400] > 10 && tried[&403] > 10, "{tried:?}");
    assert!(stage.ledger().totals().tickets_received <= 2, "two tickets are two tickets");
    let fresh = stage.offer().await.unwrap();
    data(&paid(&fresh, 0, 1..=4).send(&stage.uri, Speak::Http1).await);
}
