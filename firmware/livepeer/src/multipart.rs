//! What a remote transcoder posts: `multipart/mixed`, written without copying media, read piece by piece.
//!
//! Pure: bytes go in, pieces come out. The reader holds no more than a part's head and the end of the last
//! piece, whatever the sender claims, and takes nothing but what the network's own clients write: no preamble,
//! no folded headers. A part that states its length is taken at its word, and must then end there.
//!
//! *Source:* livepeer-wire §4.6, RFC 2046 §5.1.
use bytes::{Buf, Bytes, BytesMut};

/// Media type of a result.
pub const MIXED: &str = "multipart/mixed";
/// Media type of the text that stands in for a result.
pub const ERROR: &str = "livepeer/transcoding-error";
/// Media type of a perceptual hash.
pub const SIGNATURE: &str = "application/octet-stream";

/// Longest boundary, by RFC 2046.
const MAX_BOUNDARY: usize = 70;
/// Largest head of a part.
const MAX_HEAD: usize = 4096;

/// What a part says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartHead {
    /// Its `Content-Type`; empty when it has none.
    pub content_type: String,
    /// Its `Content-Length`, if it states one.
    pub length: Option<u64>,
    /// Its `Pixels`: encoded pixels of a rendition.
    pub pixels: Option<u64>,
}

/// What a reader has to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A part begins.
    Head(PartHead),
    /// Bytes of the part that began last.
    Data(Bytes),
    /// The part is whole.
    PartEnd,
    /// The last part was whole; whatever follows is of no interest.
    End,
}

/// Why a body is not what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MultipartError {
    /// No boundary, or one that cannot be.
    #[error("multipart: boundary is absent or malformed")]
    Boundary,
    /// Something else stands where a boundary must be.
    #[error("multipart: boundary expected")]
    NoBoundary,
    /// A part's head is too large.
    #[error("multipart: part header is too large")]
    HeadTooLarge,
    /// A part's head cannot be read.
    #[error("multipart: malformed part header")]
    Head,
    /// The body ended before its last boundary.
    #[error("multipart: unexpected end of body")]
    Truncated,
}

/// The boundary named by a `Content-Type` of `multipart/mixed`; `None` for any other type.
///
/// # Errors
/// [`MultipartError::Boundary`] when it names none, or one that cannot be.
pub fn boundary_of(content_type: &str) -> Option<Result<String, MultipartError>> {
    let mut fields = content_type.split(';').map(str::trim);
    if !fields.next()?.eq_ignore_ascii_case(MIXED) {
        return None;
    }
    let named = fields.find_map(|field| {
        let (name, value) = field.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"').to_owned())
    });
    Some(named.filter(|boundary| is_boundary(boundary)).ok_or(MultipartError::Boundary))
}

fn is_boundary(text: &str) -> bool {
    (1..=MAX_BOUNDARY).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte))
}

/// The pieces of a body with these parts, in order; the media among them are not copied.
///
/// `boundary` must not occur in the media: 128 random bits do not.
#[must_use]
pub fn write(boundary: &str, parts: &[(PartHead, Bytes)]) -> Vec<Bytes> {
    let mut pieces = Vec::with_capacity(parts.len() * 2 + 1);
    let mut between = "";
    for (head, media) in parts {
        let mut text = format!("{between}--{boundary}\r\nContent-Length: {}\r\n", media.len());
        text.push_str(&format!("Content-Type: {}\r\n", head.content_type));
        if let Some(pixels) = head.pixels {
            text.push_str(&format!("Pixels: {pixels}\r\n"));
        }
        text.push_str("\r\n");
        pieces.push(Bytes::from(text));
        pieces.push(media.clone());
        between = "\r\n";
    }
    pieces.push(Bytes::from(format!("{between}--{boundary}--\r\n")));
    pieces
}

/// Reads a body piece by piece.
#[derive(Debug)]
pub struct Reader {
    /// CR, LF, two dashes and the boundary: what ends a part.
    delimiter: Vec<u8>,
    held: BytesMut,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first boundary.
    Start,
    /// Behind a boundary: another part follows, or nothing.
    Behind,
    /// In a part's head.
    Head,
    /// In a part that has so many bytes left.
    Counted(u64),
    /// In a part that ends at the next boundary.
    Open,
    /// Behind the last boundary.
    End,
}

impl Reader {
    /// A reader of a body with this boundary.
    ///
    /// # Errors
    /// [`MultipartError::Boundary`] when it cannot be one.
    pub fn new(boundary: &str) -> Result<Self, MultipartError> {
        if !is_boundary(boundary) {
            return Err(MultipartError::Boundary);
        }
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        Ok(Self { delimiter, held: BytesMut::new(), state: State::Start })
    }

