//! Decides where an HTTP/1.1 message ends and whether its head may be read at all: strict RFC 9112 with nothing repaired.
//! Never touches a socket and never guesses: a head that two parsers could read differently is a [`Fault`].
//!
//! hyper drops a `Content-Length` beside a `Transfer-Encoding`, drops a repeated one, takes bare line feeds and answers
//! its own faults without a body, so every head is read here first. Sources: RFC 9112 §2.2, §3, §5, §6.1, §6.3, §7.1.

use http::{StatusCode, Uri};

/// Longest request line in bytes; a longer one is answered with 414.
pub const MAX_REQUEST_LINE: usize = 16 << 10;

/// Empty lines skipped before a request line (RFC 9112 §2.2 asks for at least one).
const MAX_LEADING_EMPTY_LINES: usize = 2;

/// Longest line of a chunk size with its extensions, in bytes.
const MAX_CHUNK_LINE: usize = 1024;

/// Longest trailer section, in bytes.
const MAX_TRAILERS: usize = 16 << 10;

/// Bounds of one request head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of the whole head.
    pub bytes: usize,
    /// Number of header fields.
    pub fields: usize,
}

/// How the body after a head is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// This many bytes follow; 0 when there is no body.
    Length(u64),
    /// Chunks follow.
    Chunked,
}

/// What the bytes at the start of a buffer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// A whole head of `len` bytes.
    Complete {
        /// Bytes up to and with the empty line.
        len: usize,
        /// Framing of the body that follows.
        body: BodyFraming,
    },
    /// The head goes on after the buffer.
    Partial,
}

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request line is not `method SP target SP HTTP/1.x`.
    RequestLine,
    /// The request line is longer than [`MAX_REQUEST_LINE`].
    RequestLineTooLong,
    /// HTTP, but neither 1.0 nor 1.1.
    Version,
    /// A carriage return or line feed that ends no line, or a NUL.
    BareControl,
    /// A header field name is empty or has a byte that is no token character, a space before the colon included.
    FieldName,
    /// A header field value has a control character.
    FieldValue,
    /// A header field is folded over two lines.
    ObsoleteFold,
    /// `Content-Length` is no number, or stands more than once.
    ContentLength,
    /// `Content-Length` and `Transfer-Encoding` stand together.
    LengthAndCoding,
    /// `Transfer-Encoding` is not exactly `chunked`, stands more than once, or is used with HTTP/1.0.
    TransferEncoding,
    /// More bytes than the listener takes.
    HeadTooLarge,
    /// More fields than the listener takes.
    TooManyFields,
    /// The head was not complete within the listener's header timeout.
    HeadTimeout,
    /// The chunked body is malformed.
    Chunk,
    /// A field of HTTP/1.1 connections in HTTP/2 or HTTP/3 (RFC 9113 §8.2.2, RFC 9114 §4.2).
    ConnectionField,
}

impl Fault {
    /// The status that answers this fault.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::RequestLineTooLong => StatusCode::URI_TOO_LONG,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::HeadTooLarge | Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// One sentence for the client.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::RequestLine => "The request line is malformed.",
            Self::RequestLineTooLong => "The request line is too long.",
            Self::Version => "Only HTTP/1.0 and HTTP/1.1 are spoken on this connection.",
            Self::BareControl => "A line of the head does not end with CR LF, or holds a control character.",
            Self::FieldName => "A header field name is malformed.",
            Self::FieldValue => "A header field value holds a control character.",
            Self::ObsoleteFold => "Header fields folded over several lines are not taken.",
            Self::ContentLength => "Content-Length must be one decimal number and stand once.",
            Self::LengthAndCoding => "Content-Length and Transfer-Encoding may not stand together.",
            Self::TransferEncoding => "Transfer-Encoding must be exactly `chunked` and stand once, in HTTP/1.1.",
            Self::HeadTooLarge => "The head of the request is too large.",
            Self::TooManyFields => "The request has too many header fields.",
            Self::HeadTimeout => "The head of the request took too long to arrive.",
            Self::Chunk => "The chunked body is malformed.",
            Self::ConnectionField => "A header field belongs to HTTP/1.1 connections only.",
        }
    }
}

