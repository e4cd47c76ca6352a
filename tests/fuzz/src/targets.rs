//! Every parser of strangers' bytes as a function of those bytes that must neither panic nor hang.
//!
//! The fuzzer drives them with what it invents, `tests/fuzz_corpus.rs` with what it found before. Where a thing can be
//! written again, what is read back must be the same.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chain::revert::{Call, Revert, classify};
use ed25519_dalek::VerifyingKey;
use ethers::abi::AbiDecode;
use ethers::types::{Address as EthAddress, U256};
use fleet_protocol::payload::{Ack, Ctl, Event, Info, State, Tele};
use fleet_protocol::registry::Class;
use fleet_protocol::{Leaf, Topic, dsse, strict};
use livepeer::capability::{CapabilitySet, version_satisfies};
use livepeer::multipart;
use livepeer::price::PricePerPixel;
use livepeer::profile::{Container, Profile};
use livepeer::signature::Signature;
use livepeer::units::Wei;
use livepeer::wire::{
    auth_token_from_wire, net, params_from_wire, params_to_wire, payment_from_wire, payment_to_wire, price_to_wire,
    profile_from_wire, profile_to_wire, segment_from_wire,
};
use mpegts::live::TsCutter;
use prost::Message;
use sandbox::jail::JailPlan;
use sandbox::message::{Job, Limits, Report, Signatures};
use sandbox::report::check_report;
use signer_protocol::{Request, Response, frame};
use video_signature::{Overview, Signer, y4m};

/// What is done with the bytes.
pub type Target = fn(&[u8]);

/// The targets by name, as `just fuzz NAME` takes them.
pub const TARGETS: &[(&str, Target)] = &[
    ("capabilities", capabilities),
    ("chain", chain_answers),
    ("container", container),
    ("demux", demux),
    ("envelope", envelope),
    ("fleet", fleet),
    ("hash", hash),
    ("headers", headers),
    ("job", job),
    ("live", live),
    ("multipart", multipart_parts),
    ("payment", payment),
    ("pictures", pictures),
    ("rendition", rendition),
    ("report", report),
    ("result", result),
    ("rtmp", rtmp),
    ("segment", segment),
    ("signature", signature_file),
    ("signer", signer),
    ("y4m", y4m_stream),
];

/// A transport stream as a worker takes it apart; what is put together again has the same sound.
fn demux(data: &[u8]) {
    let Ok(found) = mpegts::demux(data) else { return };
    let size = |bytes: usize| bytes <= data.len();
    let units = found.video.as_ref().map_or(0, |video| video.units.iter().map(|unit| unit.data.len()).sum());
    assert!(size(units), "more picture than stream");
    if let Some(audio) = &found.audio {
        assert!(size(audio.packets.iter().map(|packet| packet.data.len()).sum()), "more sound than stream");
        let again = mpegts::mux(mpegts::VideoCodec::H264, &[], Some(audio), "fuzz");
        let again = mpegts::demux(&again).ok().and_then(|found| found.audio);
        let joined = |track: &mpegts::AudioTrack| -> Vec<u8> {
            track.packets.iter().flat_map(|packet| packet.data.iter().copied()).collect()
        };
        if !joined(audio).is_empty() && !audio.packets.iter().any(|packet| packet.pts.is_none()) {
            assert_eq!(again.as_ref().map(joined), Some(joined(audio)), "sound changed on the way");
        }
    }
    if let Ok(cut) = mpegts::segment::cut(data, 2000) {
        // A picture may be as small as its start code, and a segment is four packets at least.
        assert!(size(cut.iter().map(|segment| segment.bytes.len()).sum::<usize>() / 256), "more segments than stream");
    }
}

/// The same, of a stream that is still being made and comes in pieces.
fn live(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else { return };
    let mut cutter = TsCutter::new(500);
    for piece in rest.chunks(usize::from(first) * 4 + 1) {
        if cutter.push(piece).is_err() {
            return;
        }
    }
    // Whatever it says, it has ended.
    let _ = cutter.finish();
}

/// A segment as the worker reads it, transport stream or MP4.
fn container(data: &[u8]) {
    worker::read_container(data);
}

