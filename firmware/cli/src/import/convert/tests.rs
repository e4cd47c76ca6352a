use super::*;
use crate::import::flags::FLAGS;
use crate::import::read;

fn imported(line: &str) -> Result<Imported> {
    let (found, _) = read::file(&format!("livepeer {line}"), "line").unwrap();
    assert!(found.unknown.is_empty(), "{:?}", found.unknown);
    convert(&found.settings, &Options { chain_id: None, secret_file: PathBuf::from("/s/orch-secret") })
}

fn toml_of(line: &str) -> toml::Table {
    toml::from_str(&imported(line).unwrap().toml).unwrap()
}

const CHAINED: &str = "-orchestrator -transcoder -network arbitrum-one-mainnet -ethUrl https://rpc.example/v2/t0k3n \
                       -ethOrchAddr 0x5cbdd86a2fa8dc4bddd8a8f69dba48572eec07fb -pricePerUnit 0.41USD -pixelsPerUnit 1e12";

#[test]
fn every_flag_there_is_gets_its_account_and_no_secret_is_in_it() {
    let mut line = String::from("-orchestrator -transcoder");
    for flag in
        FLAGS.iter().filter(|flag| !["orchestrator", "transcoder", "redeemer", "remoteSigner"].contains(&flag.name))
    {
        let value = match flag.name {
            "network" => "arbitrum-one-mainnet",
            "ethUrl" => "https://rpc.example/hunter2",
            "ethOrchAddr" | "ethAcctAddr" | "ethController" | "priceFeedAddr" => {
                "0x5cbdd86a2fa8dc4bddd8a8f69dba48572eec07fb"
            }
            "serviceAddr" | "nodes" | "httpAddr" => "127.0.0.1:8935",
            "authWebhookUrl" => "https://hook.example/a",
            "pricePerGateway" | "pricePerBroadcaster" => "{}",
            "transactionTimeout" | "initializeRoundMaxDelay" => "30s",
            "orchSecret" | "ethPassword" | "kafkaPassword" | "FVfailGskey" => "hunter2",
            _ if flag.is_boolean => "true",
            _ => "5",
        };
        line.push_str(&format!(" -{}='{value}'", flag.name));
    }
    let imported = imported(&line).unwrap();
    for flag in FLAGS.iter().filter(|flag| !["redeemer", "remoteSigner"].contains(&flag.name)) {
        let entries: Vec<_> = imported.entries.iter().filter(|e| e.flag == format!("-{}", flag.name)).collect();
        assert_eq!(entries.len(), 1, "-{}: {entries:?}", flag.name);
        let fate = entries.first().map(|entry| entry.fate);
        // What other roles have is said so; all else is spoken of.
        let elsewhere = ["gateway", "broadcaster", "orchAddr"].contains(&flag.name);
        assert_eq!(entries.iter().any(|entry| entry.remark.contains("of this role")), elsewhere, "-{}", flag.name);
        assert!(fate != Some(Fate::Mapped) || flag.becomes == Becomes::Converted, "-{}", flag.name);
    }
    let told = serde_json::to_string(&imported.entries).unwrap() + &imported.todo.join(" ");
    assert!(!told.contains("hunter2"), "{told}");
    assert_eq!(imported.secret.unwrap().expose(), b"hunter2");
}

