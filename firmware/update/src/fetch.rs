//! Getting files whose size and hash are known beforehand, over connections that break, from servers that need not be
//! believed. What was fetched stays on the disk and is gone on from, also after this process was killed.

use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use fleet_protocol::release::{Packed, Sha256};
use fleet_protocol::site::Proxy;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_RANGE, LOCATION, RANGE};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioExecutor;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256 as Hasher};
use tokio::time::Instant;

use crate::files::{self, FileError, io_at};

/// How long a connection may take.
const DIAL: Duration = Duration::from_secs(10);
/// How long a server may take to begin an answer, and to go on with it.
const SILENCE: Duration = Duration::from_secs(30);
/// Tries in a row that bring nothing new.
const TRIES: u32 = 8;
/// The first wait between two tries; it doubles.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How often a file may be begun anew, because what there was did not fit.
const ANEW: u32 = 2;
/// Redirections followed.
const REDIRECTIONS: u32 = 4;
/// Largest tag of a server's that is remembered.
const TAG_MAX: usize = 256;

/// Why a file cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error(transparent)]
    File(#[from] FileError),
    /// Neither an absolute path nor http(s).
    #[error("{0:?} is neither a file nor an http or https address")]
    Address(String),
    /// The server answers, and that is no.
    #[error("{url}: the server answers {status}")]
    Status { url: String, status: StatusCode },
    /// Too many redirections, or one to nowhere.
    #[error("{0}: redirected too often, or to nowhere")]
    Redirected(String),
    /// The server says it has another file there.
    #[error("{name}: the server has {stated} bytes, the manifest says {signed}")]
    Length { name: String, stated: u64, signed: u64 },
    /// More came than there can be.
    #[error("{name}: the server sent more than the {signed} bytes the manifest says")]
    TooLong { name: String, signed: u64 },
    /// It came whole, twice, and is not what was signed.
    #[error("{name}: its hash is not the one in the manifest")]
    Hash { name: String },
    /// It would not come.
    #[error("{name}: given up after {TRIES} tries that brought nothing, at {done} of {signed} bytes")]
    GivenUp {
        name: String,
        done: u64,
        signed: u64,
        #[source]
        last: Box<Broken>,
    },
    /// A small document is too large.
    #[error("{0}: larger than allowed, or broken off")]
    Document(String),
}

/// Why one try ended; the next may do better.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("no answer")]
    Connect(#[source] hyper_util::client::legacy::Error),
    #[error("the connection broke")]
    Body(#[source] hyper::Error),
    #[error("the answer ended early")]
    Short,
    #[error("nothing came for {SILENCE:?}")]
    Silent,
    #[error("the server answers {0}")]
    Status(StatusCode),
}

/// Where a release lies.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// Beside this file.
    File(PathBuf),
    /// Beside this address.
    Web(Uri),
}

impl Place {
    pub(crate) fn parse(text: &str) -> Result<Self, FetchError> {
        let address = || FetchError::Address(text.to_owned());
        if !text.contains("://") {
            return Ok(Self::File(PathBuf::from(text)));
        }
        let uri: Uri = text.parse().map_err(|_| address())?;
        let known = matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some();
        if known { Ok(Self::Web(uri)) } else { Err(address()) }
    }

    /// The file of this name beside it.
    fn beside(&self, name: &str) -> Self {
        match self {
            Self::File(path) => Self::File(path.with_file_name(name)),
            Self::Web(uri) => {
                let dir = uri.path().rsplit_once('/').map_or("", |(dir, _)| dir);
                Self::Web(with_path(uri, &format!("{dir}/{name}")).unwrap_or_else(|| uri.clone()))
            }
        }
    }
}

fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// Fetches.
pub(crate) struct Fetcher {
    client: Http,
    /// Bytes per second; `None` as fast as it comes.
    rate: Option<u64>,
}

enum Http {
    Straight(Client<HttpsConnector<HttpConnector>, Empty<Bytes>>),
    /// Every connection is a tunnel through the proxy; TLS is spoken inside it.
    Proxied(Client<HttpsConnector<Tunnel<HttpConnector>>, Empty<Bytes>>),
}