/// A remote transcoder's rendition, counted without decoding, in both containers.
fn rendition(data: &[u8]) {
    use orchestrator::remote::verify::{Lie, Part, verify};
    let Some(profile) = livepeer::profile::preset("240p") else { return };
    for container in [Container::MpegTs, Container::Mp4] {
        let profile = Profile { container, ..profile.clone() };
        let part = |pixels| Part { media: Bytes::copy_from_slice(data), pixels, signature: None };
        let profiles = std::slice::from_ref(&profile);
        match verify(profiles, &[part(u64::MAX)], data) {
            // Said by the counter itself, it is believed, unless no rendition can be so large.
            Err(Lie::Pixels { counted, .. }) if counted <= 7_378_560_000 => {
                let counted_again = verify(profiles, &[part(counted)], data);
                let believed = counted_again.map(|all| all.iter().map(|one| (one.pixels.0, one.frames)).collect());
                let believed: Vec<(u64, u64)> = believed.expect("its own count");
                assert!(believed.len() == 1 && believed.iter().all(|(pixels, _)| *pixels == counted));
                assert!(believed.iter().all(|(_, frames)| *frames <= data.len() as u64), "more pictures than bytes");
            }
            Ok(_) => panic!("nobody has so many pixels"),
            Err(_) => {}
        }
        let _ = verify(profiles, &[part(0)], data);
    }
}

/// What a pusher sends by RTMP: chunks, commands, FLV tags; the first byte says how it comes in pieces.
fn rtmp(data: &[u8]) {
    let Some((&first, wire)) = data.split_first() else { return };
    let _ = gateway::read_rtmp(wire, usize::from(first) * 8 + 1);
}

/// An orchestrator's perceptual hash, as a gateway compares it.
fn hash(data: &[u8]) {
    let Ok(read) = video_signature::Signature::read(data) else { return };
    // What lies in the file bounds what can be read from it.
    assert!(read.frames() <= data.len(), "more frames than bytes");
    let _ = read.compare(&read);
}

/// Parameter sets and headers of all codecs, and what lies between start codes.
fn pictures(data: &[u8]) {
    use mpegts::{VideoCodec, av1, h264, h265, nal, vpx};
    let _ = (h264::parse_sps(data), h264::find_sps(data), h265::parse_sps(data), h265::find_sps(data));
    let _ = (av1::max_size(data), vpx::parse_vp8(data), vpx::parse_vp9(data));
    let within = nal::units(data).all(|unit| unit.bytes(data).len() <= data.len());
    assert!(within, "a unit longer than its stream");
    for codec in [VideoCodec::H264, VideoCodec::H265] {
        let _ = nal::access_units(codec, data);
    }
}

/// A record of the node's to a worker: what is read is written and read as the same.
fn job(data: &[u8]) {
    if let Ok(job) = serde_json::from_slice::<Job>(data) {
        let text = serde_json::to_vec(&job).expect("a job can be written");
        assert_eq!(serde_json::from_slice::<Job>(&text).ok().as_ref(), Some(&job));
    }
    let _ = serde_json::from_slice::<JailPlan>(data);
}

/// A record of a worker's to the node, held against two jobs.
fn report(data: &[u8]) {
    let Ok(report) = serde_json::from_slice::<Report>(data) else { return };
    let profiles = ["240p", "720p"].iter().filter_map(|name| livepeer::profile::preset(name)).collect();
    let mut job = Job {
        id: 7,
        profiles,
        clip: None,
        limits: Limits::default(),
        threads: 1,
        service_provider: String::new(),
        signatures: Signatures::Renditions,
        video_seen: false,
    };
    for (descriptors, signatures) in [(4, Signatures::Renditions), (2, Signatures::None)] {
        job.signatures = signatures;
        if check_report(&job, &report, descriptors).is_ok()
            && let Report::Done(done) = &report
        {
            let most = job.limits.max_output_bytes;
            assert!(done.renditions.iter().all(|rendition| rendition.bytes <= most), "believed too much");
            assert_eq!(done.renditions.len() + done.signatures.len(), descriptors, "believed a wrong number");
        }
    }
}

/// The credentials of a segment.
fn segment(data: &[u8]) {
    let Ok(data) = net::SegData::decode(data) else { return };
    let Ok(meta) = segment_from_wire(&data) else { return };
    for profile in &meta.profiles {
        let again = profile_from_wire(&profile_to_wire(profile));
        assert_eq!(again.as_ref(), Ok(profile), "a profile changed on the way");
        let (width, height) =
            livepeer::profile::output_size((1280, 720), (profile.width, profile.height), profile.codec);
        assert!(width <= 8192 && height <= 8192, "{width}x{height}");
    }
    let names = meta.profiles.iter().map(|profile| profile.name.as_str());
    let message = livepeer::credentials::segment_message(&meta.manifest_id, meta.seq, &meta.hash, names);
    let _ = Signature::from_bytes(&meta.signature).and_then(|signature| signature.recover_node(&message));
}