/// Reads one request head from the start of `bytes`. One pass, no allocation.
pub fn read_head(bytes: &[u8], limits: HeadLimits) -> Result<Head, Fault> {
    let start = skip_empty_lines(bytes)?;
    let max_line = MAX_REQUEST_LINE.min(limits.bytes);
    let Some(request_line) = next_line(bytes, start)? else {
        return if bytes.len() - start > max_line { Err(Fault::RequestLineTooLong) } else { Ok(Head::Partial) };
    };
    if request_line.len() > max_line {
        return Err(Fault::RequestLineTooLong);
    }
    let version = check_request_line(request_line)?;
    let mut framing = Framing { version, length: None, chunked: false };
    let mut at = start + request_line.len() + 2;
    let mut fields = 0;
    loop {
        let Some(line) = next_line(bytes, at)? else { return partial(bytes, limits) };
        at += line.len() + 2;
        if at > limits.bytes {
            return Err(Fault::HeadTooLarge);
        }
        if line.is_empty() {
            return Ok(Head::Complete { len: at, body: framing.body() });
        }
        fields += 1;
        if fields > limits.fields {
            return Err(Fault::TooManyFields);
        }
        framing.take_field(line)?;
    }
}

/// Whether a head may end within `bytes`, looking from `from` on: cheap, so that a head sent byte by byte is not read
/// anew for each byte. True also for ends made of bare line feeds, which [`read_head`] then refuses.
pub fn may_end(bytes: &[u8], from: usize) -> bool {
    let tail = &bytes[from.saturating_sub(3)..];
    tail.windows(2).any(|pair| pair == b"\n\n") || tail.windows(3).any(|triple| triple == b"\n\r\n")
}

fn partial(bytes: &[u8], limits: HeadLimits) -> Result<Head, Fault> {
    if bytes.len() > limits.bytes { Err(Fault::HeadTooLarge) } else { Ok(Head::Partial) }
}

fn skip_empty_lines(bytes: &[u8]) -> Result<usize, Fault> {
    let mut start = 0;
    for _ in 0..MAX_LEADING_EMPTY_LINES {
        if bytes[start..].starts_with(b"\r\n") {
            start += 2;
        }
    }
    if bytes[start..].starts_with(b"\r\n") { Err(Fault::RequestLine) } else { Ok(start) }
}

/// The line that starts at `at`, without its CR LF; `None` when its end has not arrived.
fn next_line(bytes: &[u8], at: usize) -> Result<Option<&[u8]>, Fault> {
    let rest = &bytes[at..];
    for (index, &byte) in rest.iter().enumerate() {
        // Every byte a line may hold is above a space, a space or a tab, so this is the common case.
        if byte >= b' ' || byte == b'\t' {
            continue;
        }
        return match (byte, rest.get(index + 1)) {
            (b'\r', None) => Ok(None),
            (b'\r', Some(b'\n')) => Ok(Some(&rest[..index])),
            (b'\r' | b'\n' | 0, _) => Err(Fault::BareControl),
            _ => Err(Fault::FieldValue),
        };
    }
    Ok(None)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

fn check_request_line(line: &[u8]) -> Result<Version, Fault> {
    let mut parts = line.split(|&b| b == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Fault::RequestLine);
    };
    // A fragment is never sent (RFC 9112 §3.2): what follows one would silently be cut off. The others would be refused
    // by hyper without a word.
    let allowed = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'#' | b'<' | b'>' | b'`' | b'"');
    if method.is_empty() || !method.iter().all(|&b| is_token(b)) || target.is_empty() || !target.iter().all(allowed) {
        return Err(Fault::RequestLine);
    }
    if target[0] != b'/' && Uri::try_from(target).is_err() {
        return Err(Fault::RequestLine);
    }
    match version {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Err(Fault::Version)
        }
        _ => Err(Fault::RequestLine),
    }
}

/// The framing fields seen so far in one head.
struct Framing {
    version: Version,
    length: Option<u64>,
    chunked: bool,
}

