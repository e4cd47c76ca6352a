//! A box's agent and the controller over a real broker: presence, delivery exactly once, and what each failure costs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where it stopped")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use fleet_protocol::api::{BoxDetail, BoxList, EventList, EventRow};
use fleet_protocol::presence::Presence;
use millrace_tests::bins::bin;
use millrace_tests::broker::{Broker, CONTROLLER};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use service::status::{Alarm, Chain, Money, NodeStatus};
use tokio::sync::watch;

const BOX: &str = "box-7f3a9c2e41d05b68";
const OTHER: &str = "box-00000000000000ff";
/// Everything here takes a second or two; this is for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker, a node that only answers for its status, and the two programs under test.
struct Fleet {
    dir: tempfile::TempDir,
    broker: Broker,
    node: watch::Sender<NodeStatus>,
    agent: Option<Child>,
    controller: Option<Child>,
    api: u16,
    heartbeat_s: u32,
    acks: &'static str,
    _runtime: tokio::runtime::Runtime,
}

impl Fleet {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::start(&dir.path().join("broker")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (node, status) = watch::channel(status());
        let socket = dir.path().join("node.sock");
        runtime.spawn(async move { service::status::serve_status(&socket, status).await });
        let api = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let acks = "ack_s = 0";
        Self { dir, broker, node, agent: None, controller: None, api, heartbeat_s: 1, acks, _runtime: runtime }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start_agent(&mut self) {
        self.write_agent_config();
        self.agent = Some(self.spawn("millrace-fleet", "fleet.toml"));
    }

    fn write_agent_config(&self) {
        let files = self.broker.client_cert(BOX).unwrap();
        let config = format!(
            r#"
box = "{BOX}"
fleet = "acme"
state_dir = "{state}"
node_status = "{node}"
brokers = [{{ host = "127.0.0.1", port = {port} }}]
[tls]
ca = "{ca}"
cert = "{cert}"
key = "{key}"
[periods]
heartbeat_s = {heartbeat}
vitals_s = 1
streams_s = 1
earnings_s = 1
[link]
keepalive_s = 5
window_s = 1
base_s = 1
cap_s = 2
rebirth_s = 1
[limits]
node_silent_s = 2
# The disk of the machine the tests run on is not what they are about.
disk_percent = 99
"#,
            state = self.path("agent").display(),
            node = self.path("node.sock").display(),
            port = self.broker.port(),
            ca = files.ca.display(),
            cert = files.cert.display(),
            key = files.key.display(),
            heartbeat = self.heartbeat_s,
        );
        fs::write(self.path("fleet.toml"), config).unwrap();
    }

    fn start_controller(&mut self) {
        let files = self.broker.client_cert(CONTROLLER).unwrap();
        let config = format!(
            r#"
fleet = "acme"
database = "{database}"
listen = "127.0.0.1:{api}"
auto_enrol = true
window_s = 5
reorder_s = 1
rebirth_s = 1
{acks}
[broker]
host = "127.0.0.1"
port = {port}
keepalive_s = 5
[tls]
ca = "{ca}"
cert = "{cert}"
key = "{key}"
"#,
            database = self.path("fleet.db").display(),
            api = self.api,
            acks = self.acks,
            port = self.broker.port(),
            ca = files.ca.display(),
            cert = files.cert.display(),
            key = files.key.display(),
        );
        fs::write(self.path("controller.toml"), config).unwrap();
        self.controller = Some(self.spawn("millrace-controller", "controller.toml"));
        self.until("the controller hears the broker", |fleet| fleet.get("/healthz").is_some().then_some(()));
    }

    /// Start the agent with its state on a small disk of its own, which fills up when the file `fill` appears and
    /// becomes free again when `free` does.
    fn start_agent_on_small_disk(&mut self) {
        let script = r#"
            mount -t tmpfs -o size=512k small "$1" || exit 1
            wait_for() { n=0; while [ ! -e "$1" ] && [ $n -lt 1200 ]; do sleep 0.1; n=$((n + 1)); done; }
            ( wait_for "$2/fill"; cat /dev/zero >"$1/filler"; wait_for "$2/free"; rm "$1/filler" ) 2>"$2/disk.log" &
            shift 2
            exec "$@"
        "#;
        fs::create_dir(self.path("agent")).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
        command.args([self.path("agent"), self.dir.path().to_owned(), bin("millrace-fleet")]);
        self.write_agent_config();
        self.agent = Some(self.launch(command, "millrace-fleet", "fleet.toml"));
    }

    fn spawn(&self, program: &str, config: &str) -> Child {
        self.launch(Command::new(bin(program)), program, config)
    }

    fn launch(&self, mut command: Command, program: &str, config: &str) -> Child {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path(&format!("{program}.log"))).unwrap();
        command
            .arg("--config")
            .arg(self.path(config))
            .env_remove("JOURNAL_STREAM")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Body of a 200 answer.
    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.api)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }

    fn detail(&self) -> Option<BoxDetail> {
        serde_json::from_str(&self.get(&format!("/api/boxes/{BOX}"))?).ok()
    }

    fn boxes(&self) -> BoxList {
        serde_json::from_str(&self.get("/api/boxes").unwrap()).unwrap()
    }

    fn events(&self) -> Vec<EventRow> {
        let body = self.get(&format!("/api/events?box={BOX}&limit=1000")).unwrap();
        serde_json::from_str::<EventList>(&body).unwrap().events
    }

    /// How often an alarm of this instance was raised and cleared, as stored.
    fn alarm_rows(&self, instance: &str) -> (usize, usize) {
        let events = self.events();
        let count =
            |op: &str| events.iter().filter(|event| event.inst.as_deref() == Some(instance) && event.op == op).count();
        (count("raise"), count("clear"))
    }

    fn presence(&self) -> Option<Presence> {
        self.detail().map(|detail| detail.summary.presence)
    }

    fn until<T>(&self, what: &str, look: impl Fn(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            if Instant::now() > deadline {
                let log = |name: &str| fs::read_to_string(self.path(name)).unwrap_or_default();
                panic!(
                    "waited in vain until {what}\n--- agent\n{}\n--- controller\n{}\n--- broker\n{}",
                    log("millrace-fleet.log"),
                    log("millrace-controller.log"),
                    fs::read_to_string(self.broker.log_path()).unwrap_or_default()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn until_online(&self) {
        self.until("the box is online", |fleet| (fleet.presence()? == Presence::Online).then_some(()));
    }

    /// Let the node raise an alarm of its own, which is one event.
    fn raise(&self, instance: &str) {
        let alarm = Alarm {
            id: "STR-IDLE".to_owned(),
            severity: "warn".to_owned(),
            instance: instance.to_owned(),
            ..Alarm::default()
        };
        self.node.send_modify(|node| node.alarms.push(alarm));
    }

    /// The node's winners, as the ledger would count them.
    fn win(&self, tickets: u64) {
        self.node.send_modify(|node| {
            node.money.tickets_won = tickets;
            node.money.won_wei = (u128::from(tickets) * 1_000_000_000_000_000_000).to_string();
        });
    }

    /// Bytes of records on the box's disk in one class.
    fn spooled(&self, class: &str) -> u64 {
        let dir = self.path("agent").join("spool").join(class);
        let Ok(files) = fs::read_dir(dir) else { return 0 };
        files
            .filter_map(Result::ok)
            .filter(|file| file.path().extension().is_some_and(|extension| extension == "seg"))
            .map(|file| file.metadata().map_or(0, |meta| meta.len()))
            .sum()
    }

    fn until_spooled(&self, class: &str, text: &str) {
        self.until(&format!("{text} is on the box's disk"), |fleet| {
            let dir = fleet.path("agent").join("spool").join(class);
            let mut files = fs::read_dir(dir).ok()?.filter_map(Result::ok);
            files
                .any(|file| {
                    let bytes = fs::read(file.path()).unwrap_or_default();
                    bytes.windows(text.len()).any(|window| window == text.as_bytes())
                })
                .then_some(())
        });
    }

    fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in [&mut self.agent, &mut self.controller].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn status() -> NodeStatus {
    let money = Money {
        tickets_received: 10,
        received_ev_wei: "1000".into(),
        won_wei: "0".into(),
        paid_wei: "0".into(),
        pending_wei: "0".into(),
        ..Money::default()
    };
    let chain = Chain {
        round: 3,
        l1_block: 100,
        hot_balance_wei: "5000000000000000000".into(),
        gas_price_wei: "1000000000".into(),
        ..Chain::default()
    };
    let mut node = NodeStatus { mode: "run".into(), money, chain: Some(chain), ..NodeStatus::default() };
    node.sessions.capacity = 4;
    node.segments.ok = 7;
    node.segments.realtime_ratio_p50 = 3.5;
    node.segments.realtime_ratio_p05 = 2.5;
    node
}

/// Ask a program to stop and see how it ended.
fn stop(child: &mut Child) -> ExitStatus {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "ignored SIGTERM");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// True, with the reason printed, when the broker program is missing.
fn skipped() -> bool {
    let missing = !Broker::available();
    if missing {
        eprintln!("skipped: mosquitto is not installed");
    }
    missing
}

#[test]
fn a_box_is_online_with_its_health_work_and_earnings_and_says_goodbye_when_it_stops() {
    if skipped() {
        return;
    }
    let mut fleet = Fleet::new();
    fleet.start_controller();
    assert!(fleet.boxes().boxes.is_empty());
    fleet.start_agent();
    fleet.until_online();
    let detail = fleet.until("all classes have come", |fleet| {
        fleet
            .detail()
            .filter(|detail| ["hb", "vit", "str", "earn"].iter().all(|class| detail.last.contains_key(*class)))
    });
    let summary = &detail.summary;
    assert_eq!(
        (summary.mode.as_deref(), summary.sessions_capacity, summary.segments_ok),
        (Some("run"), Some(4), Some(7))
    );
    assert_eq!((summary.rtr_p50, summary.rtr_p05), (Some(3.5), Some(2.5)));
    let earnings = summary.earnings.clone().unwrap();
    assert_eq!((earnings.tickets_received, earnings.round), (10, 3));
    assert_eq!(earnings.hot_wallet_wei, "5000000000000000000");
    assert!(detail.last["vit"].m.contains_key("up") && detail.info.is_some());
    assert!(summary.age_s.unwrap() < 30.0 && fleet.boxes().broker_connected);
    let metrics = fleet.get("/metrics").unwrap();
    assert!(metrics.contains("millrace_boxes{state=\"online\"} 1\n"), "{metrics}");

    fleet.win(2);
    let earnings = fleet.until("the winners have come", |fleet| {
        fleet.detail()?.summary.earnings.filter(|earnings| earnings.tickets_won == 2)
    });
    assert_eq!(earnings.value_won_wei, "2000000000000000000");
    fleet.until("the ledger step is acknowledged", |fleet| {
        fleet
            .detail()?
            .cursors
            .get("L")
            .filter(|cursor| cursor.stored >= 1 && cursor.acked == cursor.stored)
            .map(|_| ())
    });

    let status = stop(fleet.agent.as_mut().unwrap());
    assert!(status.success(), "{status}");
    fleet.until("the goodbye has come", |fleet| (fleet.presence()? == Presence::Suspect).then_some(()));
    assert_eq!(fleet.detail().unwrap().presence_log[0].why, "death");
    let status = stop(fleet.controller.as_mut().unwrap());
    assert!(status.success(), "{status}");
}

#[test]
fn a_killed_agent_is_not_online_because_the_broker_speaks_its_will() {
    if skipped() {
        return;
    }
    let mut fleet = Fleet::new();
    // So long that silence cannot be what is noticed.
    fleet.heartbeat_s = 600;
    fleet.start_controller();
    fleet.start_agent();
    fleet.until_online();
    fleet.kill_agent();
    fleet.until("the will has come", |fleet| (fleet.presence()? == Presence::Suspect).then_some(()));
    assert_eq!(fleet.detail().unwrap().presence_log[0].why, "death");
    fleet.start_agent();
    fleet.until_online();
    let detail = fleet.detail().unwrap();
    assert_eq!((detail.boot, detail.presence_log[0].why.as_str()), (Some(2), "birth"));
}

#[test]
fn what_happens_while_the_broker_is_away_arrives_once_and_leaves_the_disk_only_when_acknowledged() {
    if skipped() {
        return;
    }
    let mut fleet = Fleet::new();
    fleet.start_controller();
    fleet.start_agent();
    fleet.until_online();
    fleet.broker.stop().unwrap();
    fleet.until("the controller is blind", |fleet| (fleet.presence()? == Presence::Unknown).then_some(()));
    fleet.raise("away-1");
    fleet.raise("away-2");
    fleet.win(1);
    fleet.until_spooled("A", "away-2");
    fleet.until_spooled("L", "\"tw\"");
    fleet.until_spooled("E", "\"tw\":1");
    fleet.broker.resume().unwrap();
    fleet.until_online();
    fleet.until("the events have come", |fleet| {
        let rows = [fleet.alarm_rows("away-1"), fleet.alarm_rows("away-2")];
        (rows == [(1, 0), (1, 0)]).then_some(())
    });
    let won = fleet.until("the winner has come", |fleet| {
        fleet.detail()?.summary.earnings.filter(|earnings| earnings.tickets_won == 1)
    });
    assert_eq!(won.value_won_wei, "1000000000000000000");
    fleet.until("the disk is free again", |fleet| (fleet.spooled("A") == 0).then_some(()));
    // Ledger steps stay even so: an acknowledgement may be forged by the broker.
    assert!(fleet.spooled("L") > 0);
}

#[test]
fn records_the_controller_has_but_never_acknowledged_come_again_and_are_stored_once() {
    if skipped() {
        return;
    }
    let mut fleet = Fleet::new();
    // Only a birth is answered, with what was stored before it.
    fleet.acks = "ack_s = 3600\nack_records = 1000";
    fleet.start_controller();
    fleet.start_agent();
    fleet.until_online();
    fleet.raise("twice");
    fleet.until("the event has come", |fleet| (fleet.alarm_rows("twice") == (1, 0)).then_some(()));
    let before = fleet.spooled("A");
    assert!(before > 0, "a PUBACK must not delete");
    // The agent dies before it hears of it, and sends again what its disk still holds.
    fleet.kill_agent();
    fleet.start_agent();
    fleet.until("the record came twice", |fleet| {
        let metrics = fleet.get("/metrics")?;
        let line = metrics.lines().find(|line| line.contains("what=\"duplicate\""))?;
        (line.rsplit(' ').next()?.parse::<u64>().ok()? > 0).then_some(())
    });
    let events = fleet.events();
    let of_first_life = events.iter().filter(|event| event.inst.as_deref() == Some("twice") && event.q == 1).count();
    assert_eq!(of_first_life, 1, "{events:?}");
    fleet.until("the disk is free of it", |fleet| {
        let cursor = fleet.detail()?.cursors.get("A")?.clone();
        (cursor.acked >= 1).then_some(())
    });
}

#[test]
fn without_a_controller_the_broker_acknowledges_and_yet_nothing_is_deleted() {
    if skipped() {
        return;
    }
    let mut fleet = Fleet::new();
    fleet.start_controller();
    fleet.start_agent();
    fleet.until_online();
    let status = stop(fleet.controller.as_mut().unwrap());
    assert!(status.success(), "{status}");
    // Somebody who is no controller hears it, and later heartbeats too: by then the broker has long answered for it.
    hear(&fleet, |heard| {
        let event = heard.iter().position(|payload| payload.contains("alone"));
        event.is_some_and(|event| heard.iter().skip(event).filter(|payload| payload.contains("\"ok\":")).count() >= 2)
    });
    let held = fleet.spooled("A");
    assert!(held > 0);
    fleet.start_controller();
    fleet.until("the event has come", |fleet| (fleet.alarm_rows("alone") == (1, 0)).then_some(()));
    fleet.until("the disk is free again", |fleet| (fleet.spooled("A") == 0).then_some(()));
    fleet.until_online();
}

#[test]
fn the_spool_survives_kill_nine_and_a_torn_tail() {
    if skipped() {
        return;
    }
    let mut fleet = Fleet::new();
    fleet.start_controller();
    fleet.start_agent();
    fleet.until_online();
    fleet.broker.stop().unwrap();
    for instance in ["kept-1", "kept-2", "torn"] {
        fleet.raise(instance);
        fleet.until_spooled("A", instance);
    }
    fleet.kill_agent();
    // The last write is cut as a power cut would.
    let newest = newest_segment(&fleet.path("agent").join("spool").join("A"));
    let bytes = fs::read(&newest).unwrap();
    let torn_at = bytes.windows(4).rposition(|window| window == b"torn").unwrap();
    fs::write(&newest, &bytes[..torn_at]).unwrap();
    fleet.node.send_modify(|node| node.alarms.clear());
    fleet.start_agent();
    fleet.raise("after");
    fleet.until_spooled("A", "after");
    fleet.broker.resume().unwrap();
    fleet.until("what was whole has come", |fleet| {
        let rows = ["kept-1", "kept-2", "after"].map(|instance| fleet.alarm_rows(instance).0);
        (rows == [1, 1, 1]).then_some(())
    });
    assert_eq!(fleet.alarm_rows("torn").0, 0);
    fleet.until("the disk is free again", |fleet| (fleet.spooled("A") == 0).then_some(()));
    let detail = fleet.detail().unwrap();
    assert_eq!(detail.cursors["A"].ahead, 0, "no hole is waited for");
    assert!(!detail.events.iter().any(|event| event.id == "SPOOL-LOST"), "{:?}", detail.events);
}

#[test]
fn a_full_disk_does_not_silence_the_box_and_loses_no_event_and_no_winner() {
    if skipped() {
        return;
    }
    let small_disk = Command::new("unshare").args(["--user", "--map-root-user", "--mount", "true"]).status();
    if !small_disk.is_ok_and(|status| status.success()) {
        eprintln!("skipped: unshare cannot make a user namespace here");
        return;
    }
    let mut fleet = Fleet::new();
    fleet.start_controller();
    fleet.start_agent_on_small_disk();
    fleet.until_online();
    fs::write(fleet.path("fill"), b"").unwrap();
    let alarms = |fleet: &Fleet| Some(fleet.detail()?.last.get("hb")?.m.get("al")?.to_string());
    fleet.until("the heartbeat tells of the full disk", |fleet| alarms(fleet)?.contains("DISK-FULL").then_some(()));
    fleet.raise("full-1");
    fleet.win(1);
    fleet.until("the heartbeat tells of the alarm", |fleet| alarms(fleet)?.contains("STR-IDLE").then_some(()));
    fleet.win(3);
    fleet.until("the disk has refused a record", |fleet| {
        let log = fs::read_to_string(fleet.path("millrace-fleet.log")).unwrap();
        log.contains("spool refused a record").then_some(())
    });
    assert_eq!(fleet.presence(), Some(Presence::Online));
    assert_eq!(fleet.alarm_rows("full-1"), (0, 0), "nothing is sent that is not on disk");
    fs::write(fleet.path("free"), b"").unwrap();
    fleet.until("the event has come", |fleet| (fleet.alarm_rows("full-1") == (1, 0)).then_some(()));
    fleet.until("the winners have come", |fleet| {
        fleet.detail()?.summary.earnings.filter(|earnings| earnings.tickets_won == 3)
    });
    fleet.until("the ledger step has come", |fleet| {
        fleet.detail()?.cursors.get("L").filter(|cursor| cursor.stored >= 1).map(|_| ())
    });
}

#[test]
fn a_silent_node_is_an_alarm_and_its_return_clears_it() {
    if skipped() {
        return;
    }
    let mut fleet = Fleet::new();
    fleet.start_controller();
    let socket = fleet.path("node.sock");
    let hidden = fleet.path("hidden.sock");
    fleet.until("the node answers", |_| socket.exists().then_some(()));
    fs::rename(&socket, &hidden).unwrap();
    fleet.start_agent();
    let open = |fleet: &Fleet| fleet.detail().map(|detail| detail.summary.top_alarm);
    fleet.until("the alarm is open", |fleet| (open(fleet)? == Some("NODE-DOWN".to_owned())).then_some(()));
    assert_eq!(fleet.detail().unwrap().summary.mode.as_deref(), Some("safe"));
    fs::rename(&hidden, &socket).unwrap();
    fleet.until("the alarm is closed", |fleet| open(fleet)?.is_none().then_some(()));
}

#[test]
fn a_box_cannot_speak_for_another_nor_listen_to_it() {
    if skipped() {
        return;
    }
    let mut fleet = Fleet::new();
    fleet.start_controller();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let event = |of: &str| {
        let body = r#"{"v":1,"e":"9c1f02aa","b":1,"n":1,"q":1,"u":1,"id":"NODE-DOWN","op":"occur","sev":"err"}"#;
        (format!("millrace/v1/acme/{of}/event/err"), body.to_owned())
    };
    let answers = runtime.block_on(publish_as(
        &fleet,
        BOX,
        vec![
            event(OTHER),
            (format!("millrace/v1/acme/{BOX}/cmd/rebirth"), "{}".to_owned()),
            (format!("millrace/v1/acme/{BOX}/ack"), "{}".to_owned()),
            ("millrace/v1/acme/_ctl/main".to_owned(), "{}".to_owned()),
            event(BOX),
        ],
    ));
    use rumqttc::v5::mqttbytes::v5::PubAckReason::{NotAuthorized, Success};
    assert_eq!(answers, [NotAuthorized, NotAuthorized, NotAuthorized, NotAuthorized, Success]);
    fleet.until("the own event has come", |fleet| fleet.detail().filter(|detail| detail.events.len() == 1));
    let ids: Vec<String> = fleet.boxes().boxes.into_iter().map(|summary| summary.id).collect();
    assert_eq!(ids, [BOX]);

    // The other box asks for everything of this one, and is told that it gets it; its own acknowledgement is a later
    // message of the same broker, so by then whatever leaks would have come.
    fleet.start_agent();
    let heard = runtime.block_on(async {
        use rumqttc::v5::Event;
        use rumqttc::v5::mqttbytes::QoS;
        use rumqttc::v5::mqttbytes::v5::Packet;
        let (client, mut events) = client(&fleet, OTHER);
        client.subscribe(format!("millrace/v1/acme/{BOX}/#"), QoS::AtLeastOnce).await.unwrap();
        client.subscribe(format!("millrace/v1/acme/{OTHER}/ack"), QoS::AtLeastOnce).await.unwrap();
        let mut granted = 0;
        let listen = async {
            loop {
                match events.poll().await.unwrap() {
                    Event::Incoming(Packet::SubAck(_)) => {
                        granted += 1;
                        if granted == 2 {
                            fleet.until_online();
                            let (topic, payload) = event(OTHER);
                            client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
                        }
                    }
                    Event::Incoming(Packet::Publish(publish)) => {
                        return String::from_utf8(publish.topic.to_vec()).unwrap();
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, listen).await.unwrap()
    });
    assert_eq!(heard, format!("millrace/v1/acme/{OTHER}/ack"));
}

#[test]
fn wrong_calls_and_configurations_end_with_their_own_codes() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.toml");
    fs::write(&bad, "nonsense = 1\n").unwrap();
    for program in ["millrace-fleet", "millrace-controller"] {
        let run = |arguments: &[&str]| {
            Command::new(bin(program)).args(arguments).env_remove("JOURNAL_STREAM").output().unwrap()
        };
        assert_eq!(run(&["--no-such-option"]).status.code(), Some(64));
        let help = run(&["--help"]);
        assert_eq!(help.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&help.stdout).contains("[tls]"), "help shows every key");
        let refused = run(&["--check", "--config", bad.to_str().unwrap()]);
        assert_eq!(refused.status.code(), Some(78));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("nonsense"));
        assert_eq!(run(&["--check", "--config", "/nonexistent.toml"]).status.code(), Some(78));
    }
}

fn newest_segment(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir).unwrap().filter_map(Result::ok).map(|file| file.path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).max().unwrap()
}

/// Connect with a box's certificate, publish, and see what the broker answers to each.
async fn publish_as(
    fleet: &Fleet,
    name: &str,
    messages: Vec<(String, String)>,
) -> Vec<rumqttc::v5::mqttbytes::v5::PubAckReason> {
    use rumqttc::v5::Event;
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::Packet;
    let (client, mut events) = client(fleet, name);
    let mut answers = Vec::new();
    let wanted = messages.len();
    for (topic, payload) in messages {
        client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
    }
    let listen = async {
        while answers.len() < wanted {
            if let Event::Incoming(Packet::PubAck(ack)) = events.poll().await.unwrap() {
                answers.push(ack.reason);
            }
        }
    };
    tokio::time::timeout(PATIENCE, listen).await.unwrap();
    answers
}

/// Listen to everything of the box, with the controller's identity, until it is enough.
fn hear(fleet: &Fleet, enough: impl Fn(&[String]) -> bool) {
    use rumqttc::v5::Event;
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::Packet;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, mut events) = client(fleet, CONTROLLER);
        client.subscribe(format!("millrace/v1/acme/{BOX}/#"), QoS::AtLeastOnce).await.unwrap();
        let listen = async {
            let mut heard = Vec::new();
            while !enough(&heard) {
                match events.poll().await.unwrap() {
                    Event::Incoming(Packet::Publish(publish)) => {
                        heard.push(String::from_utf8(publish.payload.to_vec()).unwrap());
                    }
                    // Only now: what is published before nobody would hear.
                    Event::Incoming(Packet::SubAck(_)) => fleet.raise("alone"),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, listen).await.unwrap();
    });
}

fn client(fleet: &Fleet, name: &str) -> (rumqttc::v5::AsyncClient, rumqttc::v5::EventLoop) {
    use rumqttc::v5::{AsyncClient, MqttOptions};
    use rumqttc::{TlsConfiguration, Transport};
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let files = fleet.broker.client_cert(name).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.ca).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(&files.cert).unwrap()],
            PrivateKeyDer::from_pem_file(&files.key).unwrap(),
        )
        .unwrap();
    let mut options = MqttOptions::new(name, "127.0.0.1", fleet.broker.port());
    options.set_transport(Transport::Tls(TlsConfiguration::Rustls(config.into())));
    AsyncClient::new(options, 16)
}