/// A payment; what is read is written and read as the same.
fn payment(data: &[u8]) {
    let Ok(wire) = net::Payment::decode(data) else { return };
    let Ok(payment) = payment_from_wire(&wire) else { return };
    if wire.sender.is_empty() {
        return;
    }
    assert_eq!(payment_from_wire(&payment_to_wire(&payment)), Ok(payment), "a payment changed on the way");
}

/// An orchestrator's answers, as a gateway reads them.
fn result(data: &[u8]) {
    let info = match net::TranscodeResult::decode(data) {
        Ok(net::TranscodeResult { info: Some(info), .. }) => Some(info),
        _ => net::OrchestratorInfo::decode(data).ok(),
    };
    let Some(info) = info else { return };
    if let Some(params) = info.ticket_params.as_ref().and_then(|params| params_from_wire(params, None).ok()) {
        assert_eq!(params_from_wire(&params_to_wire(&params), None), Ok(params), "an offer changed on the way");
    }
    if let Some(price) = info.price_info
        && let Ok(price) = PricePerPixel::from_wire(price.price_per_unit, price.pixels_per_unit)
    {
        let again = price_to_wire(price);
        assert_eq!(PricePerPixel::from_wire(again.price_per_unit, again.pixels_per_unit), Ok(price));
    }
    let _ = info.auth_token.as_ref().map(auth_token_from_wire);
    let offered = info.capabilities.unwrap_or_default();
    let set = CapabilitySet::from_bitstring(&offered.bitstring);
    assert_eq!(CapabilitySet::from_bitstring(&set.to_bitstring()), set, "capabilities changed on the way");
}

/// The two headers as they stand in a request: base64 of a message, one per line.
fn headers(data: &[u8]) {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    for line in [lines.next(), lines.next()].into_iter().flatten() {
        let Ok(bytes) = STANDARD.decode(line) else { continue };
        segment(&bytes);
        payment(&bytes);
    }
}

/// Capability words, versions and prices, as texts and numbers.
fn capabilities(data: &[u8]) {
    let (words, rest) = data.as_chunks::<8>();
    let words: Vec<u64> = words.iter().map(|word| u64::from_be_bytes(*word)).collect();
    let set = CapabilitySet::from_bitstring(&words);
    assert_eq!(CapabilitySet::from_bitstring(&set.to_bitstring()), set);
    assert!(set.is_subset(&set) && set.missing_from(&set).is_empty());
    if let [wei, pixels, ..] = words[..]
        && let Ok(price) = PricePerPixel::from_wire(wei.cast_signed(), pixels.cast_signed())
    {
        let _ = price.fee(livepeer::units::Pixels(u64::MAX));
        let (wei, pixels) = price.to_wire();
        assert_eq!(PricePerPixel::from_wire(wei, pixels), Ok(price));
    }
    let text = String::from_utf8_lossy(data);
    let (version, minimum) = text.split_once('\n').unwrap_or((&text, ""));
    assert!(!version_satisfies(version, version) || version_satisfies(version, ""));
    let _ = version_satisfies(version, minimum);
    if let Ok(wei) = Wei::from_dec_str(&text) {
        assert_eq!(Wei::from_minimal_bytes(&wei.to_minimal_bytes()), Some(wei));
    }
    let _ = Wei::from_minimal_bytes(rest);
}

