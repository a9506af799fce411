//! Decides which bytes of an HTTP/1.1 connection hyper may see: whole heads that [`framing`](crate::framing) found sound,
//! and the bodies between them. In place of a refused head hyper gets a harmless stand-in, and the request function
//! answers that one with the problem, in order and in one place. Also keeps the header and idle timeouts.
//!
//! Never writes to the connection. Heads that arrive in one read are checked where they lie, without a copy.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use crate::{
    framing::{BodyFraming, Chunks, Fault, Head, HeadLimits, may_end, read_head},
    gather::poll_write_gathered,
};

/// What stands in for a refused head. It asks for nothing and ends the connection.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

/// How long a closed connection is read on, and how much, so that the client can take its answer.
const MAX_LINGER: Duration = Duration::from_secs(1);
const MAX_DISCARD: usize = 1 << 20;

/// Bounds of one connection.
#[derive(Clone, Copy, Debug)]
pub struct GuardLimits {
    /// Bounds of each head.
    pub head: HeadLimits,
    /// Longest time from the first byte of a head (for the first head: from the start) to its last.
    pub header_timeout: Duration,
    /// Longest time without a request.
    pub idle_timeout: Duration,
}

/// What the guard and the request function of one connection tell each other.
#[derive(Debug, Default)]
pub struct Exchange {
    /// Requests whose response is not finished.
    pub active: Cell<u32>,
    /// Requests hyper handed over so far.
    pub served: Cell<u64>,
    heads: Cell<u64>,
    unread: RefCell<Vec<(u64, u64)>>,
    refused: Cell<Option<(u64, Fault)>>,
}

impl Exchange {
    /// Notes that a part of the response to a request was given to its connection at `tick`, which has not asked for
    /// more since.
    pub fn gave(&self, request: u64, tick: u64) {
        let mut unread = self.unread.borrow_mut();
        match unread.iter_mut().find(|(waiting, _)| *waiting == request) {
            Some((_, since)) => *since = tick,
            None => unread.push((request, tick)),
        }
    }

    /// Notes that the connection asked for more than there is, or that the response has ended.
    pub fn took(&self, request: u64) {
        self.unread.borrow_mut().retain(|(waiting, _)| *waiting != request);
    }

    /// Since which tick a client has taken nothing of a response, of the one that it left for the longest time.
    pub fn unread_since(&self) -> Option<u64> {
        self.unread.borrow().iter().map(|&(_, since)| since).min()
    }

    /// Counts a request that hyper handed over; `Some` when it is the stand-in for a refused one.
    pub fn begin_request(&self) -> Option<Fault> {
        let number = self.served.get() + 1;
        self.served.set(number);
        self.refused.get().and_then(|(refused, fault)| (refused == number).then_some(fault))
    }
}

/// A connection whose reads are guarded.
#[derive(Debug)]
pub struct Guarded<S> {
    inner: S,
    limits: GuardLimits,
    exchange: Rc<Exchange>,
    stage: Stage,
    /// Bytes of a head that is not complete.
    held: Vec<u8>,
    /// Checked bytes that hyper has not taken, and how many of them it took.
    ready: Vec<u8>,
    taken: usize,
    timer: Pin<Box<Sleep>>,
    timer_runs: bool,
    /// The client has sent its last byte.
    ended: bool,
    /// The connection was shut down and only waits for the client to end it.
    lingers: bool,
    /// Bytes thrown away since then.
    discarded: usize,
    /// What `heads` was when the timer was set, to see whether a request came since.
    heads_at_timer: u64,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Head,
    Body(u64),
    Chunked(Chunks),
    /// A head was refused: nothing after it is read.
    Refused,
    /// A body is malformed: what came before it is handed over, then its reader gets an error.
    Broken,
}

/// What follows the bytes that may be handed over.
enum Rest {
    /// Nothing.
    Nothing,
    /// The start of a head.
    PartialHead,
    /// A head that is refused.
    Refused(Fault),
}

impl<S> Guarded<S> {
    /// Guards `inner` from its first byte.
    pub fn new(inner: S, limits: GuardLimits, exchange: Rc<Exchange>) -> Self {
        Self {
            inner,
            limits,
            exchange,
            stage: Stage::Head,
            held: Vec::new(),
            ready: Vec::new(),
            taken: 0,
            timer: Box::pin(sleep(limits.header_timeout)),
            timer_runs: false,
            ended: false,
            lingers: false,
            discarded: 0,
            heads_at_timer: 0,
        }
    }

