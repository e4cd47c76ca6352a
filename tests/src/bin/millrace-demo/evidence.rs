//! What happened, asked of those who know: the chain about money, ffprobe about media.
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use livepeer::address::{Address, keccak256};
use livepeer::units::{Wei, u256_from_minimal_bytes};
use millrace_tests::anvil::Anvil;
use serde_json::{Value, json};

/// Renditions asked for, with the size each must have for a 16:9 source.
pub(crate) const LADDER: [(&str, u64, u64); 4] =
    [("240p", 426, 240), ("360p", 640, 360), ("480p", 854, 480), ("720p", 1280, 720)];

/// Payments to a recipient, as the ticket broker's events have them.
#[derive(Debug)]
pub(crate) struct Transfers {
    pub(crate) total: Wei,
    pub(crate) transactions: Vec<String>,
}

impl Transfers {
    pub(crate) async fn read(anvil: &Anvil, broker: Address, recipient: Address) -> Result<Self> {
        let event = keccak256(b"WinningTicketTransfer(address,address,uint256)");
        let topic = format!("0x{:0>64}", hex::encode(recipient.as_bytes()));
        let filter = json!([{
            "fromBlock": "0x0", "toBlock": "latest", "address": broker.to_string(),
            "topics": [format!("{event:?}"), null, topic],
        }]);
        let logs: Vec<Value> = anvil.request("eth_getLogs", filter).await?;
        let mut transfers = Self { total: Wei::ZERO, transactions: Vec::new() };
        for log in logs {
            let data = log["data"].as_str().context("a log has data")?.trim_start_matches("0x");
            let amount = u256_from_minimal_bytes(&hex::decode(data)?).context("an amount of 32 bytes")?;
            transfers.total = transfers.total.checked_add(Wei(amount)).context("the sum fits")?;
            transfers.transactions.push(log["transactionHash"].as_str().context("a log has a transaction")?.to_owned());
        }
        Ok(transfers)
    }
}

/// The ladder as ffprobe sees it.
#[derive(Debug)]
pub(crate) struct Renditions {
    pub(crate) count: u64,
    pub(crate) segments_each: u64,
    pub(crate) pixels: u64,
}

impl Renditions {
    /// Every rendition is there, has its size, sound and full length, and decodes without an error.
    pub(crate) fn inspect(out: &Path, seconds: u32) -> Result<Self> {
        ensure!(out.join("master.m3u8").is_file(), "there is no out/master.m3u8");
        let mut all = Self { count: 0, segments_each: 0, pixels: 0 };
        for (name, width, height) in LADDER {
            let playlist = out.join(format!("{name}.m3u8"));
            let text =
                std::fs::read_to_string(&playlist).with_context(|| format!("there is no {}", playlist.display()))?;
            ensure!(text.contains("#EXT-X-ENDLIST"), "{name}: the playlist has no end");
            let segments =
                u64::try_from(text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count())?;
            ensure!(
                all.count == 0 || segments == all.segments_each,
                "{name}: {segments} segments, others have {}",
                all.segments_each
            );
            let video = probe(&playlist, "v:0")?;
            let size = (video["width"].as_u64(), video["height"].as_u64());
            ensure!(size == (Some(width), Some(height)), "{name}: has size {size:?}");
            let frames = packets(&video)?;
            ensure!(frames >= u64::from(seconds) * 20, "{name}: only {frames} frames for {seconds} s");
            ensure!(packets(&probe(&playlist, "a:0")?)? > 0, "{name}: has no sound");
            decodes(&playlist)?;
            all.count += 1;
            all.segments_each = segments;
            all.pixels += frames * width * height;
        }
        Ok(all)
    }
}

fn probe(playlist: &Path, stream: &str) -> Result<Value> {
    let entries = "stream=width,height,nb_read_packets";
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", stream, "-count_packets", "-show_entries", entries, "-of", "json"])
        .arg(playlist)
        .output()
        .context("cannot run ffprobe; ./setup.sh installs it")?;
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    answer["streams"].get(0).cloned().with_context(|| format!("{} has no stream {stream}", playlist.display()))
}

fn packets(stream: &Value) -> Result<u64> {
    Ok(stream["nb_read_packets"].as_str().context("ffprobe counts packets")?.parse()?)
}

fn decodes(playlist: &Path) -> Result<()> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(playlist)
        .args(["-f", "null", "-"])
        .output()
        .context("cannot run ffmpeg; ./setup.sh installs it")?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && complaints.trim().is_empty(),
        "{} does not decode cleanly:\n{complaints}",
        playlist.display()
    );
    Ok(())
}
