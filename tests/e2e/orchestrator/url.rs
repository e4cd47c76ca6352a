//! Segments that are named by a URL.
use std::sync::Arc;

use bytes::Bytes;
use livepeer::address::keccak256;
use livepeer::wire::net;
use orchestrator::Config;
use orchestrator::config::MaxSessions;

use super::web::{answer, serve};
use crate::node::peer::{Speak, Upload, data, discover};
use crate::node::scripted::{Scripted, Stage, ladder};

fn own_network(config: &mut Config) {
    config.max_sessions = MaxSessions::Fixed(2);
    config.outbound.allow_networks = vec!["127.0.0.0/8".parse().unwrap()];
}

/// A segment that is not in the request but behind a URL.
fn behind(token: &net::AuthToken, url: &str, media: &[u8]) -> Upload {
    let mut upload = Upload::new(token, 0, Bytes::from(url.to_owned()), &ladder());
    upload.data.hash = keccak256(media).as_bytes().to_vec();
    upload.content_type = "application/vnd+livepeer.uri";
    upload
}

#[tokio::test]
async fn a_segment_behind_a_url_is_fetched_and_held_to_its_hash() {
    let media: Vec<u8> = (0..200_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let film = Bytes::from(media.clone());
    let (address, asked) = serve(move |request| match request.uri().path() {
        "/film.ts" => answer(200, film.clone()),
        "/moved.ts" => {
            let mut moved = answer(302, "");
            moved.headers_mut().insert("location", "/film.ts".parse().unwrap());
            moved
        }
        _ => answer(404, "no"),
    })
    .await;
    let stage = Stage::set(Scripted::new(1000, 2), None, own_network).await;
    let token = discover(&stage.uri).await.unwrap().auth_token.unwrap();
    let url = |path: &str| format!("http://{address}{path}");
    let result = behind(&token, &url("/film.ts?signed=1"), &media).send(&stage.uri, Speak::Http1).await;
    assert_eq!(data(&result).segments.len(), 2);
    assert_eq!(*stage.transcoder.order.lock().unwrap(), [200_000], "the transcoder got what is behind the URL");
    assert_eq!(asked.lock().unwrap()[0].uri(), "/film.ts?signed=1");

    behind(&token, &url("/film.ts"), b"other").refused(&stage.uri, 403, "Forbidden").await;
    for bad in [&url("/moved.ts"), &url("/absent.ts"), "nonsense", "", "ftp://127.0.0.1/", "http://127.0.0.1:1/"] {
        behind(&token, bad, &media).refused(&stage.uri, 400, "BadRequest").await;
    }
    let asked: Vec<String> = asked.lock().unwrap().iter().map(|request| request.uri().to_string()).collect();
    let twice = ["/film.ts", "/film.ts", "/moved.ts", "/moved.ts", "/absent.ts", "/absent.ts"];
    assert_eq!(asked[1..], twice, "a redirect is not followed");
    let long = format!("http://{address}/{}", "x".repeat(5000));
    behind(&token, &long, &media).refused(&stage.uri, 400, "BadRequest").await;
}

#[tokio::test]
async fn a_gateway_cannot_make_us_talk_to_what_only_we_can_reach() {
    let (address, asked) = serve(|_| answer(200, "secret")).await;
    let stage = Stage::off_chain(Scripted::new(1000, 2)).await;
    let token = discover(&stage.uri).await.unwrap().auth_token.unwrap();
    let port = address.port();
    for host in
        ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0", "169.254.169.254"]
    {
        behind(&token, &format!("http://{host}:{port}/"), b"secret").refused(&stage.uri, 400, "BadRequest").await;
    }
    assert!(asked.lock().unwrap().is_empty());
    assert!(Arc::strong_count(&stage.node) > 0 && stage.transcoder.order.lock().unwrap().is_empty());
}