/// A file on its way.
struct Part {
    path: PathBuf,
    file: std::fs::File,
    hasher: Hasher,
    done: u64,
}

impl Part {
    /// Goes on where the last one ended.
    fn open(path: &Path) -> Result<Self, FileError> {
        let opened = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = opened.map_err(io_at(path))?;
        let mut hasher = Hasher::new();
        let done = hash_into(&mut file, &mut hasher, u64::MAX).map_err(io_at(path))?;
        Ok(Self { path: path.to_owned(), file, hasher, done })
    }

    fn tag_path(&self) -> PathBuf {
        self.path.with_extension("tag")
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.file.write_all(bytes).map_err(io_at(&self.path))?;
        self.hasher.update(bytes);
        self.done += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    fn begin_anew(&mut self) -> Result<(), FileError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(io_at(&self.path))?;
        (self.hasher, self.done) = (Hasher::new(), 0);
        files::remove(&self.tag_path())
    }

    fn hash(&self) -> Sha256 {
        Sha256(self.hasher.clone().finalize().into())
    }
}

/// Feeds a reader's bytes to a hasher, at most `most`; how many there were.
pub(crate) fn hash_into(reader: &mut impl io::Read, hasher: &mut Hasher, most: u64) -> io::Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut reader = reader.take(most);
    let mut total = 0;
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(total),
            read => {
                hasher.update(buffer.get(..read).unwrap_or_default());
                total += u64::try_from(read).unwrap_or(u64::MAX);
            }
        }
    }
}