/// A remote transcoder's results: a first line of `Content-Type`, then the body, fed in pieces.
fn multipart_parts(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (kind, body) = data.split_at(end);
    let Some(Ok(boundary)) = multipart::boundary_of(&String::from_utf8_lossy(kind)) else { return };
    let Ok(mut reader) = multipart::Reader::new(&boundary) else { return };
    let mut out = 0;
    for piece in body.get(1..).unwrap_or_default().chunks(37) {
        reader.feed(piece);
        loop {
            match reader.piece() {
                Ok(Some(multipart::Piece::Data(bytes))) => out += bytes.len(),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    assert!(out <= body.len(), "more came out than went in");
    let _ = reader.finish();
}

/// A stream of raw pictures, signed.
fn y4m_stream(data: &[u8]) {
    let Ok(mut reader) = y4m::Reader::new(data) else { return };
    let (width, height) = (reader.width(), reader.height());
    let mut signer = Signer::new(width, height, reader.time_base()).ok();
    for pts in 0.. {
        let Ok(Some(luma)) = reader.next_frame() else { break };
        assert_eq!(luma.len(), width as usize * height as usize);
        if let Some(signer) = &mut signer {
            signer.push(pts, luma, width as usize).expect("a whole frame can be signed");
        }
    }
    let Some(file) = signer.map(Signer::finish).filter(|file| !file.is_empty()) else { return };
    let overview = Overview::read(&file).expect("a file of ours has a header");
    assert_eq!((overview.width, overview.height), (width, height));
}

/// A signature's header, and luma of any depth, stride and size.
fn signature_file(data: &[u8]) {
    let _ = Overview::read(data);
    let Some((head, plane)) = data.split_first_chunk::<6>() else { return };
    let [width, height, stride, depth, numerator, denominator] = head.map(u32::from);
    let size = (width as usize, height as usize);
    if let Ok(narrowed) = video_signature::narrow::little_endian(plane, stride as usize, size, depth) {
        assert_eq!(narrowed.len(), size.0 * size.1);
    }
    let Ok(base) = video_signature::TimeBase::new(numerator, denominator) else { return };
    let Ok(mut signer) = Signer::new(width, height, base) else { return };
    if signer.push(i64::from(depth), plane, stride as usize).is_ok() {
        assert!(!signer.finish().is_empty());
    }
}

/// What the node asks the signer and what it answers.
fn signer(data: &[u8]) {
    if let Ok(request) = frame::read::<Request>(&mut &*data) {
        let bytes = frame::encode(&request).expect("what was read can be written");
        let again = frame::read::<Request>(&mut &*bytes).expect("what was written can be read");
        assert_eq!(frame::encode(&again).ok(), Some(bytes));
    }
    let _ = frame::read::<Response>(&mut &*data);
    let _ = frame::decode::<Request>(data);
}

/// A message on the broker: its topic in the first line, then the payload, as controller and box read them.
fn fleet(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (topic, payload) = data.split_at(end);
    let payload = payload.get(1..).unwrap_or_default();
    let _ = strict::parse(payload, 128 * 1024);
    let Ok(text) = str::from_utf8(topic) else { return };
    let Ok(topic) = Topic::parse(text) else { return };
    assert_eq!(Topic::parse(&topic.to_string()).as_ref(), Ok(&topic), "a topic changed on the way");
    let Topic::Box { leaf, .. } = &topic else {
        let _ = Ctl::parse(payload);
        return;
    };
    match leaf {
        Leaf::State => drop(State::parse(payload)),
        Leaf::Info => drop(Info::parse(payload)),
        Leaf::Tele(class) => {
            let _ = class_of(*class, payload);
        }
        Leaf::Event(_) => drop(Event::parse(payload)),
        Leaf::Ack => drop(Ack::parse(payload)),
        _ => {}
    }
}

fn class_of(class: Class, payload: &[u8]) -> Option<usize> {
    Tele::parse(class, payload).ok().map(|(_, ignored)| ignored)
}

/// A signed order. Nothing that the fuzzer makes is signed by a key that only its test knows.
fn envelope(data: &[u8]) {
    let key = VerifyingKey::from_bytes(&[
        0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a, 0x0e, 0xe1,
        0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a,
    ])
    .expect("the first key of RFC 8032's test vectors");
    for kind in [dsse::COMMAND, dsse::ACK] {
        if let Ok(verified) = dsse::verify(data, kind, &[key], 1) {
            let _ = dsse::read_body::<serde_json::Value>(&verified);
        }
    }
}

/// What an RPC endpoint answers for the contracts: data of a call or of its refusal.
fn chain_answers(data: &[u8]) {
    let refusal = Revert::decode(data);
    let _ = (refusal.to_string(), Revert::from_message(&String::from_utf8_lossy(data)).to_string());
    for call in [Call::Redeem, Call::Round, Call::Reward, Call::Transcoder, Call::Stake, Call::Fees] {
        let _ = classify(call, &refusal).fault();
    }
    let _ = (U256::decode(data), <bool as AbiDecode>::decode(data), EthAddress::decode(data));
    let _ = <String as AbiDecode>::decode(data);
    let _ = <(U256, U256, (U256, U256))>::decode(data);
    let _ = (<Vec<EthAddress>>::decode(data), <(EthAddress, [u8; 20])>::decode(data));
}
