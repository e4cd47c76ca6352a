//! Paths that lead out of the store, and URLs that lead to what only the node can reach.
use bytes::Bytes;
use livepeer::address::keccak256;
use livepeer::wire::net;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{PATIENCE, Victim};
use crate::node::peer::{Speak, Upload, data, discover, error, get, open, told};
use crate::node::{film, ladder};

const CONFIG: &str = "[serve]\nlisten = \"http://127.0.0.1:0\"\nmax_sessions = 3\n[remote]\nsecret_file = \"SECRET\"\n";

fn config(dir: &tempfile::TempDir) -> String {
    use std::os::unix::fs::PermissionsExt;
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "nobody here knows it\n").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    CONFIG.replace("SECRET", secret.to_str().unwrap())
}

#[tokio::test]
async fn no_path_leads_to_what_was_not_given_out() {
    let kept = tempfile::tempdir().unwrap();
    let victim = Victim::start(&config(&kept)).await;
    let done = victim.honest().await;
    let path = data(&done).segments[0].url.strip_prefix(&victim.node.uri).unwrap().to_owned();
    let [_, _, session, profile, file] = path.split('/').collect::<Vec<_>>()[..] else { panic!("{path}") };
    let mut guessed = session.to_owned();
    let last = guessed.pop().unwrap();
    guessed.push(if last == '0' { '1' } else { '0' });
    let paths = [
        format!("/stream/{guessed}/{profile}/{file}"),
        format!("/stream/{}/{profile}/{file}", session.to_uppercase()),
        format!("/stream/{session}/{profile}/%30.ts"),
        format!("/stream/{session}/{profile}%2f{file}"),
        format!("/stream/{session}%2F{profile}/{file}"),
        format!("/stream/%2e%2e/stream/{session}/{profile}/{file}"),
        format!("/stream/{session}/{profile}/../{profile}/{file}"),
        format!("/stream//{session}/{profile}/{file}"),
        format!("{path}%00"),
        format!("{path}%00.phash"),
        format!("{path}.phash.phash"),
        format!("{path};x"),
        format!("{path}/."),
        format!("/stream/{session}/0.tempfile"),
        format!("/stream/{session}/0-00000000000000000000000000000000.tempfile"),
        format!("/stream/{}", "a/".repeat(5000)),
        format!("/stream/{}", "%2e%2e%2f".repeat(3000)),
        "/stream/..%5c..%5cetc%5cpasswd".to_owned(),
        "/stream/%c0%ae%c0%ae/%c0%ae%c0%ae/etc/passwd".to_owned(),
        "/stream/file:///etc/passwd".to_owned(),
        "/.well-known/../etc/passwd".to_owned(),
    ];
    for path in &paths {
        for speak in [Speak::Http1, Speak::Http2] {
            let (status, body) = told(get(&victim.node.uri, speak, path).await).await;
            assert_eq!((status, body.as_str()), (404, "404 page not found\n"), "{path}");
        }
    }
    // The path as a proxy is asked for it, under another name.
    let mut stream = victim.connect().await;
    let ask = b"GET http://elsewhere/etc/passwd HTTP/1.1\r\nhost: elsewhere\r\nconnection: close\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert_eq!(get(&victim.node.uri, Speak::Http1, &path).await.status(), 200, "what was given out is there");
    for method in ["PUT", "DELETE", "POST", "CONNECT", "TRACE", "PROPFIND"] {
        let mut stream = victim.connect().await;
        let ask = format!("{method} {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 4"), "{method}: {answer}");
    }
    assert_eq!(get(&victim.node.uri, Speak::Http1, &path).await.status(), 200, "and nobody changes it");
    victim.is_unharmed().await;
}

#[tokio::test]
async fn no_url_and_no_store_makes_the_node_talk_to_itself_or_its_neighbours() {
    let kept = tempfile::tempdir().unwrap();
    let victim = Victim::start(&config(&kept)).await;
    let trap = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = trap.local_addr().unwrap().port();
    let info = discover(&victim.node.uri).await.unwrap();
    let token = info.auth_token.unwrap();
    let hosts = [
        "127.0.0.1",
        "127.1",
        "0.0.0.0",
        "0",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "1.1.1.1@127.0.0.1",
        "127.0.0.1#@1.1.1.1",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "10.0.0.1",
        "192.168.0.1",
    ];
    for host in hosts {
        for scheme in ["http", "https", "HTTP"] {
            let url = format!("{scheme}://{host}:{port}/");
            let mut upload = Upload::new(&token, 0, Bytes::from(url.clone()), &ladder());
            upload.data.hash = keccak256(b"secret").as_bytes().to_vec();
            upload.content_type = "application/vnd+livepeer.uri";
            let asked =
                open(&victim.node.uri, Speak::Http1, upload.request(&victim.node.uri, Speak::Http1, "/segment"));
            let told = told(tokio::time::timeout(PATIENCE, asked).await.expect("it is told")).await;
            assert_eq!(told, (400, "BadRequest\n".to_owned()), "{url}");
        }
    }
    // The store that renditions are to go to is a URL of the gateway's as well.
    for host in ["127.0.0.1", "localhost", "[::ffff:7f00:1]", "169.254.169.254"] {
        let mut upload = Upload::new(&token, 1, film(), &ladder());
        let s3info = net::S3osInfo { host: format!("http://{host}:{port}/"), ..Default::default() };
        upload.data.storage = vec![net::OsInfo { storage_type: 1, s3info: Some(s3info) }];
        let result = upload.send(&victim.node.uri, Speak::Http1).await;
        assert_eq!(error(&result), "renditions could not be stored", "{host}");
    }
    let caught = tokio::time::timeout(std::time::Duration::ZERO, trap.accept()).await;
    assert!(caught.is_err(), "somebody came");
    let end = net::EndTranscodingSessionRequest { auth_token: Some(token) };
    crate::node::peer::call::<_, net::EndTranscodingSessionResponse>(&victim.node.uri, "EndTranscodingSession", &end)
        .await
        .unwrap();
    victim.is_unharmed().await;
}