#[test]
fn amounts_come_over_to_the_last_digit() {
    let toml = toml_of(&format!(
        "{CHAINED} -ticketEV 8000000000000000001 -maxFaceValue 123456789012345678901234567890 -maxGasPrice 40_000_000_001 \
         -minGasPrice 0x10 -transactionTimeout 1m30.5s -blockPollingInterval 12 -maxTransactionReplacements 50"
    ));
    let text = |section: &str, key: &str| toml[section][key].as_str().unwrap().to_owned();
    assert_eq!(text("payment", "price_per_pixel"), "0.41USD");
    assert_eq!(toml["payment"]["pixels_per_unit"].as_integer(), Some(1_000_000_000_000));
    assert_eq!(text("payment", "ticket_ev_wei"), "8000000000000000001");
    assert_eq!(text("payment", "max_face_value_wei"), "123456789012345678901234567890");
    assert_eq!(
        (text("chain", "max_gas_price_wei"), text("chain", "min_fee_cap_wei")),
        ("40000000001".into(), "16".into())
    );
    assert_eq!(text("chain", "recipient"), "0x5CbDd86a2FA8Dc4bDdd8a8f69dBa48572EeC07FB");
    assert_eq!(toml["redeem"]["stuck_after_s"].as_integer(), Some(91));
    assert_eq!(toml["redeem"]["max_replacements"].as_integer(), Some(20));
    assert_eq!(toml["chain"]["poll_interval_ms"].as_integer(), Some(12_000));
}

#[test]
fn the_reward_is_called_where_go_livepeer_would_have_called_it() {
    let reward = |more: &str| {
        let toml = toml_of(&format!("{CHAINED} {more}"));
        toml.get("rounds").and_then(|rounds| rounds.get("reward")).and_then(Value::as_bool)
    };
    assert_eq!(reward(""), None);
    assert_eq!(reward("-reward"), Some(true));
    assert_eq!(reward("-ethAcctAddr 5cbdd86a2fa8dc4bddd8a8f69dba48572eec07fb"), Some(true));
    assert_eq!(reward("-ethAcctAddr 5cbdd86a2fa8dc4bddd8a8f69dba48572eec07fb -reward=false"), Some(false));
}

#[test]
fn a_transcoder_has_its_orchestrators_in_order() {
    let toml = toml_of(
        "-transcoder -orchAddr 'https://a.example:7000, b.example,a.example:7000,:9' -orchSecret s -maxSessions 4",
    );
    let list = toml["transcoder"]["orchestrators"].as_array().unwrap();
    let addresses: Vec<_> = list.iter().map(|one| one["address"].as_str().unwrap()).collect();
    assert_eq!(addresses, ["a.example:7000", "b.example:8935", "127.0.0.1:9"]);
    assert_eq!(toml["transcoder"]["capacity"].as_integer(), Some(4));
    assert_eq!(toml["transcoder"]["secret_file"].as_str(), Some("/s/orch-secret"));
    assert!(toml.get("serve").is_none() && toml.get("chain").is_none());
}

#[test]
fn what_means_nothing_here_is_named_without_its_value() {
    for (line, flag) in [
        ("-orchestrator -maxSessions hunter2", "-maxSessions: "),
        ("-orchestrator=hunter2", "-orchestrator: "),
        ("-orchestrator -ticketEV 1.5", "-ticketEV: "),
        ("-orchestrator -ticketEV 0", "-ticketEV: "),
        ("-orchestrator -pricePerUnit hunter2", "-pricePerUnit: "),
        ("-orchestrator -serviceAddr http://a/hunter2", "-serviceAddr: "),
        ("-orchestrator -httpAddr hunter2:5", "-httpAddr: "),
        ("-orchestrator -network mainnet", "-network: "),
        ("-orchestrator -network lab -ethUrl http://a", "-network: "),
        ("-orchestrator -network arbitrum-one-mainnet", "-ethUrl: "),
        ("-orchestrator -network arbitrum-one-mainnet -ethUrl wss://hunter2", "-ethUrl: "),
        ("-orchestrator -network arbitrum-one-mainnet -ethUrl http://a", "-ethOrchAddr: "),
        ("-orchestrator -orchSecret=", "-orchSecret: "),
        ("-transcoder -orchSecret s", "-orchAddr: "),
        ("-transcoder -orchAddr a", "-orchSecret: "),
        ("-gateway", "-gateway: "),
        ("-orchestrator -redeemer", "-redeemer: "),
        ("-v 6", "-orchestrator: "),
    ] {
        let error = imported(line).unwrap_err().to_string();
        assert!(error.starts_with(flag) && !error.contains("hunter2"), "{line}: {error}");
    }
}
