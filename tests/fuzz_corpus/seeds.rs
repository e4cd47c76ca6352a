//! Good inputs of each target, from which the fuzzer sets out.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use livepeer::address::{Address, H256};
use livepeer::multipart::{self, PartHead};
use livepeer::profile::{Container, preset};
use livepeer::transaction::Transaction;
use livepeer::units::{Pixels, Wei};
use livepeer::wire::{net, profiles_into_seg_data};
use millrace_tests::media;
use prost::Message;
use sandbox::jail::{JailPlan, ProcessLimits};
use sandbox::message::{Clip, Done, Job, JobError, Limits, Ready, Rendition, Report, Signatures, Spent};
use serde_json::Value;
use signer_protocol::{Identity, Refusal, Request, Response, Usage, frame};

/// The seeds of a target.
pub(crate) fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "capabilities" => capabilities(),
        "chain" => chain_answers(),
        "container" => [streams(), films()].concat(),
        "demux" => streams(),
        "envelope" => envelopes(),
        "fleet" => fleet(),
        "hash" => hashes(),
        "headers" => headers(),
        "job" => jobs(),
        "live" => streams().into_iter().map(|stream| [&[40u8][..], &stream].concat()).collect(),
        "multipart" => results(),
        "payment" => vec![wire(&["payment", "protobuf"])],
        "pictures" => pictures(),
        "rendition" => [streams(), films()].concat(),
        "report" => reports(),
        "result" => vec![wire(&["orchestrator_info", "protobuf"]), transcode_result()],
        "rtmp" => publications(),
        "segment" => segments(),
        "signature" => vec![[&[33, 40, 66, 10, 1, 30][..], &[0x5a; 66 * 40]].concat()],
        "signer" => signer(),
        "y4m" => y4m(),
        other => panic!("{other} has no seeds"),
    }
}

fn vectors(file: &str) -> Value {
    let path = media::repository().join("tests/vectors").join(file);
    serde_json::from_slice(&std::fs::read(path).expect("the vectors are there")).expect("the vectors are JSON")
}

fn wire(path: &[&str]) -> Vec<u8> {
    let all = vectors("wire.json");
    let found = path.iter().fold(&all["vectors"], |value, key| &value[*key]);
    hex::decode(found.as_str().expect("a vector in hex")).expect("a vector in hex")
}

const PICTURE: [&str; 4] = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=0.5"];

fn film(name: &str, more: &[&str]) -> Vec<u8> {
    std::fs::read(media::clip(name, &[&PICTURE, more].concat())).expect("a clip that was just made")
}

fn streams() -> Vec<Vec<u8>> {
    let sound = ["-f", "lavfi", "-i", "sine=d=0.5", "-c:a", "aac", "-b:a", "32k"];
    let h264 = ["-c:v", "libx264", "-g", "3", "-bf", "1", "-crf", "45"];
    vec![
        film("fuzz.ts", &[&sound[..], &h264].concat()),
        film("fuzz-late.ts", &[&h264[..], &["-output_ts_offset", "95443.4"]].concat()),
        film("fuzz-h265.ts", &["-c:v", "libx265", "-crf", "45", "-x265-params", "log-level=none"]),
    ]
}

fn films() -> Vec<Vec<u8>> {
    let sound = ["-f", "lavfi", "-i", "sine=d=0.5", "-c:a", "aac", "-b:a", "32k"];
    let h264 = ["-c:v", "libx264", "-g", "3", "-bf", "1", "-crf", "45"];
    vec![
        film("fuzz.mp4", &[&sound[..], &h264].concat()),
        film("fuzz-front.mp4", &[&h264[..], &["-movflags", "faststart"]].concat()),
        film(
            "fuzz-fragments.mp4",
            &[&sound[..], &h264, &["-movflags", "frag_keyframe+empty_moov+default_base_moof"]].concat(),
        ),
        film("fuzz-h265.mp4", &["-c:v", "libx265", "-crf", "45", "-x265-params", "log-level=none"]),
        film("fuzz-vp9.mp4", &["-c:v", "libvpx-vp9", "-crf", "60", "-b:v", "20k"]),
    ]
}

fn pictures() -> Vec<Vec<u8>> {
    let coded = |stream: &Vec<u8>| {
        let units = mpegts::demux(stream).ok().and_then(|found| found.video).map(|video| video.units);
        units.and_then(|units| units.into_iter().next()).map(|unit| unit.data).unwrap_or_default()
    };
    let mut all: Vec<Vec<u8>> = streams().iter().map(coded).collect();
    let sets: Vec<Vec<u8>> = all
        .iter()
        .flat_map(|stream| mpegts::nal::units(stream).map(|unit| unit.bytes(stream).to_vec()).collect::<Vec<_>>())
        .filter(|unit| unit.len() < 100)
        .collect();
    all.extend(sets);
    all
}