impl Framing {
    fn take_field(&mut self, line: &[u8]) -> Result<(), Fault> {
        if line[0] == b' ' || line[0] == b'\t' {
            return Err(Fault::ObsoleteFold);
        }
        let colon = line.iter().position(|&b| !is_token(b)).ok_or(Fault::FieldName)?;
        if colon == 0 || line[colon] != b':' {
            return Err(Fault::FieldName);
        }
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if value.contains(&0x7f) {
            return Err(Fault::FieldValue);
        }
        // Only these two lengths can be a framing field.
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => self.take_length(value.trim_ascii()),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.take_coding(value.trim_ascii()),
            _ => Ok(()),
        }
    }

    fn take_length(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.chunked {
            return Err(Fault::LengthAndCoding);
        }
        if self.length.is_some() || value.is_empty() {
            return Err(Fault::ContentLength);
        }
        let mut length: u64 = 0;
        for &byte in value {
            let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0')).ok_or(Fault::ContentLength)?;
            length = length.checked_mul(10).and_then(|l| l.checked_add(digit)).ok_or(Fault::ContentLength)?;
        }
        self.length = Some(length);
        Ok(())
    }

    fn take_coding(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.length.is_some() {
            return Err(Fault::LengthAndCoding);
        }
        if self.chunked || self.version == Version::Http10 || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Fault::TransferEncoding);
        }
        self.chunked = true;
        Ok(())
    }

    fn body(&self) -> BodyFraming {
        if self.chunked { BodyFraming::Chunked } else { BodyFraming::Length(self.length.unwrap_or(0)) }
    }
}

/// Follows a chunked body to its end. Stricter than hyper: a line ends with CR LF only, and no space pads a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    state: ChunkState,
    left: u64,
    line: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkState {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    LastLf,
}

impl Chunks {
    /// At the first byte of a body.
    pub const fn new() -> Self {
        Self { state: ChunkState::Size, left: 0, line: 0 }
    }

    /// Follows `bytes`; returns how many belong to the body and whether the body ended with them.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<(usize, bool), Fault> {
        let mut at = 0;
        while at < bytes.len() {
            if self.state == ChunkState::Data {
                let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                at += taken;
                self.left -= taken as u64;
                if self.left == 0 {
                    self.state = ChunkState::DataCr;
                }
                continue;
            }
            at += 1;
            if self.step(bytes[at - 1])? {
                return Ok((at, true));
            }
        }
        Ok((at, false))
    }

    /// Takes one byte outside chunk data; true when the body ended with it.
    fn step(&mut self, byte: u8) -> Result<bool, Fault> {
        use ChunkState::{Data, DataCr, DataLf, Extension, LastLf, Size, SizeLf, Trailer, TrailerLf, TrailerStart};
        self.line += 1;
        let ended_line = matches!(self.state, SizeLf | DataLf);
        self.state = match (self.state, byte) {
            (Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if self.line <= 16 => {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                self.left = self.left.checked_mul(16).and_then(|l| l.checked_add(digit)).ok_or(Fault::Chunk)?;
                Size
            }
            (Size, b';') if self.line > 1 => Extension,
            (Size, b'\r') if self.line > 1 => SizeLf,
            (Extension, b'\r') => SizeLf,
            (Extension, b'\t' | b' '..=b'~' | 0x80..) if self.line < MAX_CHUNK_LINE => Extension,
            (SizeLf, b'\n') if self.left == 0 => TrailerStart,
            (SizeLf, b'\n') => Data,
            (DataCr, b'\r') => DataLf,
            (DataLf, b'\n') => Size,
            (TrailerStart, b'\r') => LastLf,
            (TrailerStart, b' ' | b'\t') => return Err(Fault::Chunk),
            (Trailer, b'\r') => TrailerLf,
            (TrailerStart | Trailer, b'\t' | b' '..=b'~' | 0x80..) if self.line < MAX_TRAILERS => Trailer,
            (TrailerLf, b'\n') => TrailerStart,
            (LastLf, b'\n') => return Ok(true),
            _ => return Err(Fault::Chunk),
        };
        if ended_line {
            // Trailer lines do not start the count anew: it bounds the whole section.
            self.line = 0;
        }
        Ok(false)
    }
}

