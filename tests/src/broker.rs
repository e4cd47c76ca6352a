//! A local MQTT broker with TLS, client certificates and the fleet's access rules: a real mosquitto.
//!
//! The listener, the limits and the access rules are those of the fleet contract; only the port, the paths and the
//! certificates (made here, thrown away with the directory) differ from a production broker.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// How long the broker may take to listen or to stop.
const PATIENCE: Duration = Duration::from_secs(10);
/// Client id and certificate name of the controller, as the access rules know it.
pub const CONTROLLER: &str = "ctl-main";
/// Whoever owns the broker may say anything on it; only signatures hold against that.
pub const OWNER: &str = "owner-of-the-broker";

/// Who may do what: `%u` is the common name of the client's certificate.
const ACL: &str = "\
user ctl-main
topic readwrite millrace/v1/#
topic read $SYS/#

user owner-of-the-broker
topic readwrite millrace/v1/#

pattern write millrace/v1/+/%u/state
pattern write millrace/v1/+/%u/info
pattern write millrace/v1/+/%u/rep
pattern write millrace/v1/+/%u/tele/+
pattern write millrace/v1/+/%u/event/+
pattern write millrace/v1/+/%u/res/+
pattern write millrace/v1/+/%u/log/+
pattern read  millrace/v1/+/%u/cmd/+
pattern read  millrace/v1/+/%u/want
pattern read  millrace/v1/+/%u/ack
pattern read  millrace/v1/+/_g/+/+
pattern read  millrace/v1/+/_ctl/+
";

/// Paths of one client's credentials, PEM.
#[derive(Debug, Clone)]
pub struct ClientFiles {
    /// The fleet's certificate authority.
    pub ca: PathBuf,
    /// The client's certificate; its common name is the client id.
    pub cert: PathBuf,
    /// The client's key, readable by its owner only.
    pub key: PathBuf,
}

/// A running broker; killed when dropped.
#[derive(Debug)]
pub struct Broker {
    dir: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Broker {
    /// Whether the broker program is installed.
    #[must_use]
    pub fn available() -> bool {
        Command::new(program()).arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    }

    /// Make the certificates and the configuration under `dir`, start the broker on a free loopback port and wait
    /// until it listens.
    ///
    /// # Errors
    /// When mosquitto is not installed or does not listen in time; its log is part of the message.
    pub fn start(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir.join("data"))?;
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.distinguished_name.push(DnType::CommonName, "fleet-ca");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        fs::write(dir.join("fleet-ca.pem"), ca.self_signed(&key)?.pem())?;
        write_secret(&dir.join("fleet-ca.key"), &key.serialize_pem())?;
        fs::write(dir.join("acl"), ACL)?;

        let mut broker = Self { dir: dir.to_owned(), port: 0, child: None };
        // The last is this host as a machine in emulation sees it.
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "10.0.2.2".to_owned()];
        broker.issue("broker", names, ExtendedKeyUsagePurpose::ServerAuth)?;
        let mut last = None;
        // The port is free when chosen and may be taken when mosquitto binds it: try again with another.
        for _ in 0..3 {
            broker.port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            fs::write(dir.join("mosquitto.conf"), broker.configuration())?;
            match broker.resume() {
                Ok(()) => return Ok(broker),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("three attempts leave an error"))
    }

    /// The TLS port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Credentials for a client of this name; made at the first call, the same files afterwards.
    ///
    /// # Errors
    /// When the certificate cannot be made or written.
    pub fn client_cert(&self, name: &str) -> Result<ClientFiles> {
        let files = self.files(name);
        if !files.key.exists() {
            self.issue(name, Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)?;
        }
        Ok(files)
    }

    /// Credentials of a server on this host, by the same authority.
    ///
    /// # Errors
    /// When the certificate cannot be made or written.
    pub fn server_cert(&self, name: &str) -> Result<ClientFiles> {
        let files = self.files(name);
        if !files.key.exists() {
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            self.issue(name, names, ExtendedKeyUsagePurpose::ServerAuth)?;
        }
        Ok(files)
    }

    /// Stop the broker gracefully (it saves retained messages) and wait for its end; nothing happens when it is down.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("mosquitto ignored SIGTERM for {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Start the stopped broker again, same port and same store, and wait until it listens.
    ///
    /// # Errors
    /// When it does not listen in time; its log is part of the message.
    pub fn resume(&mut self) -> Result<()> {
        if self.child.is_some() {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new(program());
        command.arg("-c").arg(self.dir.join("mosquitto.conf"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Some(group) = crate::cluster::group_apart() {
            std::os::unix::process::CommandExt::process_group(&mut command, group);
        }
        let mut child = command.spawn().context("mosquitto is not installed")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait()? {
                bail!("mosquitto ended with {status}: {}", fs::read_to_string(self.log_path()).unwrap_or_default());
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                self.child = Some(child);
                return Ok(());
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("mosquitto does not listen: {}", fs::read_to_string(self.log_path()).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stop and start again.
    ///
    /// # Errors
    /// As [`Broker::stop`] and [`Broker::resume`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.resume()
    }

    /// Where the broker writes its log.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("mosquitto.log")
    }

    fn files(&self, name: &str) -> ClientFiles {
        ClientFiles {
            ca: self.dir.join("fleet-ca.pem"),
            cert: self.dir.join(format!("{name}.pem")),
            key: self.dir.join(format!("{name}.key")),
        }
    }

    fn issue(&self, name: &str, alternative_names: Vec<String>, usage: ExtendedKeyUsagePurpose) -> Result<()> {
        let ca_key = KeyPair::from_pem(&fs::read_to_string(self.dir.join("fleet-ca.key"))?)?;
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.distinguished_name.push(DnType::CommonName, "fleet-ca");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = Issuer::new(ca, ca_key);

        let mut leaf = CertificateParams::new(alternative_names)?;
        leaf.distinguished_name = rcgen::DistinguishedName::new();
        leaf.distinguished_name.push(DnType::CommonName, name);
        leaf.extended_key_usages = vec![usage];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let files = self.files(name);
        fs::write(&files.cert, leaf.signed_by(&key, &issuer)?.pem())?;
        write_secret(&files.key, &key.serialize_pem())
    }

    fn configuration(&self) -> String {
        let dir = self.dir.display();
        let port = self.port;
        // Run as root it would change to its own account, which cannot read a private directory.
        format!(
            "\
user root
per_listener_settings false
persistence true
persistence_location {dir}/data/
autosave_interval 300
max_packet_size 65536
max_keepalive 300
max_inflight_messages 20
max_queued_messages 200
max_topic_alias 8
persistent_client_expiration 1d
log_type error
log_type warning
log_type notice
listener {port} 127.0.0.1
cafile {dir}/fleet-ca.pem
certfile {dir}/broker.pem
keyfile {dir}/broker.key
tls_version tlsv1.3
require_certificate true
use_identity_as_username true
use_username_as_clientid true
allow_anonymous false
acl_file {dir}/acl
"
        )
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Debian puts it where an ordinary account's path does not look.
fn program() -> PathBuf {
    let sbin = PathBuf::from("/usr/sbin/mosquitto");
    if sbin.is_file() { sbin } else { PathBuf::from("mosquitto") }
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
