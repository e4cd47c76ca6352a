//! Renditions that go to the gateway's own object store, by the form with which browsers upload.
//!
//! Walk 1, step 10. The gateway signed a policy that lets its holder write below a prefix for some time; we fill in
//! the form, field by field as its policy demands. We hold no credentials, and keep none.
//!
//! *Source:* livepeer-wire §4.1; AWS signature version 4, "browser-based uploads using POST".
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::Frame;
use livepeer::wire::net;
use net::os_info::StorageType;
use rand::RngCore;
use tokio::time::Instant;

use crate::outbound::{NamedBy, Outbound, OutboundError, Version};

/// How long one upload may take at most.
const UPLOAD: Duration = Duration::from_secs(10);
/// Longest value of a form field.
const MAX_FIELD: usize = 16 * 1024;
/// How much of a store's refusal is read, for our log.
const MAX_ANSWER: usize = 4 * 1024;

/// Why a rendition is not in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What the gateway says of its store makes no sense.
    #[error("object store's {0} makes no sense")]
    Malformed(&'static str),
    /// The store could not be reached.
    #[error("object store cannot be reached")]
    Outbound(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store refused.
    #[error("object store answered {status}: {text}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// What it said.
        text: String,
    },
}

impl From<OutboundError> for StoreError {
    fn from(error: OutboundError) -> Self {
        Self::Outbound(Box::new(error))
    }
}

/// A file to be stored.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    /// Below the store's prefix.
    pub(crate) directory: String,
    /// In that directory.
    pub(crate) file: String,
    pub(crate) media_type: &'static str,
    pub(crate) media: Bytes,
}

/// Is this an object store of a kind we know?
pub(crate) fn is_external(storage: &net::OsInfo) -> bool {
    storage.storage_type() != StorageType::Direct
}

/// Stores a file; the URL under which the gateway will find it.
///
/// # Errors
/// [`StoreError`], also when the time is over.
pub(crate) async fn store(
    outbound: &Outbound,
    storage: &net::OsInfo,
    upload: &Upload,
    deadline: Instant,
) -> Result<String, StoreError> {
    let info = storage.s3info.as_ref().ok_or(StoreError::Malformed("information"))?;
    let host = info.host.trim_end_matches('/');
    let uri: Uri = host.parse().map_err(|_| StoreError::Malformed("host"))?;
    let directory = join(&info.key, &upload.directory)?;
    let form = Form::new(&fields(storage.storage_type(), info, &directory, upload.media_type), upload)?;
    let until = deadline.min(Instant::now() + UPLOAD);
    let sent = tokio::time::timeout_at(until, send(outbound, uri, form)).await;
    sent.unwrap_or(Err(OutboundError::Timeout.into()))?;
    Ok(format!("{host}/{}", escape(&format!("{directory}/{}", upload.file))))
}

async fn send(outbound: &Outbound, uri: Uri, form: Form) -> Result<(), StoreError> {
    let outbound_error = |error: http::Error| StoreError::from(OutboundError::from(error));
    let frames = form.parts.map(|part| Ok::<_, std::convert::Infallible>(Frame::data(part)));
    let request = Request::post(uri)
        .header(header::CONTENT_TYPE, form.content_type)
        .header(header::CONTENT_LENGTH, form.length)
        .body(StreamBody::new(stream::iter(frames)))
        .map_err(outbound_error)?;
    let answer = outbound.send(request, NamedBy::PeerForKeeps, Version::Http1).await?;
    let status = answer.response.status();
    if status.is_success() {
        return Ok(());
    }
    let body = Limited::new(answer.response.into_body(), MAX_ANSWER).collect().await;
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
    Err(StoreError::Refused { status, text: text.chars().filter(|c| !c.is_control()).collect() })
}

