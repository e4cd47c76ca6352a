//! The site around the machine, on this host: a gateway that pushes, a broker, the fleet's controller.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use fleet_protocol::dsse;
use fleet_protocol::site::SITE;
use millrace_tests::bins::bin;
use millrace_tests::broker::{Broker, CONTROLLER, ClientFiles};
use millrace_tests::media;
use serde_json::{Value, json};

use crate::machine::Places;
use crate::release;

/// The box's name in its fleet.
pub(crate) const BOX: &str = "box-00000000000000aa";
/// Where the machine sees this host.
const HOST: &str = "10.0.2.2";
/// How long the site file is good for, milliseconds.
const GOOD_FOR: i64 = 86_400_000;

/// Broker and controller, on ports of loopback.
#[derive(Debug)]
pub(crate) struct Fleet {
    broker: Broker,
    controller: Child,
    api: u16,
}

impl Fleet {
    /// Start both, with their files in `dir`.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        let broker = Broker::start(&dir.join("broker"))?;
        let files = broker.client_cert(CONTROLLER)?;
        let api = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = format!(
            "fleet = \"acme\"\ndatabase = \"{}\"\nlisten = \"127.0.0.1:{api}\"\nauto_enrol = true\n\
             [broker]\nhost = \"127.0.0.1\"\nport = {}\n[tls]\nca = \"{}\"\ncert = \"{}\"\nkey = \"{}\"\n",
            dir.join("fleet.db").display(),
            broker.port(),
            files.ca.display(),
            files.cert.display(),
            files.key.display()
        );
        fs::write(dir.join("controller.toml"), config)?;
        let log = File::create(dir.join("controller.log"))?;
        let controller = Command::new(bin("millrace-controller"))
            .arg("--config")
            .arg(dir.join("controller.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("the controller")?;
        Ok(Self { broker, controller, api })
    }

    /// The box's own certificate and key.
    pub(crate) fn device(&self) -> Result<ClientFiles> {
        self.broker.client_cert(BOX)
    }

    /// The broker's port on this host.
    pub(crate) fn broker_port(&self) -> u16 {
        self.broker.port()
    }

    /// What the controller knows of the box.
    pub(crate) fn detail(&self) -> Option<Value> {
        serde_json::from_str(&self.get(&format!("/api/boxes/{BOX}"))?).ok()
    }

    /// Wait until the controller's knowledge of the box satisfies `look`.
    pub(crate) fn until<T>(&self, what: &str, limit: Duration, look: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            let detail = self.detail();
            if let Some(found) = detail.as_ref().and_then(&look) {
                return Ok(found);
            }
            ensure!(Instant::now() < deadline, "not within {limit:?}: {what}; the controller knows {detail:?}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.api)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.controller.kill();
        let _ = self.controller.wait();
    }
}

/// The box's site file, signed with the test key: off chain, reached by way of this port of the host.
pub(crate) fn signed(places: &Places, fleet: &Fleet, port: u16) -> Result<Vec<u8>> {
    let device = fleet.device()?;
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let site = json!({
        "v": 1, "site": "image test", "iat": now, "exp": now + GOOD_FOR,
        "controller": {
            "fleet": "acme",
            "brokers": [{"host": HOST, "port": fleet.broker_port()}],
            "ca_pem": fs::read_to_string(&device.ca)?,
            "claim_token": "0123456789abcdef",
            "identity": {
                "box": BOX,
                "cert_pem": fs::read_to_string(&device.cert)?,
                "key_pem": fs::read_to_string(&device.key)?,
            },
        },
        // The same port inside: there, too, the box finds itself under its service URI.
        "node": {"service_uri": format!("https://127.0.0.1:{port}"), "listen": format!("0.0.0.0:{port}")},
    });
    Ok(dsse::sign(SITE, &serde_json::to_vec(&site)?, &release::key(places, "site-1")?)?)
}

/// A stream small enough for an emulated processor: one-second segments of 160 by 90.
pub(crate) fn clip() -> PathBuf {
    let more = ["-profile:v", "baseline", "-bf", "0", "-g", "10", "-f", "mpegts"];
    media::synthetic("image-test.ts", "160x90", "10", "4", true, &more)
}

/// A gateway on this host that pushes to the machine.
#[derive(Debug)]
pub(crate) struct Push {
    child: Child,
    dir: PathBuf,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Pushed {
    /// Segments that came back.
    pub(crate) done: u64,
    /// Segments that were given up.
    pub(crate) lost: u64,
    /// The whole report.
    pub(crate) report: Value,
}

impl Push {
    /// Start to push the clip over and over for so many seconds of content.
    pub(crate) fn start(dir: &Path, port: u16, seconds: u32, pace: &str) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        fs::create_dir_all(dir)?;
        let child = Command::new(bin("millrace"))
            .args(["gateway", "push"])
            .arg(clip())
            .args(["--orch", &format!("https://127.0.0.1:{port}"), "--profiles", "P144p30fps16x9", "--segment", "1s"])
            .args(["--loop-to", &format!("{seconds}s"), "--pace", pace, "--json", "--out"])
            .arg(dir.join("ladder"))
            .stdin(Stdio::null())
            .stdout(File::create(dir.join("report.json"))?)
            .stderr(File::create(dir.join("push.log"))?)
            .spawn()
            .context("the gateway")?;
        Ok(Self { child, dir: dir.to_owned() })
    }

    /// Wait for its end and read its report.
    pub(crate) fn finish(mut self, limit: Duration) -> Result<Pushed> {
        let deadline = Instant::now() + limit;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "the gateway is not done within {limit:?}: {}", self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
        let text = fs::read_to_string(self.dir.join("report.json"))?;
        let report: Value = serde_json::from_str(&text).with_context(|| format!("no report: {}", self.log()))?;
        let count = |name: &str| report.get(name).and_then(Value::as_u64);
        let (Some(all), Some(lost)) = (count("segments"), count("failed")) else {
            anyhow::bail!("a report without counts: {text}")
        };
        Ok(Pushed { done: all.saturating_sub(lost), lost, report })
    }

    /// Whether it is still pushing.
    pub(crate) fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    fn log(&self) -> String {
        crate::machine::tail(&fs::read_to_string(self.dir.join("push.log")).unwrap_or_default(), 10)
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