fn jobs() -> Vec<Vec<u8>> {
    let profiles = ["240p", "720p"].iter().filter_map(|name| preset(name)).collect();
    let job = Job {
        id: 7,
        profiles,
        clip: Some(Clip { from_ms: 0, to_ms: 1000 }),
        limits: Limits::default(),
        threads: 2,
        service_provider: "Livepeer Transcoder 0.1.0 (offchain)".to_owned(),
        signatures: Signatures::Renditions,
        video_seen: false,
    };
    let plan = JailPlan::software(ProcessLimits::default()).with_device("/dev/null", "a seed");
    vec![
        serde_json::to_vec(&job).expect("a job can be written"),
        serde_json::to_vec(&plan).expect("a plan can be written"),
    ]
}

fn reports() -> Vec<Vec<u8>> {
    let rendition = |width, height| Rendition {
        width,
        height,
        frames: 60,
        pixels: Pixels(u64::from(width * height * 60)),
        bytes: 90_000,
    };
    let done = |signatures| Done {
        id: 7,
        renditions: vec![rendition(426, 240), rendition(1280, 720)],
        decoded_frames: 60,
        decoded_pixels: Pixels(60 * 1280 * 720),
        duration_ms: 2000,
        took_ms: 300,
        cpu_ms: 500,
        peak_rss: 1 << 28,
        signatures,
        spent: Spent { decode_us: 40_000, scale_us: 20_000, encode_us: 400_000 },
    };
    let ready = Ready {
        engine: "software".to_owned(),
        proved: vec!["decode-h264".to_owned()],
        refused: vec![("encode-h265".to_owned(), "no plugin".to_owned())],
        layers: vec!["seccomp".to_owned()],
        missing_layers: Vec::new(),
        framework: "GStreamer 1.22".to_owned(),
    };
    let all = [
        Report::Done(done(vec![5538, 5538])),
        Report::Done(done(Vec::new())),
        Report::Ready(ready),
        Report::Failed { id: 7, error: JobError::InvalidVideo, detail: "no frame".to_owned() },
        Report::Unfit { reason: "no plugin".to_owned() },
    ];
    all.iter().map(|report| serde_json::to_vec(report).expect("a report can be written")).collect()
}

fn segments() -> Vec<Vec<u8>> {
    let names = ["240p", "720p", "P720p30fps16x9"];
    let mut profiles: Vec<_> = names.iter().filter_map(|name| preset(name)).collect();
    let base = net::SegData {
        manifest_id: b"stream".to_vec(),
        seq: 3,
        hash: vec![7; 32],
        sig: vec![27; 65],
        duration: 2000,
        calc_perceptual_hash: true,
        capabilities: Some(net::Capabilities { bitstring: vec![0x1803], ..net::Capabilities::default() }),
        auth_token: Some(net::AuthToken {
            token: vec![1; 32],
            session_id: "5e55".to_owned(),
            expiration: 2_000_000_000,
        }),
        ..net::SegData::default()
    };
    let mut all = Vec::new();
    let mut write = |profiles: &[_]| {
        let mut data = base.clone();
        profiles_into_seg_data(profiles, &mut data);
        all.push(data.encode_to_vec());
    };
    write(&profiles);
    profiles.iter_mut().for_each(|profile| profile.container = Container::Mp4);
    write(&profiles);
    profiles.iter_mut().for_each(|profile| profile.quality = 23);
    write(&profiles);
    all.push(wire(&["notify_segment", "protobuf"]));
    all
}

fn transcode_result() -> Vec<u8> {
    let segment = net::TranscodedSegmentData {
        url: "https://node/stream/5e55/720p/3.ts".to_owned(),
        pixels: 1280 * 720 * 60,
        perceptual_hash_url: "https://node/stream/5e55/720p/3.ts.phash".to_owned(),
    };
    let info = net::OrchestratorInfo::decode(wire(&["orchestrator_info", "protobuf"]).as_slice()).ok();
    let data = net::TranscodeData { segments: vec![segment], sig: vec![28; 65] };
    net::TranscodeResult { seq: 3, info, result: Some(net::transcode_result::Result::Data(data)) }.encode_to_vec()
}

fn headers() -> Vec<Vec<u8>> {
    let text = |bytes: &[u8]| STANDARD.encode(bytes).into_bytes();
    let payment = text(&wire(&["payment", "protobuf"]));
    segments().iter().map(|segment| [&text(segment)[..], b"\n", &payment].concat()).collect()
}