/// The form's fields. The policy names each of them, and none but them.
fn fields<'a>(
    kind: StorageType,
    info: &'a net::S3osInfo,
    directory: &str,
    media_type: &'static str,
) -> Vec<(&'static str, std::borrow::Cow<'a, str>)> {
    let mut fields = vec![
        ("acl", "public-read".into()),
        ("Content-Type", media_type.into()),
        // The store puts the name of the file in place of the variable.
        ("key", format!("{directory}/${{filename}}").into()),
        ("policy", info.policy.as_str().into()),
    ];
    if kind == StorageType::Google {
        fields.push(("GoogleAccessId", info.credential.as_str().into()));
        fields.push(("signature", info.signature.as_str().into()));
    } else {
        fields.push(("x-amz-algorithm", "AWS4-HMAC-SHA256".into()));
        fields.push(("x-amz-credential", info.credential.as_str().into()));
        fields.push(("x-amz-date", info.x_amz_date.as_str().into()));
        fields.push(("x-amz-signature", info.signature.as_str().into()));
    }
    fields
}

/// A `multipart/form-data` body around a file that is not copied.
#[derive(Debug)]
struct Form {
    content_type: String,
    length: u64,
    parts: [Bytes; 3],
}

impl Form {
    fn new(fields: &[(&'static str, std::borrow::Cow<'_, str>)], upload: &Upload) -> Result<Self, StoreError> {
        let mut random = [0; 16];
        rand::rngs::OsRng.fill_bytes(&mut random);
        // Nobody can know it beforehand, so nobody can write it into a field or a file.
        let boundary = hex::encode(random);
        let mut head = String::new();
        for (name, value) in fields {
            if value.len() > MAX_FIELD {
                return Err(StoreError::Malformed(name));
            }
            head.push_str(&format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            ));
        }
        let Upload { file, media_type, media, .. } = upload;
        head.push_str(&format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{file}\"\r\n\
             Content-Type: {media_type}\r\n\r\n"
        ));
        let parts = [Bytes::from(head), media.clone(), Bytes::from(format!("\r\n--{boundary}--\r\n"))];
        let length = parts.iter().map(Bytes::len).sum::<usize>();
        let length = u64::try_from(length).map_err(|_| StoreError::Malformed("file"))?;
        Ok(Self { content_type: format!("multipart/form-data; boundary={boundary}"), length, parts })
    }
}

/// The directory below the prefix. What would leave it again is refused.
fn join(prefix: &str, directory: &str) -> Result<String, StoreError> {
    let whole = format!("{prefix}/{directory}");
    let steps: Vec<&str> = whole.split('/').filter(|step| !step.is_empty() && *step != ".").collect();
    if steps.contains(&"..") || whole.chars().any(char::is_control) {
        return Err(StoreError::Malformed("key"));
    }
    Ok(steps.join("/"))
}

/// A name that is one step of a path and nothing else, whatever it was.
pub(crate) fn step(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let step: String = name.chars().map(plain).collect();
    if step.trim_matches('.').is_empty() { "_".to_owned() } else { step }
}

/// Percent-encodes what has no place in the path of a URL.
fn escape(path: &str) -> String {
    path.bytes().fold(String::with_capacity(path.len()), |mut escaped, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_prefix() {
        assert_eq!(join("prefix/stream", "240p").unwrap(), "prefix/stream/240p");
        assert_eq!(join("/prefix//", "240p").unwrap(), "prefix/240p");
        assert_eq!(join("", "240p").unwrap(), "240p");
        assert!(join("prefix/../other", "240p").is_err() && join("a\r\nb", "c").is_err());
        assert_eq!(
            (step("../.."), step("P240p30fps16x9"), step("..")),
            (".._..".into(), "P240p30fps16x9".into(), "_".into())
        );
        assert!(join("prefix", &step("../../etc")).unwrap().starts_with("prefix/"));
        assert_eq!(escape("a b/ü.ts"), "a%20b/%C3%BC.ts");
    }

    #[test]
    fn the_form_is_as_long_as_it_says() {
        let media = Bytes::from_static(b"media");
        let upload = Upload { directory: "240p".into(), file: "7.ts".into(), media_type: "video/mp2t", media };
        let form = Form::new(&[("acl", "public-read".into())], &upload).unwrap();
        let whole = form.parts.concat();
        assert_eq!(u64::try_from(whole.len()).unwrap(), form.length);
        let boundary = form.content_type.split_once("boundary=").unwrap().1;
        let text = String::from_utf8(whole).unwrap();
        assert_eq!(text.matches(boundary).count(), 3);
        assert!(text.ends_with(&format!("media\r\n--{boundary}--\r\n")));
    }
}
