//! Streams bodies both ways, frame by frame, so that the slower side sets the pace; trailers pass through.
//!
//! Trailers reach a peer over HTTP/1.1 only if the `Trailer` field of the head named them: hyper writes no others, and
//! what will follow a body cannot be known before it. Over HTTP/2 and HTTP/3 all of them arrive.
//!
//! Never buffers a body. A request body is read by at most one attempt: once a frame of it was taken it cannot be sent
//! again, and [`Upload`] knows. Its size limit is counted here, on the frames, whatever the client declared.

use std::{
    cell::{Cell, RefCell},
    fmt,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::{
    account::Account,
    head::{clean_reply_trailers, clean_trailers},
    http3::Http3Body,
    upstream::Lease,
};

/// A request body as it comes from a client.
#[derive(Debug)]
pub enum ClientBody {
    /// There is none.
    Empty,
    /// Over HTTP/1.1 or HTTP/2.
    Hyper(Incoming),
    /// Over HTTP/3.
    Http3(Box<Http3Body>),
}

/// Why a body broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The request body is larger than allowed.
    #[error("the request body is larger than allowed")]
    TooLarge,
    /// The client broke off, or its framing is malformed.
    #[error("the client broke off its body")]
    Client,
    /// The upstream broke off, or its framing is malformed.
    #[error("the upstream broke off its body")]
    Upstream,
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Hyper(body) => Pin::new(body).poll_frame(cx).map_err(|_| BodyError::Client),
            Self::Http3(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Hyper(body) => body.is_end_stream(),
            Self::Http3(body) => body.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Hyper(body) => body.size_hint(),
            Self::Http3(body) => body.size_hint(),
        }
    }
}

/// A request body on its way to whichever attempt reads it.
#[derive(Debug)]
pub struct Upload {
    body: RefCell<ClientBody>,
    left: Cell<u64>,
    taken: Cell<u64>,
    state: Cell<UploadState>,
    /// The last read of it found nothing.
    starved: Cell<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UploadState {
    Untouched,
    Reading,
    Ended,
    Failed(BodyError),
}

impl Upload {
    /// Limits `body` to `max` bytes; `None` when there is nothing to send.
    pub fn new(body: ClientBody, max: u64) -> Option<Rc<Self>> {
        if body.is_end_stream() {
            return None;
        }
        let state = Cell::new(UploadState::Untouched);
        let (left, taken) = (Cell::new(max), Cell::new(0));
        Some(Rc::new(Self { body: RefCell::new(body), left, taken, state, starved: Cell::new(false) }))
    }

    /// Whether an attempt could still send the whole body.
    pub fn is_untouched(&self) -> bool {
        self.state.get() == UploadState::Untouched
    }

    /// Why reading it failed, if it did.
    pub fn failure(&self) -> Option<BodyError> {
        if let UploadState::Failed(error) = self.state.get() { Some(error) } else { None }
    }

    /// Whether the exchange waits for the client to send more, rather than for the upstream to take it.
    pub fn is_waiting(&self) -> bool {
        self.state.get() == UploadState::Reading && self.starved.get()
    }

    /// Whether an exchange that failed, by a timeout or otherwise, failed for the client's sake.
    pub fn failed_exchange(&self, timed_out: bool) -> bool {
        self.failure().is_some() || (timed_out && self.is_waiting())
    }

    /// Bytes read.
    pub fn received(&self) -> u64 {
        self.taken.get()
    }

    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let UploadState::Untouched = self.state.get() {
            self.state.set(UploadState::Reading);
        }
        let mut polled = Pin::new(&mut *self.body.borrow_mut()).poll_frame(cx);
        self.starved.set(polled.is_pending());
        match &mut polled {
            Poll::Pending => {}
            Poll::Ready(None) => self.state.set(UploadState::Ended),
            Poll::Ready(Some(Err(error))) => self.state.set(UploadState::Failed(*error)),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    clean_trailers(trailers);
                }
                let len = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.taken.set(self.taken.get() + len);
                let Some(left) = self.left.get().checked_sub(len) else {
                    self.state.set(UploadState::Failed(BodyError::TooLarge));
                    return Poll::Ready(Some(Err(BodyError::TooLarge)));
                };
                self.left.set(left);
            }
        }
        polled
    }
}

/// The body of one attempt: none, or the shared upload.
#[derive(Clone, Debug)]
pub struct AttemptBody(pub Option<Rc<Upload>>);

impl Body for AttemptBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0.as_ref().map_or(Poll::Ready(None), |upload| upload.poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|upload| upload.body.borrow().is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), |upload| upload.body.borrow().size_hint())
    }
}

/// A response body: the gateway's own, or an upstream's with the connection it arrives on. Ends the request's account
/// when it ends or is dropped.
pub struct ReplyBody {
    source: ReplySource,
    account: Account,
}

enum ReplySource {
    Own(Option<Bytes>),
    Upstream(Incoming, Option<Lease>),
}

impl ReplyBody {
    /// A body made by the gateway.
    pub fn own(bytes: Bytes, account: Account) -> Self {
        Self::new(ReplySource::Own(Some(bytes).filter(|bytes| !bytes.is_empty())), account)
    }

    /// A body that arrives over `lease`, which goes back to its pool when the body has ended.
    pub fn upstream(body: Incoming, lease: Lease, account: Account) -> Self {
        Self::new(ReplySource::Upstream(body, Some(lease)), account)
    }

    fn new(source: ReplySource, account: Account) -> Self {
        let mut reply = Self { source, account };
        if reply.is_end_stream() {
            reply.finish();
        }
        reply
    }

    /// Gives the connection back: nothing more arrives on it.
    fn finish(&mut self) {
        self.account.complete();
        if let ReplySource::Upstream(_, lease) = &mut self.source
            && let Some(lease) = lease.take()
        {
            lease.give_back();
        }
    }
}

impl fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyBody").finish_non_exhaustive()
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut polled = match &mut this.source {
            ReplySource::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            ReplySource::Upstream(body, _) => Pin::new(body).poll_frame(cx).map_err(|_| BodyError::Upstream),
        };
        match &mut polled {
            Poll::Pending => this.account.took(),
            Poll::Ready(Some(Err(_))) => {
                if let ReplySource::Upstream(_, Some(lease)) = &this.source {
                    lease.broke();
                }
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    clean_reply_trailers(trailers);
                }
                this.account.count_sent(frame.data_ref().map_or(0, |data| data.len() as u64));
                this.account.gave();
                if frame.is_trailers() || this.is_end_stream() {
                    this.finish();
                }
            }
            Poll::Ready(None) => this.finish(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            ReplySource::Own(bytes) => bytes.is_none(),
            ReplySource::Upstream(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            ReplySource::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            ReplySource::Upstream(body, _) => body.size_hint(),
        }
    }
}