fn capabilities() -> Vec<Vec<u8>> {
    let texts = ["0.9.1-millrace.1\n0.9.0", "v0.8.8+abc\n1.2.3", "1000000000000000000", "undefined\n0.0.1"];
    let words = [[1200u64, 1, 0x0400_5fff, 3].map(u64::to_be_bytes).concat()];
    texts.iter().map(|text| text.as_bytes().to_vec()).chain(words).collect()
}

fn results() -> Vec<Vec<u8>> {
    let head = |kind: &str, pixels| PartHead { content_type: kind.to_owned(), pixels, ..PartHead::default() };
    let parts = [
        (head("video/mp2t", Some(1000)), Bytes::from_static(b"a rendition, with \r\n--b in it")),
        (head("application/octet-stream", None), Bytes::from_static(b"its signature")),
    ];
    let body: Vec<u8> = multipart::write("b0undary", &parts).into_iter().flatten().collect();
    vec![[&b"multipart/mixed; boundary=\"b0undary\"\n"[..], &body].concat()]
}

fn signer() -> Vec<Vec<u8>> {
    let transaction = Transaction {
        chain_id: 42161,
        nonce: 3,
        max_priority_fee_per_gas: Wei::from(0u64),
        max_fee_per_gas: Wei::from(20_000_000u64),
        gas_limit: 350_000,
        to: Address::NULL,
        value: Wei::from(0u64),
        data: wire(&["redeem_calldata", "calldata"]),
    };
    let requests = [
        Request::Hello,
        Request::Usage,
        Request::SignResult { digest: H256::repeat_byte(7) },
        Request::SignPing { value: b"ping".to_vec() },
        Request::SignTransaction { transaction },
    ];
    let usage = Usage {
        results: 1,
        pings: 2,
        transactions: 3,
        refused: 4,
        spent_today: Wei::from(5u64),
        daily_limit: Wei::from(6u64),
    };
    let responses = [
        Response::Hello(Identity { address: Address::NULL, chain_id: Some(42161) }),
        Response::Usage(usage),
        Response::Refused(Refusal::Malformed),
    ];
    let requests = requests.iter().map(|request| frame::encode(request).expect("a request can be written"));
    requests
        .chain(responses.iter().map(|response| frame::encode(response).expect("an answer can be written")))
        .collect()
}