const fn is_token(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// RFC 9110 §5.6.2.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let marks = b"!#$%&'*+-.^_`|~";
    let mut index = 0;
    while index < marks.len() {
        table[marks[index] as usize] = true;
        index += 1;
    }
    let mut byte = 0;
    while byte < 256 {
        if (byte as u8).is_ascii_alphanumeric() {
            table[byte] = true;
        }
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 1024, fields: 4 };

    fn check(fields: &str, expected: Result<BodyFraming, Fault>) {
        let head = format!("POST /a HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
        let read = read_head(head.as_bytes(), LIMITS);
        let expected = expected.map(|body| Head::Complete { len: head.len(), body });
        assert_eq!(read, expected, "{fields:?}");
    }

    #[test]
    fn a_body_is_delimited_by_one_unambiguous_field() {
        check("", Ok(BodyFraming::Length(0)));
        check("content-length: 12\r\n", Ok(BodyFraming::Length(12)));
        check("Content-Length:12 \r\n", Ok(BodyFraming::Length(12)));
        check("Transfer-Encoding: Chunked\r\n", Ok(BodyFraming::Chunked));
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        check("content-length: 1\r\ntransfer-encoding: chunked\r\n", Err(Fault::LengthAndCoding));
        check("transfer-encoding: chunked\r\ncontent-length: 1\r\n", Err(Fault::LengthAndCoding));
        check("content-length: 1\r\ncontent-length: 1\r\n", Err(Fault::ContentLength));
        for value in ["", "+1", "-1", "0x1", "1, 1", "1 1", "99999999999999999999"] {
            check(&format!("content-length: {value}\r\n"), Err(Fault::ContentLength));
        }
        for value in ["", "gzip", "gzip, chunked", "chunked, chunked", "chunked;a=b", "xchunked", "\u{b}chunked"] {
            let fault = if value.starts_with('\u{b}') { Fault::FieldValue } else { Fault::TransferEncoding };
            check(&format!("transfer-encoding: {value}\r\n"), Err(fault));
        }
        check("transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n", Err(Fault::TransferEncoding));
        check("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", Err(Fault::TransferEncoding));
    }

    #[test]
    fn malformed_fields_are_refused() {
        check("a : b\r\n", Err(Fault::FieldName));
        check(": b\r\n", Err(Fault::FieldName));
        check("a\r\n", Err(Fault::FieldName));
        check("a\u{e9}: b\r\n", Err(Fault::FieldName));
        check("a: b\r\n c\r\n", Err(Fault::ObsoleteFold));
        check("a: b\n", Err(Fault::BareControl));
        check("a: b\rc\r\n", Err(Fault::BareControl));
        check("a: b\0\r\n", Err(Fault::BareControl));
        check("a: \u{1}\r\n", Err(Fault::FieldValue));
        check("a: \u{7f}\r\n", Err(Fault::FieldValue));
        check("a: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\n", Err(Fault::TooManyFields));
        check(&format!("a: {}\r\n", "x".repeat(1024)), Err(Fault::HeadTooLarge));
    }

    #[test]
    fn malformed_request_lines_are_refused() {
        let check = |line: &str, expected| {
            assert_eq!(read_head(format!("{line}\r\n\r\n").as_bytes(), LIMITS).map(|_| ()), expected, "{line:?}");
        };
        check("GET / HTTP/1.1", Ok(()));
        check("GET  / HTTP/1.1", Err(Fault::RequestLine));
        check("GET / HTTP/1.1 ", Err(Fault::RequestLine));
        check(" GET / HTTP/1.1", Err(Fault::RequestLine));
        check("GET\t/\tHTTP/1.1", Err(Fault::RequestLine));
        check("G{T / HTTP/1.1", Err(Fault::RequestLine));
        check("GET /", Err(Fault::RequestLine));
        check("GET /a#b HTTP/1.1", Err(Fault::RequestLine));
        check("GET http:// HTTP/1.1", Err(Fault::RequestLine));
        check("GET http://a.test/b HTTP/1.1", Ok(()));
        check("OPTIONS * HTTP/1.1", Ok(()));
        check("GET /\u{e9} HTTP/1.1", Err(Fault::RequestLine));
        check("GET / HTTP/2.0", Err(Fault::Version));
        check("GET / http/1.1", Err(Fault::RequestLine));
        check("\r\nGET / HTTP/1.1", Ok(()));
        check("\r\n\r\n\r\nGET / HTTP/1.1", Err(Fault::RequestLine));
        check("\nGET / HTTP/1.1", Err(Fault::BareControl));
    }

    #[test]
    fn transfer_encoding_is_refused_in_http_1_0() {
        let head = b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(read_head(head, LIMITS), Err(Fault::TransferEncoding));
    }

    #[test]
    fn every_prefix_of_a_head_is_partial() {
        let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(read_head(&head[..end], LIMITS), Ok(Head::Partial), "{end}");
            assert!(!may_end(&head[..end], 0), "{end}");
        }
        assert!(may_end(head, head.len() - 1));
    }

    fn follow_in_pieces(body: &[u8], piece: usize) -> Result<(usize, bool), Fault> {
        let (mut chunks, mut total) = (Chunks::new(), 0);
        for part in body.chunks(piece) {
            let (taken, ended) = chunks.follow(part)?;
            total += taken;
            if ended {
                return Ok((total, true));
            }
        }
        Ok((total, false))
    }

    #[test]
    fn a_chunked_body_ends_at_the_same_byte_however_it_is_cut() {
        let body = b"5;a=b\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nx: y\r\nz: w\r\n\r\nGET /";
        for piece in 1..body.len() {
            assert_eq!(follow_in_pieces(body, piece), Ok((body.len() - 5, true)), "{piece}");
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for body in [
            "\r\n",
            ";a\r\n",
            "5 \r\nhello",
            "5\nhello",
            "5\r\nhelloX",
            "5\r\nhello\n",
            "+5\r\n",
            "0x5\r\n",
            "00000000000000005\r\n",
            "0\r\n x\r\n\r\n",
            "0\r\nx: y\n\r\n",
            "5;\n\r\n",
            "g\r\n",
        ] {
            assert_eq!(follow_in_pieces(body.as_bytes(), 3), Err(Fault::Chunk), "{body:?}");
        }
    }

    const FRAGMENTS: [&str; 16] = [
        "GET / HTTP/1.1\r\n",
        "POST /a HTTP/1.0\r\n",
        "host: a\r\n",
        "content-length: 3\r\n",
        "transfer-encoding: chunked\r\n",
        "Transfer-Encoding:gzip\r\n",
        "\r\n",
        "\n",
        "\r",
        " ",
        "\t",
        ":",
        "x",
        "\0",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
    ];

    fn message() -> impl proptest::strategy::Strategy<Value = String> {
        use proptest::prelude::Strategy as _;
        proptest::collection::vec(proptest::sample::select(&FRAGMENTS[..]), 0..12).prop_map(|parts| parts.concat())
    }

    proptest::proptest! {
        #[test]
        fn how_a_head_is_cut_changes_nothing(text in message()) {
            let bytes = text.as_bytes();
            let whole = read_head(bytes, LIMITS);
            for end in 0..bytes.len() {
                let part = read_head(&bytes[..end], LIMITS);
                match whole {
                    Ok(Head::Complete { len, .. }) if end >= len => proptest::prop_assert_eq!(part, whole),
                    Ok(_) => proptest::prop_assert_eq!(part, Ok(Head::Partial)),
                    Err(fault) => proptest::prop_assert!(part == Ok(Head::Partial) || part == Err(fault)),
                }
            }
            if let Ok(Head::Complete { len, .. }) = whole {
                proptest::prop_assert!(may_end(&bytes[..len], len - 1), "the end of a whole head is never overlooked");
            }
        }

        #[test]
        fn how_a_chunked_body_is_cut_changes_nothing(text in message()) {
            let whole = Chunks::new().follow(text.as_bytes());
            for piece in 1..=text.len() {
                let ended = |result: &Result<(usize, bool), Fault>| result.map(|(taken, ended)| ended.then_some(taken));
                proptest::prop_assert_eq!(ended(&follow_in_pieces(text.as_bytes(), piece)), ended(&whole));
            }
        }
    }
}
