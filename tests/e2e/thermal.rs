//! The box grows hot and cools down: the real node over a tree of sensor files that this test writes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::Path;

use livepeer::wire::net;
use service::status::NodeStatus;

use crate::node::peer::{Speak, Upload, data, discover};
use crate::node::{Node, film, ladder};

/// Steps of a second, so that the whole ladder is seen.
fn config(root: &Path) -> String {
    format!(
        "[serve]\nlisten = \"127.0.0.1:0\"\nmax_sessions = 4\n\
         [thermal]\nhardware_root = \"{}\"\nraise_s = 1\nclear_s = 1\nsample_s = 1\n",
        root.display()
    )
}

/// A board with one sensor.
struct Sensor(tempfile::TempDir);

impl Sensor {
    fn at(millidegrees: u32) -> Self {
        let sensor = Self(tempfile::tempdir().unwrap());
        let zone = sensor.0.path().join("sys/class/thermal/thermal_zone0");
        std::fs::create_dir_all(&zone).unwrap();
        std::fs::write(zone.join("type"), "cpu-thermal\n").unwrap();
        sensor.set(millidegrees);
        sensor
    }

    /// Whole or not at all, as the kernel tells it.
    fn set(&self, millidegrees: u32) {
        let file = self.0.path().join("sys/class/thermal/thermal_zone0/temp");
        let draft = self.0.path().join("draft");
        std::fs::write(&draft, format!("{millidegrees}\n")).unwrap();
        std::fs::rename(draft, file).unwrap();
    }
}

fn celsius(status: &NodeStatus) -> Option<f32> {
    status.hardware.as_ref().and_then(|hardware| hardware.hottest_celsius)
}

async fn token(node: &Node) -> net::AuthToken {
    discover(&node.uri).await.unwrap().auth_token.unwrap()
}

#[tokio::test]
async fn a_hot_box_turns_newcomers_away_keeps_its_sessions_and_recovers_when_it_has_cooled() {
    let (dir, sensor) = (tempfile::tempdir().unwrap(), Sensor::at(50_000));
    let node = Node::start(dir.path(), &config(sensor.0.path())).await;
    let (running, early) = (token(&node).await, token(&node).await);
    let serve = async |token: &net::AuthToken, seq| {
        let result = Upload::new(token, seq, film(), &ladder()).send(&node.uri, Speak::Http2).await;
        assert_eq!(data(&result).segments.len(), 2);
    };
    serve(&running, 0).await;
    let well = node.until(|status| celsius(status) == Some(50.0) && status.sessions.active == 1).await;
    assert!(well.alarms.is_empty() && well.capacity.derate_percent == 100, "{well:?}");
    assert!(well.capacity.pixels_per_second.unwrap() > 0 && well.capacity.demand_pixels_per_second > 0);

    // Warm: step by step down to half, and an alarm.
    sensor.set(90_000);
    let warm = node.until(|status| status.capacity.derate_percent == 50).await;
    let alarm = warm.alarms.iter().find(|alarm| alarm.id == "CPU-TEMP-HIGH").unwrap();
    assert_eq!((alarm.severity.as_str(), alarm.instance.as_str()), ("warn", "processor"));
    assert!(alarm.text.contains("90"), "{}", alarm.text);

    // Past the last limit: nobody new, neither by a token from before nor by a new one; who is there stays.
    sensor.set(104_000);
    let hot = node.until(|status| status.capacity.derate_percent == 0).await;
    assert!(hot.alarms.iter().any(|alarm| alarm.id == "CPU-TEMP-HIGH" && alarm.severity == "err"), "{hot:?}");
    assert_eq!(hot.capacity.sold_pixels_per_second, Some(0));
    assert_eq!(discover(&node.uri).await.unwrap_err(), "Invalid orchestrator request: OrchestratorCapped");
    let newcomer = Upload::new(&early, 0, film(), &ladder());
    newcomer.refused(&node.uri, 403, "OrchestratorCapped").await;
    serve(&running, 1).await;

    // A little cooler is not cool: looks a second apart change nothing, however long the last good one is ago.
    for millidegrees in [80_000, 79_000, 78_000] {
        sensor.set(millidegrees);
        let between =
            node.until(|status| celsius(status).is_some_and(|c| c < 80.5 && c * 1000.0 <= millidegrees as f32)).await;
        assert_eq!(between.capacity.derate_percent, 0, "at {millidegrees}");
    }
    newcomer.refused(&node.uri, 403, "OrchestratorCapped").await;

    // Cool: step by step back to all of it.
    sensor.set(60_000);
    let cooling = node.until(|status| status.capacity.derate_percent > 0).await;
    assert!(cooling.capacity.derate_percent < 100, "not at a leap: {cooling:?}");
    let cool = node.until(|status| status.capacity.derate_percent == 100).await;
    assert!(cool.alarms.is_empty(), "{cool:?}");
    serve(&early, 0).await;
    serve(&running, 2).await;
    let status = node.until(|status| status.sessions.active == 2 && status.segments.ok == 4).await;
    assert_eq!((status.sessions.refused, status.capacity.refused), (4, 4));
    assert_eq!(node.stop(), Some(0));
    assert!(dir.path().join("state/speed.json").is_file(), "the measured speed is kept");
}

#[tokio::test]
async fn what_was_measured_holds_after_a_restart() {
    let (dir, sensor) = (tempfile::tempdir().unwrap(), Sensor::at(50_000));
    let node = Node::start(dir.path(), &config(sensor.0.path())).await;
    let fresh = node.until(|status| status.capacity.pixels_per_second.is_some()).await;
    assert_eq!(fresh.capacity.demand_pixels_per_second, 0);
    assert_eq!(node.stop(), Some(0));
    // As if it had been measured at leisure: nothing measures this box so.
    let file = dir.path().join("state/speed.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut kept: serde_json::Value = serde_json::from_str(&text).unwrap();
    kept["speed"] = serde_json::json!({ "work": 123_456_789_000_u64, "time": 1.0 });
    std::fs::write(&file, kept.to_string()).unwrap();
    let node = Node::start(dir.path(), &config(sensor.0.path())).await;
    node.until(|status| status.capacity.pixels_per_second == Some(123_456_789_000)).await;
    assert_eq!(node.stop(), Some(0));
    // Of other hardware it says nothing.
    kept["on"] = "another box".into();
    std::fs::write(&file, kept.to_string()).unwrap();
    let node = Node::start(dir.path(), &config(sensor.0.path())).await;
    let other = node.until(|status| status.capacity.pixels_per_second.is_some()).await;
    assert_ne!(other.capacity.pixels_per_second, Some(123_456_789_000));
}