fn fleet() -> Vec<Vec<u8>> {
    let on = "millrace/v1/home/box-0123456789abcdef";
    let life = r#""v":1,"e":"9c1f02aa","b":37,"n":912"#;
    [
        ("state", format!(r#"{{{life},"on":true,"t":1795327238123,"hb":60,"why":"boot","fw":"1.8.2","ring":"r1","mode":"run"}}"#)),
        ("tele/hb", format!(r#"{{{life},"q":1,"u":1,"m":{{"ok":90}}}}"#)),
        ("tele/earn", format!(r#"{{{life},"q":1,"u":1,"m":{{"twv":"5"}}}}"#)),
        ("event/warn", format!(r#"{{{life},"q":5512,"t":1795327238123,"u":864213,"tq":2,"id":"GPU-TEMP-HIGH","op":"raise","sev":"warn","inst":"gpu0","val":87,"lim":85,"cnt":1,"act":"throttle-1","ctx":{{"streams":6}}}}"#)),
        ("ack", r#"{"v":1,"e":"9c1f02aa","L":48211,"A":5512,"E":902,"srv":"main"}"#.to_owned()),
        ("info", format!(r#"{{{life},"fw":"1.8.2"}}"#)),
    ]
    .iter()
    .map(|(leaf, payload)| format!("{on}/{leaf}\n{payload}").into_bytes())
    .chain([b"millrace/v1/home/_ctl/main\n{\"v\":1,\"on\":true}".to_vec()])
    .collect()
}

fn envelopes() -> Vec<Vec<u8>> {
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let body = br#"{"id":"c1","name":"drain","nbf":1,"exp":2}"#;
    [fleet_protocol::dsse::COMMAND, fleet_protocol::dsse::ACK]
        .iter()
        .map(|kind| fleet_protocol::dsse::sign(kind, body, &key).expect("an order can be signed"))
        .collect()
}

fn chain_answers() -> Vec<Vec<u8>> {
    let all = vectors("chain.json");
    let bytes = |value: &Value| value.as_str().and_then(|text| hex::decode(text.trim_start_matches("0x")).ok());
    let reverts = all["reverts"].as_array().into_iter().flatten().filter_map(|case| bytes(&case["revert_data"]));
    let returns = all["returns"].as_array().into_iter().flatten().filter_map(|case| bytes(&case["data"]));
    let mut found: Vec<Vec<u8>> = reverts.chain(returns).collect();
    found.sort();
    found.dedup();
    // Enough of each kind to begin with.
    found.into_iter().filter(|data| !data.is_empty()).take(24).collect()
}

/// A message of RTMP's chunk stream: a whole header, then pieces of 128 bytes.
fn message(weave: u8, kind: u8, timestamp: u8, payload: &[u8]) -> Vec<u8> {
    let [_, l1, l2, l3] = u32::try_from(payload.len()).expect("a small message").to_be_bytes();
    let mut wire = vec![weave, 0, 0, timestamp, l1, l2, l3, kind, 1, 0, 0, 0];
    for (index, piece) in payload.chunks(128).enumerate() {
        if index > 0 {
            wire.push(0xc0 | weave);
        }
        wire.extend_from_slice(piece);
    }
    wire
}

/// Connections that publish a few pictures with sound: H.264 as ever, HEVC as enhanced.
fn publications() -> Vec<Vec<u8>> {
    let text = |text: &str| [&[2, 0, u8::try_from(text.len()).expect("short")][..], text.as_bytes()].concat();
    let number = |number: f64| [&[0][..], &number.to_be_bytes()].concat();
    let connect = [
        text("connect"),
        number(1.0),
        [&[3, 0, 3][..], b"app", &text("live"), &[0, 4], b"tune", &[10, 0, 0, 0, 1, 5], &[0, 0, 9]].concat(),
    ];
    let publish = [text("publish"), number(5.0), vec![5], text("key"), text("live")];
    let begin = [message(3, 20, 0, &connect.concat()), message(3, 20, 0, &publish.concat())].concat();
    let avc = [0x17, 0, 0, 0, 0, 1, 100, 0, 30, 0xff, 0xe1, 0, 4, 0x67, 100, 0, 30, 1, 0, 2, 0x68, 0xee];
    let mut hevc = b"\x90hvc1".to_vec();
    hevc.extend([0; 21]);
    hevc.extend([3, 2, 0xa0, 0, 1, 0, 2, 0x40, 1, 0xa1, 0, 1, 0, 2, 0x42, 1]);
    let key = [&[0x17, 1, 0, 0, 40, 0, 0, 0, 200, 0x65][..], &[9; 199]].concat();
    let sound = [[0xaf, 0, 0x11, 0x90].to_vec(), [0xaf, 1, 1, 2, 3, 4].to_vec()];
    let old = [
        message(4, 9, 0, &avc),
        message(5, 8, 0, &sound[0]),
        message(4, 9, 10, &key),
        message(5, 8, 12, &sound[1]),
        message(4, 9, 50, &[0x27, 1, 0, 0, 0, 0, 0, 0, 2, 0x41, 9]),
        message(2, 1, 0, &[0, 0, 16, 0]),
        message(4, 9, 90, &key),
        message(3, 20, 0, &[text("deleteStream"), number(6.0), vec![5], number(1.0)].concat()),
    ];
    let enhanced = [message(4, 9, 0, &hevc), message(4, 9, 40, b"\x93hvc1\0\0\0\x02\x26\x01")];
    assert!(gateway::read_rtmp(&[begin.clone(), old.concat()].concat(), 7) > 0, "a seed that makes a segment");
    [(255, old.concat()), (3, enhanced.concat())]
        .into_iter()
        .map(|(piece, media)| [&[piece][..], &begin, &media].concat())
        .collect()
}

/// Perceptual hashes as an orchestrator writes them.
fn hashes() -> Vec<Vec<u8>> {
    [1, 4, 95]
        .iter()
        .map(|frames: &i64| {
            let base = video_signature::TimeBase::new(1, 30).expect("a time base");
            let mut signer = video_signature::Signer::new(40, 36, base).expect("a small picture");
            for pts in 0..*frames {
                let luma: Vec<u8> =
                    (0..40 * 36).map(|at: i64| u8::try_from((at * (pts + 3)) % 251).expect("a byte")).collect();
                signer.push(pts, &luma, 40).expect("a whole frame");
            }
            signer.finish()
        })
        .collect()
}

fn y4m() -> Vec<Vec<u8>> {
    let stream = |colour: &str, frame: usize| {
        let head = format!("YUV4MPEG2 W33 H32 F30000:1001 Ip A1:1 C{colour}\n").into_bytes();
        let picture: Vec<u8> = b"FRAME\n".iter().copied().chain((0..=250u8).cycle().step_by(7).take(frame)).collect();
        [head, picture.clone(), picture].concat()
    };
    let (luma, chroma) = (33 * 32, 17 * 16);
    vec![stream("mono", luma), stream("420jpeg", luma + 2 * chroma), stream("420p10", 2 * (luma + 2 * chroma))]
}