    /// Follows `bytes` through heads and bodies; returns how many may be handed over and what the rest is.
    fn follow(&mut self, bytes: &[u8]) -> (usize, Rest) {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match &mut self.stage {
                Stage::Refused | Stage::Broken => return (at, Rest::Nothing),
                Stage::Body(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    at += taken;
                    *left -= taken as u64;
                    if *left == 0 {
                        self.stage = Stage::Head;
                    }
                }
                Stage::Chunked(chunks) => match chunks.follow(rest) {
                    Ok((taken, ended)) => {
                        at += taken;
                        if ended {
                            self.stage = Stage::Head;
                        }
                    }
                    Err(_) => {
                        self.stage = Stage::Broken;
                        return (at, Rest::Nothing);
                    }
                },
                Stage::Head => match read_head(rest, self.limits.head) {
                    Ok(Head::Partial) => return (at, Rest::PartialHead),
                    Ok(Head::Complete { len, body }) => {
                        at += len;
                        self.exchange.heads.set(self.exchange.heads.get() + 1);
                        self.stage = match body {
                            BodyFraming::Length(0) => Stage::Head,
                            BodyFraming::Length(length) => Stage::Body(length),
                            BodyFraming::Chunked => Stage::Chunked(Chunks::new()),
                        };
                    }
                    Err(fault) => return (at, Rest::Refused(fault)),
                },
            }
        }
        (at, Rest::Nothing)
    }

    fn refuse(&mut self, fault: Fault) {
        let number = self.exchange.heads.get() + 1;
        self.exchange.heads.set(number);
        self.exchange.refused.set(Some((number, fault)));
        self.stage = Stage::Refused;
        self.held = Vec::new();
        self.ready.extend_from_slice(STAND_IN);
    }

    /// Takes bytes while a head is incomplete: they are held back until it is whole.
    fn take_held(&mut self, new: &[u8]) {
        let before = self.held.len();
        self.held.extend_from_slice(new);
        if !may_end(&self.held, before) && self.held.len() <= self.limits.head.bytes {
            return;
        }
        let held = std::mem::take(&mut self.held);
        let (sound, rest) = self.follow(&held);
        self.ready.extend_from_slice(&held[..sound]);
        match rest {
            Rest::Nothing => {}
            Rest::PartialHead => {
                self.held.extend_from_slice(&held[sound..]);
                if sound > 0 {
                    self.set_timer(self.limits.header_timeout);
                }
            }
            Rest::Refused(fault) => self.refuse(fault),
        }
    }

    fn give_ready(&mut self, buf: &mut ReadBuf<'_>) {
        let rest = &self.ready[self.taken..];
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        self.taken += count;
        if self.taken == self.ready.len() {
            self.ready.clear();
            self.taken = 0;
        }
    }

    fn set_timer(&mut self, after: Duration) {
        self.timer.as_mut().reset(Instant::now() + after);
        self.timer_runs = false;
        self.heads_at_timer = self.exchange.heads.get();
    }

    /// Keeps the timeouts while nothing arrives. Ready when the connection has to end.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.timer_runs && !self.timer.is_elapsed() {
                return Poll::Pending;
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                self.timer_runs = true;
                return Poll::Pending;
            }
            let heads = self.exchange.heads.get();
            if !self.held.is_empty() {
                self.refuse(Fault::HeadTimeout);
                return Poll::Ready(());
            }
            let idle = matches!(self.stage, Stage::Head) && self.exchange.active.get() == 0;
            if idle && heads == self.heads_at_timer {
                self.stage = Stage::Refused;
                return Poll::Ready(());
            }
            self.set_timer(self.limits.idle_timeout);
        }
    }
}

fn malformed_body() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Fault::Chunk.detail())
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.ready.is_empty() {
                this.give_ready(buf);
                return Poll::Ready(Ok(()));
            }
            if matches!(this.stage, Stage::Refused) {
                // hyper finishes the answer to the stand-in and closes; it needs no more bytes for that.
                return if this.exchange.refused.get().is_some() { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            if matches!(this.stage, Stage::Broken) {
                return Poll::Ready(Err(malformed_body()));
            }
            let before = buf.filled().len();
            if Pin::new(&mut this.inner).poll_read(cx, buf)?.is_pending() {
                ready!(this.poll_timer(cx));
                continue;
            }
            let after = buf.filled().len();
            if after == before {
                this.ended = true;
                return Poll::Ready(Ok(()));
            }
            if !this.held.is_empty() {
                let new = buf.filled()[before..].to_vec();
                buf.set_filled(before);
                this.take_held(&new);
                continue;
            }
            let (sound, rest) = this.follow(&buf.filled()[before..]);
            match rest {
                Rest::Nothing => {}
                Rest::PartialHead => {
                    this.held.extend_from_slice(&buf.filled()[before + sound..]);
                    this.set_timer(this.limits.header_timeout);
                }
                Rest::Refused(fault) => this.refuse(fault),
            }
            buf.set_filled(before + sound);
            if sound > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_write_gathered(&mut self.get_mut().inner, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    /// Lingers: closing while bytes of a refused request lie unread would reset the connection, and the client might
    /// never see why (RFC 9112 §9.6).
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
        if !this.lingers {
            this.lingers = true;
            this.set_timer(MAX_LINGER);
        }
        while !this.ended && this.discarded < MAX_DISCARD {
            let mut scratch = [0; 4096];
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.inner).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) => {
                    this.ended = buf.filled().is_empty();
                    this.discarded += buf.filled().len();
                }
                Poll::Ready(Err(_)) => break,
                Poll::Pending => {
                    ready!(this.timer.as_mut().poll(cx));
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
