use super::*;
use crate::machine::tests::machine;
use crate::progress::{Phase, Report};

fn unit(name: &str, active: &str) -> Unit {
    Unit { name: name.to_owned(), active: active.to_owned(), says: String::new() }
}

fn working() -> Facts {
    Facts {
        provisioned: true,
        tpm: true,
        serial: Some("PF3XYZ12".to_owned()),
        box_id: Some("box-0123456789abcdef".to_owned()),
        units: ["node", "signer", "fleet", "health"].map(|name| unit(name, "active")).to_vec(),
        ..Facts::default()
    }
}

#[test]
fn the_light_says_one_thing_and_the_worse_one_first() {
    let with = |change: &dyn Fn(&mut Facts)| {
        let mut facts = working();
        change(&mut facts);
        Light::of(&facts)
    };
    assert_eq!(with(&|_| ()), Light::Serving);
    assert_eq!(with(&|facts| facts.provisioned = false), Light::Waiting);
    assert_eq!(with(&|facts| facts.claim_waits = true), Light::Waiting);
    assert_eq!(with(&|facts| facts.on_trial = true), Light::Busy);
    assert_eq!(with(&|facts| facts.units[0].active = "activating".to_owned()), Light::Busy);
    assert_eq!(with(&|facts| facts.units[0].active = "failed".to_owned()), Light::Fault);
    assert_eq!(with(&|facts| facts.units[3].active = "failed".to_owned()), Light::Fault);
    assert_eq!(
        with(&|facts| facts.units[2].active = "failed".to_owned()),
        Light::Serving,
        "without its fleet it earns"
    );
    assert_eq!(with(&|facts| (facts.safe_mode, facts.units[3].active) = (true, "failed".to_owned())), Light::SafeMode);
    assert_eq!(with(&|facts| facts.decommissioned = true), Light::Dark);
    let installing = Report {
        id: String::new(),
        phase: Phase::Installing,
        version: None,
        done: 0,
        total: 0,
        reason: None,
        forged: false,
    };
    assert_eq!(with(&|facts| facts.progress = Some(installing.clone())), Light::Busy);
}

#[test]
fn only_the_boards_own_light_is_touched_and_it_gets_its_pattern() {
    let dir = tempfile::tempdir().unwrap();
    let led = |name: &str, triggers: &str| {
        for (file, text) in
            [("trigger", triggers), ("brightness", "0"), ("max_brightness", "255"), ("delay_on", ""), ("delay_off", "")]
        {
            files::put(&dir.path().join(name).join(file), text.as_bytes(), 0o644).unwrap();
        }
    };
    led("green:status", "[none] timer heartbeat");
    led("input3::capslock", "[none] timer");
    led("enp1s0-0::lan", "[none] timer");
    led("mmc0::", "[none] mmc0");
    led("ACT", "[none] mmc0");
    let found = light::of_board(dir.path());
    assert_eq!(found, [dir.path().join("ACT"), dir.path().join("green:status")]);
    let text = |path: &str| std::fs::read_to_string(dir.path().join(path)).unwrap();
    Light::SafeMode.show(&found[1]).unwrap();
    assert_eq!(
        (text("green:status/trigger"), text("green:status/delay_on"), text("green:status/delay_off")),
        ("timer".into(), "100".into(), "1900".into())
    );
    // A kernel without the trigger: steady for a box that serves, dark for any other.
    Light::Serving.show(&found[0]).unwrap();
    assert_eq!(text("ACT/brightness"), "255");
    Light::Fault.show(&found[0]).unwrap();
    assert_eq!(text("ACT/brightness"), "0");
    assert!(light::of_board(&dir.path().join("none")).is_empty());
}

#[test]
fn what_systemd_says_of_units_is_read_and_cleaned() {
    let shown = "Id=millrace-node.service\nActiveState=active\nStatusText=serving 3\x1b[2J sessions\n\nId=millrace-fleet.service\nActiveState=failed\nStatusText=\n";
    let units = read_units(shown);
    assert_eq!(units[0], Unit { name: "node".into(), active: "active".into(), says: "serving 3[2J sessions".into() });
    assert_eq!((units.len(), units[1].active.as_str()), (2, "failed"));
}

#[tokio::test]
async fn the_page_of_a_box_that_waits_shows_its_serial_and_nothing_secret() {
    let dir = tempfile::tempdir().unwrap();
    let paths = machine(dir.path(), "1.2.0");
    files::put(&paths.at("sys/class/dmi/id/product_serial"), b"PF3XYZ12\n", 0o444).unwrap();
    files::put(&paths.site().join("claim-token"), b"fedcba9876543210", 0o600).unwrap();
    let tools = Tools { systemctl: "false".into(), sysupdate: "true".into() };
    let facts = facts(&paths, &tools).await;
    assert_eq!(Light::of(&facts), Light::Waiting);
    let page = page::page(&facts);
    assert!(
        page.contains("Millrace 1.2.0") && page.contains("serial     PF3XYZ12") && page.contains("WAITING"),
        "{page}"
    );
    assert!(page.contains(&page::qr("MILLRACE1:PF3XYZ12")) && !page.contains("fedcba98"), "{page}");
    assert!(page.lines().count() <= 25, "a page fits the screen");
}

#[test]
fn the_page_of_a_box_that_works_says_what_is_under_way() {
    let mut facts = working();
    facts.hot_account = Some("0x00000000000000000000000000000000000000aa".to_owned());
    facts.recovery_asked = true;
    let version = "1.3.0".parse().ok();
    facts.progress = Some(Report {
        id: String::new(),
        phase: Phase::Fetching,
        version,
        done: 25,
        total: 100,
        reason: None,
        forged: false,
    });
    let told = page::page(&facts);
    for word in
        ["box-0123456789abcdef", "  node       active", "1.3.0: 25 % fetched", "0x00000000", "no key is escrowed"]
    {
        assert!(told.contains(word), "{word}: {told}");
    }
    facts.safe_mode = true;
    assert!(page::page(&facts).contains("SAFE MODE"));
    facts.decommissioned = true;
    assert!(page::page(&facts).contains("DECOMMISSIONED"));
}
