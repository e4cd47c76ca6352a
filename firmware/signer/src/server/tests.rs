use livepeer::address::H256;
use livepeer::signature::SigningKey;
use millrace_hal::SimClock;
use service::Heartbeats;
use signer_protocol::{Request, Response, SignerClient, SignerError};

use super::*;

struct Running {
    dir: tempfile::TempDir,
    server: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(allow_us: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("signer.toml");
        let text = format!("socket = \"{0}/s\"\nstate_dir = \"{0}\"\nmax_connections = 2\n", dir.path().display());
        std::fs::write(&path, text).unwrap();
        let config = Config::read(&path).unwrap();
        let key = SigningKey::from_bytes(&[5; 32]).unwrap();
        let desk = Arc::new(Desk::open(&config, key, Box::new(SimClock::at(0))).unwrap());
        let listener = listen(&config).unwrap();
        let allowed = if allow_us { vec![nix::unistd::geteuid().as_raw()] } else { vec![] };
        let heartbeat = Arc::new(Heartbeats::default()).register("server", BEAT);
        let server = tokio::spawn(async move {
            run(listener, desk, allowed, config.max_connections, heartbeat).await;
        });
        Self { dir, server }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    async fn client(&self) -> Result<SignerClient, SignerError> {
        let socket = self.socket();
        tokio::task::spawn_blocking(move || SignerClient::connect(&socket)).await.unwrap()
    }
}

#[tokio::test]
async fn a_client_gets_signatures_of_the_account_it_was_told() {
    let running = Running::start(true).await;
    let client = running.client().await.unwrap();
    let digest = H256::repeat_byte(1);
    let signature = client.sign_result(digest).await.unwrap();
    assert_eq!(signature.recover_personal(digest), Ok(client.address()));
    assert_eq!(client.sign_ping(b"x").await.unwrap().recover_node(b"x"), Ok(client.address()));
    assert_eq!(client.chain_id(), None);
    assert_eq!(client.usage().await.unwrap().results, 1);
}

#[tokio::test]
async fn a_user_who_is_not_allowed_gets_no_answer() {
    let running = Running::start(false).await;
    assert!(matches!(running.client().await, Err(SignerError::Unreachable { .. })));
}

#[tokio::test]
async fn rubbish_is_refused_and_ends_the_connection() {
    let running = Running::start(true).await;
    let mut stream = UnixStream::connect(running.socket()).await.unwrap();
    stream.write_all(&[0, 0, 0, 2, b'{', b'}']).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let answer: Response = frame::read(&mut &bytes[..]).unwrap();
    assert_eq!(answer, Response::Refused(signer_protocol::Refusal::Malformed));
    let mut stream = UnixStream::connect(running.socket()).await.unwrap();
    stream.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    assert_eq!(stream.read_to_end(&mut bytes).await.unwrap(), 0, "no answer to a frame too long");
}

#[tokio::test]
async fn a_third_connection_waits_for_one_of_the_two() {
    let running = Running::start(true).await;
    let hello = frame::encode(&Request::Hello).unwrap();
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = UnixStream::connect(running.socket()).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        streams.push(stream);
    }
    let mut byte = [0; 1];
    let mut third = streams.pop().unwrap();
    for stream in &mut streams {
        stream.read_exact(&mut byte).await.unwrap();
    }
    assert!(third.try_read(&mut byte).is_err(), "the third has no answer yet");
    drop(streams);
    third.read_exact(&mut byte).await.unwrap();
}

#[tokio::test]
async fn a_client_finds_a_restarted_signer() {
    let running = Running::start(true).await;
    let client = running.client().await.unwrap();
    client.sign_result(H256::zero()).await.unwrap();
    running.server.abort();
    let again = Running::start(true).await;
    assert!(matches!(client.sign_result(H256::zero()).await, Err(SignerError::Unreachable { .. })));
    std::fs::rename(again.socket(), running.socket()).unwrap();
    client.sign_result(H256::zero()).await.unwrap();
}