impl Fetcher {
    /// A fetcher; HTTPS servers are held against the authorities in this file, if it is there.
    pub(crate) fn new(authorities: &Path, rate_mbit: Option<u32>, proxy: Option<Proxy>) -> Self {
        let mut roots = RootCertStore::empty();
        if let Ok(certificates) = CertificateDer::pem_file_iter(authorities) {
            roots.add_parsable_certificates(certificates.flatten());
        }
        let config = service::tls_client().with_root_certificates(roots).with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(DIAL));
        let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1();
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_max_idle_per_host(0);
        let client = match proxy.map(|proxy| proxy.to_string().parse::<Uri>()) {
            Some(proxy) => {
                let tunnel = Tunnel::new(proxy.expect("an address and a port are a URI"), tcp);
                Http::Proxied(builder.build(connector.wrap_connector(tunnel)))
            }
            None => Http::Straight(builder.build(connector.wrap_connector(tcp))),
        };
        Self { client, rate: rate_mbit.map(|mbit| u64::from(mbit) * 125_000) }
    }

    /// A small document, whole.
    pub(crate) async fn document(&self, place: &Place, limit: usize) -> Result<Vec<u8>, FetchError> {
        let most = u64::try_from(limit).unwrap_or(u64::MAX);
        let uri = match place {
            Place::File(path) => {
                let missing = io::Error::from(io::ErrorKind::NotFound);
                return Ok(files::get(path, most)?.ok_or_else(|| io_at(path)(missing))?);
            }
            Place::Web(uri) => uri,
        };
        let (mut tries, mut pause) = (0, PAUSE);
        loop {
            tries += 1;
            let broken = match self.ask(uri, &HeaderMap::new()).await? {
                Ok(response) if response.status() == StatusCode::OK => {
                    let body = Limited::new(response.into_body(), limit).collect();
                    return match tokio::time::timeout(SILENCE, body).await {
                        Ok(Ok(body)) => Ok(body.to_bytes().to_vec()),
                        _ => Err(FetchError::Document(uri.to_string())),
                    };
                }
                Ok(response) => Broken::Status(transient(uri, &response)?),
                Err(broken) => broken,
            };
            if tries == TRIES {
                let last = Box::new(broken);
                return Err(FetchError::GivenUp { name: uri.to_string(), done: 0, signed: 0, last });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// A file beside `place`, into `path`, until it is whole and its hash is right; durable on return. `progress` hears how
    /// many bytes there are.
    pub(crate) async fn file(
        &self,
        place: &Place,
        wanted: &Packed,
        path: &Path,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), FetchError> {
        let mut part = Part::open(path)?;
        let (mut failures, mut pause, mut anew) = (0, PAUSE, 0);
        let place = place.beside(&wanted.path);
        loop {
            if part.done > wanted.size {
                part.begin_anew()?;
            }
            if part.done == wanted.size {
                if part.hash() == wanted.sha256 {
                    part.file.sync_all().map_err(io_at(path))?;
                    return Ok(files::remove(&part.tag_path())?);
                }
                // What was there from an earlier time may have been another file's, or the power went while it was
                // written: once more from the beginning.
                anew += 1;
                part.begin_anew()?;
                if anew >= ANEW {
                    return Err(FetchError::Hash { name: wanted.path.clone() });
                }
            }
            let before = part.done;
            let tried = match &place {
                Place::File(source) => copy(source, wanted, &mut part, progress).map(|()| None),
                Place::Web(uri) => self.once(uri, wanted, &mut part, &mut anew, progress).await.map(Some),
            };
            match tried? {
                None if part.done < wanted.size => {
                    let (name, stated, signed) = (wanted.path.clone(), part.done, wanted.size);
                    return Err(FetchError::Length { name, stated, signed });
                }
                None | Some(Ok(())) => {}
                Some(Err(broken)) => {
                    tracing::info!(file = wanted.path, done = part.done, of = wanted.size, reason = %broken, "download broke off");
                    if part.done > before {
                        (failures, pause) = (0, PAUSE);
                    }
                    failures += 1;
                    if failures == TRIES {
                        let (name, done, signed) = (wanted.path.clone(), part.done, wanted.size);
                        return Err(FetchError::GivenUp { name, done, signed, last: Box::new(broken) });
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// One try: as much as comes.
    async fn once(
        &self,
        uri: &Uri,
        wanted: &Packed,
        part: &mut Part,
        anew: &mut u32,
        progress: &mut impl FnMut(u64),
    ) -> Result<Result<(), Broken>, FetchError> {
        let mut headers = HeaderMap::new();
        if part.done > 0 {
            headers.insert(RANGE, format!("bytes={}-", part.done).parse().expect("digits are a header"));
            let tag = files::get(&part.tag_path(), TAG_MAX as u64)?;
            if let Some(tag) = tag.and_then(|tag| tag.as_slice().try_into().ok()) {
                headers.insert(IF_RANGE, tag);
            }
        }
        let response = match self.ask(uri, &headers).await? {
            Ok(response) => response,
            Err(broken) => return Ok(Err(broken)),
        };
        let length = number(&response, CONTENT_LENGTH.as_str());
        let stated = match response.status() {
            StatusCode::OK => {
                if part.done > 0 {
                    tracing::info!(file = wanted.path, "the server begins anew");
                    part.begin_anew()?;
                }
                length
            }
            StatusCode::PARTIAL_CONTENT => match range(&response) {
                Some((start, total)) if start == part.done => total,
                _ => {
                    *anew += 1;
                    part.begin_anew()?;
                    let hash = FetchError::Hash { name: wanted.path.clone() };
                    return if *anew >= ANEW { Err(hash) } else { Ok(Ok(())) };
                }
            },
            StatusCode::RANGE_NOT_SATISFIABLE if part.done > 0 => {
                *anew += 1;
                part.begin_anew()?;
                let hash = FetchError::Hash { name: wanted.path.clone() };
                return if *anew >= ANEW { Err(hash) } else { Ok(Ok(())) };
            }
            _ => return Ok(Err(Broken::Status(transient(uri, &response)?))),
        };
        if let Some(stated) = stated.filter(|stated| *stated != wanted.size) {
            return Err(FetchError::Length { name: wanted.path.clone(), stated, signed: wanted.size });
        }
        remember_tag(&response, part)?;
        self.pour(response.into_body(), wanted, part, progress).await
    }

    /// From the wire to the disk, no faster than allowed.
    async fn pour(
        &self,
        mut body: Incoming,
        wanted: &Packed,
        part: &mut Part,
        progress: &mut impl FnMut(u64),
    ) -> Result<Result<(), Broken>, FetchError> {
        let (begun, from) = (Instant::now(), part.done);
        loop {
            let frame = match tokio::time::timeout(SILENCE, body.frame()).await {
                Err(_) => return Ok(Err(Broken::Silent)),
                Ok(None) if part.done < wanted.size => return Ok(Err(Broken::Short)),
                Ok(None) => return Ok(Ok(())),
                Ok(Some(Err(error))) => return Ok(Err(Broken::Body(error))),
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
            let size = u64::try_from(data.len()).unwrap_or(u64::MAX);
            if size > wanted.size - part.done {
                part.begin_anew()?;
                return Err(FetchError::TooLong { name: wanted.path.clone(), signed: wanted.size });
            }
            part.append(&data)?;
            progress(part.done);
            if let Some(rate) = self.rate {
                let due = Duration::from_secs_f64((part.done - from) as f64 / rate.max(1) as f64);
                tokio::time::sleep_until(begun + due).await;
            }
        }
    }

    /// Asks, and follows redirections.
    async fn ask(&self, uri: &Uri, headers: &HeaderMap) -> Result<Result<Response<Incoming>, Broken>, FetchError> {
        let mut uri = uri.clone();
        for _ in 0..=REDIRECTIONS {
            let mut request = Request::new(Empty::new());
            *request.uri_mut() = uri.clone();
            *request.headers_mut() = headers.clone();
            let answer = match &self.client {
                Http::Straight(client) => client.request(request),
                Http::Proxied(client) => client.request(request),
            };
            let response = match tokio::time::timeout(SILENCE, answer).await {
                Err(_) => return Ok(Err(Broken::Silent)),
                Ok(Err(error)) => return Ok(Err(Broken::Connect(error))),
                Ok(Ok(response)) => response,
            };
            if !response.status().is_redirection() {
                return Ok(Ok(response));
            }
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let next = match to {
                Some(path) if path.starts_with('/') && !path.starts_with("//") => with_path(&uri, path),
                Some(whole) => match Place::parse(whole) {
                    Ok(Place::Web(uri)) => Some(uri),
                    _ => None,
                },
                None => None,
            };
            uri = next.ok_or_else(|| FetchError::Redirected(uri.to_string()))?;
        }
        Err(FetchError::Redirected(uri.to_string()))
    }
}

/// The status, when asking again may bring another.
fn transient(uri: &Uri, response: &Response<Incoming>) -> Result<StatusCode, FetchError> {
    let status = response.status();
    let later =
        status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    if later { Ok(status) } else { Err(FetchError::Status { url: uri.to_string(), status }) }
}

fn number(response: &Response<Incoming>, header: &str) -> Option<u64> {
    response.headers().get(header)?.to_str().ok()?.parse().ok()
}

/// Where a part begins, and how large the whole is, where the server says.
fn range(response: &Response<Incoming>) -> Option<(u64, Option<u64>)> {
    let text = response.headers().get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (span, total) = text.split_once('/')?;
    Some((span.split_once('-')?.0.parse().ok()?, total.parse().ok()))
}

/// A strong tag says that what comes later is of the same file.
fn remember_tag(response: &Response<Incoming>, part: &Part) -> Result<(), FileError> {
    let tag = response.headers().get(ETAG).map(|tag| tag.as_bytes());
    match tag.filter(|tag| tag.starts_with(b"\"") && tag.len() <= TAG_MAX) {
        Some(tag) => files::put(&part.tag_path(), tag, 0o644),
        None => files::remove(&part.tag_path()),
    }
}

/// From a file on this machine, such as a stick.
fn copy(source: &Path, wanted: &Packed, part: &mut Part, progress: &mut impl FnMut(u64)) -> Result<(), FetchError> {
    let mut file = std::fs::File::open(source).map_err(io_at(source))?;
    let stated = file.metadata().map_err(io_at(source))?.len();
    if stated != wanted.size {
        return Err(FetchError::Length { name: wanted.path.clone(), stated, signed: wanted.size });
    }
    file.seek(SeekFrom::Start(part.done)).map_err(io_at(source))?;
    let mut buffer = vec![0; 1 << 20];
    let mut rest = file.take(wanted.size - part.done);
    loop {
        match rest.read(&mut buffer).map_err(io_at(source))? {
            0 => return Ok(()),
            read => part.append(buffer.get(..read).unwrap_or_default())?,
        }
        progress(part.done);
    }
}
