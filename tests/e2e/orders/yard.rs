//! A fleet in a directory: a real broker, the controller, and boxes whose path units and restarts are played by the test,
//! each at the moment it chooses.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use fleet_protocol::api::{BoxDetail, Campaign, CampaignList, EventList, Order, OrderBox, OrderList};
use fleet_protocol::presence::Presence;
use fleet_protocol::release::Keys;
use millrace_tests::bins::bin;
use millrace_tests::broker::{Broker, CONTROLLER};
use serde_json::Value;
use service::status::{Chain, NodeStatus};
use tokio::sync::watch;

use crate::update::release::{BoxDir, key};

/// Everything here takes a second or two; this is for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);

/// Broker, controller and the tools of those who give orders.
pub(crate) struct Yard {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) broker: Broker,
    controller: Option<Child>,
    pub(crate) api: u16,
    pub(crate) enrol: u16,
    pub(crate) runtime: tokio::runtime::Runtime,
}

/// A box: its files, its agent, its node's status.
pub(crate) struct Site {
    pub(crate) id: String,
    pub(crate) here: BoxDir,
    pub(crate) node: watch::Sender<NodeStatus>,
    agent: Option<Child>,
    boots: u32,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Yard {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::start(&dir.path().join("broker")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        // 1 to 3 are releasers, 5 is an operator, 7 the controller's own key.
        for seed in [1, 2, 5, 7, 9] {
            let path = dir.path().join(format!("{seed}.key"));
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
            writeln!(file, "{}", BASE64.encode([seed; 32])).unwrap();
        }
        let mut yard = Self { dir, broker, controller: None, api: free_port(), enrol: free_port(), runtime };
        yard.start_controller();
        yard
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn start_controller(&mut self) {
        let own = self.broker.client_cert(CONTROLLER).unwrap();
        let server = self.broker.server_cert("enrol").unwrap();
        let ca_key = self.path("broker").join("fleet-ca.key");
        let config = format!(
            "fleet = \"acme\"\ndatabase = {:?}\nlisten = \"127.0.0.1:{}\"\nwindow_s = 5\nack_s = 0\nreorder_s = 1\n\
             rebirth_s = 1\nauto_enrol = true\n[broker]\nhost = \"127.0.0.1\"\nport = {}\nkeepalive_s = 5\n[tls]\nca = {:?}\n\
             cert = {:?}\nkey = {:?}\n[campaigns]\npacer_key = {:?}\n[enrol]\nlisten = \"127.0.0.1:{}\"\ncert = {:?}\n\
             key = {:?}\nissuer_cert = {:?}\nissuer_key = {ca_key:?}\nbrokers = [{{ host = \"127.0.0.1\", port = {} }}]\n",
            self.path("fleet.db"),
            self.api,
            self.broker.port(),
            own.ca,
            own.cert,
            own.key,
            self.path("7.key"),
            self.enrol,
            server.cert,
            server.key,
            own.ca,
            self.broker.port(),
        );
        fs::write(self.path("controller.toml"), config).unwrap();
        let log = self.log("controller.log");
        let mut command = Command::new(bin("millrace-controller"));
        command.arg("--config").arg(self.path("controller.toml"));
        self.controller = Some(launch(command, log));
        self.until("the controller hears the broker", |yard| yard.get("/healthz").map(drop));
    }

    pub(crate) fn kill_controller(&mut self) {
        end(&mut self.controller);
    }

    pub(crate) fn log(&self, name: &str) -> fs::File {
        fs::OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap()
    }

    /// A box of this number that runs 1.1.0, online.
    pub(crate) fn site(&self, number: u8) -> Site {
        let id = format!("box-{number:016x}");
        let here = BoxDir::new(&self.path(&id), "1.1.0");
        let operators = Keys { release: vec![key(5).verifying_key()], threshold: 1, test: true };
        here.put("usr/share/millrace/site-keys.json", &operators.to_json());
        let (node, status) = watch::channel(status("0"));
        let socket = here.0.join("node.sock");
        self.runtime.spawn(async move { service::status::serve_status(&socket, status).await });
        let mut site = Site { id, here, node, agent: None, boots: 1 };
        let files = self.broker.client_cert(&site.id).unwrap();
        let at = |path: &str| site.here.0.join(path);
        let config = format!(
            "box = {:?}\nfleet = \"acme\"\nstate_dir = {:?}\nnode_status = {:?}\nbrokers = [{{ host = \"127.0.0.1\", port = {} }}]\n\
             [tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n{AGENT}[orders]\nkeys = {:?}\noperators = {:?}\nupdate_state = {:?}\n\
             requests = {:?}\ndecommission = {:?}\nos_release = {:?}\n",
            site.id,
            at("agent"),
            at("node.sock"),
            self.broker.port(),
            files.ca,
            files.cert,
            files.key,
            at("usr/share/millrace/release-keys.json"),
            at("usr/share/millrace/site-keys.json"),
            at("var/lib/millrace-update"),
            at("run/millrace-fleet/update"),
            at("run/millrace-fleet/decommission.json"),
            at("etc/os-release"),
        );
        fs::write(at("fleet.toml"), config).unwrap();
        site.start(self);
        self.until_online(&site);
        site
    }

    pub(crate) fn until_online(&self, site: &Site) {
        self.until("the box is online", |yard| {
            (yard.detail(&site.id)?.summary.presence == Presence::Online).then_some(())
        });
    }

    /// `millrace …` against this controller.
    pub(crate) fn millrace(&self, args: &[&str]) -> Output {
        let mut command = Command::new(bin("millrace"));
        command.args(args).env("MILLRACE_CONTROLLER", format!("http://127.0.0.1:{}", self.api));
        command.env_remove("JOURNAL_STREAM").current_dir(self.dir.path()).output().unwrap()
    }

    /// The same, and what it printed as JSON; it must end with this code.
    pub(crate) fn json(&self, code: i32, args: &[&str]) -> Value {
        let output = self.millrace(&[args, &["--json"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    fn call(&self, head: &str, body: &str) -> Option<(String, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.api)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let length = body.len();
        write!(stream, "{head} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.lines().next()?.to_owned(), body.to_owned()))
    }

    /// Body of a good answer.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        let (status, body) = self.call(&format!("GET {path}"), "")?;
        status.contains(" 200 ").then_some(body)
    }

    /// Status line and body.
    pub(crate) fn post(&self, path: &str, body: &str) -> (String, String) {
        self.call(&format!("POST {path}"), body).unwrap()
    }

    pub(crate) fn detail(&self, id: &str) -> Option<BoxDetail> {
        serde_json::from_str(&self.get(&format!("/api/boxes/{id}"))?).ok()
    }

    pub(crate) fn order(&self, cid: &str) -> Order {
        serde_json::from_str(&self.get(&format!("/api/orders/{cid}")).unwrap()).unwrap()
    }

    pub(crate) fn orders(&self) -> OrderList {
        serde_json::from_str(&self.get("/api/orders").unwrap()).unwrap()
    }

    /// The campaign there is.
    pub(crate) fn campaign(&self) -> Campaign {
        let list: CampaignList = serde_json::from_str(&self.get("/api/campaigns").unwrap()).unwrap();
        list.campaigns.into_iter().next().unwrap()
    }

    /// The step at which a box says it is, in a campaign.
    pub(crate) fn standing(&self, cid: &str, id: &str) -> Option<String> {
        let campaign = Some(self.campaign()).filter(|campaign| campaign.cid == cid)?;
        campaign.answers.into_iter().find(|answer| answer.id == id)?.code
    }

    /// Waits until an order's only box stands there; the row it has then.
    pub(crate) fn until_stands(&self, cid: &str, st: &str, code: &str) -> OrderBox {
        self.until(&format!("the order is {st} ({code})"), |yard| {
            let row = yard.order(cid).boxes.pop()?;
            (row.st == st && row.code.as_deref() == Some(code)).then_some(row)
        })
    }

    /// How often each of these events of a box was stored.
    pub(crate) fn events(&self, id: &str, ids: &[&str]) -> Vec<usize> {
        let body = self.get(&format!("/api/events?box={id}&limit=1000")).unwrap();
        let events = serde_json::from_str::<EventList>(&body).unwrap().events;
        ids.iter().map(|id| events.iter().filter(|event| event.id == *id).count()).collect()
    }

    pub(crate) fn until<T>(&self, what: &str, look: impl Fn(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            if Instant::now() > deadline {
                let mut said = String::new();
                for entry in fs::read_dir(self.dir.path()).unwrap().flatten() {
                    if entry.path().extension().is_some_and(|extension| extension == "log") {
                        let text = fs::read_to_string(entry.path()).unwrap_or_default();
                        said += &format!("--- {}\n{text}", entry.path().display());
                    }
                }
                panic!("waited in vain until {what}\n{said}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        end(&mut self.controller);
    }
}

/// Short periods, so that a test sees everything soon.
pub(crate) const AGENT: &str = "[periods]\nheartbeat_s = 1\nvitals_s = 5\nstreams_s = 5\nearnings_s = 5\n[link]\nkeepalive_s = 5\n\
    window_s = 1\nbase_s = 1\ncap_s = 2\nrebirth_s = 1\n[limits]\nnode_silent_s = 60\ndisk_percent = 100\n";

impl Site {
    pub(crate) fn start(&mut self, yard: &Yard) {
        let mut command = Command::new(bin("millrace-fleet"));
        command.arg("--config").arg(self.here.0.join("fleet.toml"));
        self.agent = Some(launch(command, yard.log(&format!("{}.log", self.id))));
    }

    pub(crate) fn kill(&mut self) {
        end(&mut self.agent);
    }

    /// The program dies at any moment and is started again.
    pub(crate) fn crash(&mut self, yard: &Yard) {
        self.kill();
        self.start(yard);
    }

    pub(crate) fn request(&self, name: &str) -> PathBuf {
        self.here.0.join("run/millrace-fleet/update").join(name)
    }

    /// What the path unit does when the request is there.
    pub(crate) fn serve(&self, yard: &Yard, command: &str) -> Output {
        let request = self.request(&format!("{command}.json"));
        yard.until(&format!("{} asks for {command}", self.id), |_| request.exists().then_some(()));
        let (systemctl, sysupdate) = (self.here.stand_in("systemctl", ""), self.here.stand_in("sysupdate", ""));
        let mut run = self.here.command(&[command, "--request", request.to_str().unwrap()]);
        if command == "install" {
            run.args(["--systemctl", &systemctl, "--sysupdate", &sysupdate]);
        }
        run.output().unwrap()
    }

    /// The same, and it must do it.
    pub(crate) fn does(&self, yard: &Yard, command: &str) {
        let output = self.serve(yard, command);
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The machine starts again, with this version; the one that was installed has used up its tries unless it is this.
    pub(crate) fn reboot(&mut self, yard: &Yard, version: &str, installed: &str) {
        self.kill();
        self.boots += 1;
        let _ = fs::remove_dir_all(self.here.0.join("run/millrace-fleet"));
        self.here.put("proc/sys/kernel/random/boot_id", &format!("boot-{}\n", self.boots));
        self.here.put("etc/os-release", &format!("IMAGE_ID=millrace\nIMAGE_VERSION={version}\nVARIANT_ID=x86\n"));
        let counter = if version == installed { "" } else { "+0-3" };
        self.here.put(&format!("boot/EFI/Linux/millrace_{installed}{counter}.efi"), "kernel");
        let output = self.here.run(&["outcome"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.start(yard);
        yard.until_online(self);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn launch(mut command: Command, log: fs::File) -> Child {
    command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

pub(crate) fn end(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A node that works and has this much in its hot account.
pub(crate) fn status(hot_wei: &str) -> NodeStatus {
    let chain = Chain { hot_balance_wei: hot_wei.to_owned(), ..Chain::default() };
    NodeStatus { mode: "run".into(), chain: Some(chain), ..NodeStatus::default() }
}

pub(crate) fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