    /// Takes the next bytes of the body. Call [`piece`](Self::piece) until it has no more before the next ones.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.state != State::End {
            self.held.extend_from_slice(bytes);
        }
    }

    /// The next piece, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`MultipartError`] when the body is not what it says; nothing more can be read then.
    pub fn piece(&mut self) -> Result<Option<Piece>, MultipartError> {
        loop {
            match self.state {
                State::Start => {
                    let first = self.delimiter.len() - 2;
                    if !self.begins_with_delimiter(2)? {
                        return Ok(None);
                    }
                    self.held.advance(first);
                    self.state = State::Behind;
                }
                State::Behind => match self.held.get(..2) {
                    None => return Ok(None),
                    Some(b"--") => {
                        self.state = State::End;
                        self.held.clear();
                        return Ok(Some(Piece::End));
                    }
                    // The CRLF stays: a head without a line is then an empty line like any other.
                    Some(b"\r\n") => self.state = State::Head,
                    Some(_) => return Err(MultipartError::NoBoundary),
                },
                State::Head => {
                    let Some(end) = find(self.held.get(..).unwrap_or_default(), b"\r\n\r\n") else {
                        let all = self.held.len();
                        return if all > MAX_HEAD { Err(MultipartError::HeadTooLarge) } else { Ok(None) };
                    };
                    if end > MAX_HEAD {
                        return Err(MultipartError::HeadTooLarge);
                    }
                    let head = parse_head(&self.held.split_to(end))?;
                    self.held.advance(4);
                    self.state = head.length.map_or(State::Open, State::Counted);
                    return Ok(Some(Piece::Head(head)));
                }
                State::Counted(0) => {
                    if !self.begins_with_delimiter(0)? {
                        return Ok(None);
                    }
                    return Ok(Some(self.end_part()));
                }
                State::Counted(left) => {
                    let some = self.held.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    if some == 0 {
                        return Ok(None);
                    }
                    self.state = State::Counted(left.saturating_sub(u64::try_from(some).unwrap_or(u64::MAX)));
                    return Ok(Some(Piece::Data(self.held.split_to(some).freeze())));
                }
                State::Open => {
                    let end = find(&self.held, &self.delimiter);
                    // What may be the beginning of the boundary stays.
                    let some = end.unwrap_or_else(|| self.held.len().saturating_sub(self.delimiter.len() - 1));
                    if some > 0 {
                        return Ok(Some(Piece::Data(self.held.split_to(some).freeze())));
                    }
                    return Ok(end.map(|_| self.end_part()));
                }
                State::End => return Ok(None),
            }
        }
    }

    /// The body has ended: was it whole?
    ///
    /// # Errors
    /// [`MultipartError::Truncated`] when it was not.
    pub fn finish(&self) -> Result<(), MultipartError> {
        if self.state == State::End { Ok(()) } else { Err(MultipartError::Truncated) }
    }

    fn end_part(&mut self) -> Piece {
        self.held.advance(self.delimiter.len());
        self.state = State::Behind;
        Piece::PartEnd
    }

    /// Does the delimiter, from this byte on, stand at the front? `false` when that is not known yet.
    fn begins_with_delimiter(&self, from: usize) -> Result<bool, MultipartError> {
        let wanted = self.delimiter.get(from..).unwrap_or_default();
        let known = self.held.len().min(wanted.len());
        if self.held.get(..known) == wanted.get(..known) {
            Ok(known == wanted.len())
        } else {
            Err(MultipartError::NoBoundary)
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = *wanted.first()?;
    let mut from = 0;
    loop {
        let rest = bytes.get(from..)?;
        let at = from + rest.iter().position(|byte| *byte == first)?;
        if bytes.get(at..)?.starts_with(wanted) {
            return Some(at);
        }
        from = at + 1;
    }
}

/// Reads the lines of a head: a line break, then `Name: value` with line breaks between.
fn parse_head(head: &[u8]) -> Result<PartHead, MultipartError> {
    let text = std::str::from_utf8(head).map_err(|_| MultipartError::Head)?;
    let mut parsed = PartHead::default();
    for line in text.split("\r\n").filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or(MultipartError::Head)?;
        let value = value.trim();
        let number = || value.parse::<u64>().map_err(|_| MultipartError::Head);
        match name.to_ascii_lowercase().as_str() {
            "content-type" => value.clone_into(&mut parsed.content_type),
            "content-length" => parsed.length = Some(number()?),
            "pixels" if !value.is_empty() => parsed.pixels = Some(number()?),
            _ => {}
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests;
