//! Writes several buffers as one where that is cheaper: a head and a small body go out by one plain write.
//!
//! Never reorders or keeps bytes: what the stream does not take is offered again by the caller.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;

/// Up to this many bytes a copy costs less than what a vectored write costs more; one TCP segment.
const SMALL: usize = 1400;

/// As [`AsyncWrite::poll_write_vectored`], with a plain write for one buffer and for little data.
pub(crate) fn poll_write_gathered<S: AsyncWrite + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    bufs: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let stream = Pin::new(stream);
    let mut filled = bufs.iter().filter(|buf| !buf.is_empty());
    if let (Some(only), None) = (filled.next(), filled.next()) {
        return stream.poll_write(cx, only);
    }
    if bufs.iter().map(|buf| buf.len()).sum::<usize>() > SMALL {
        return stream.poll_write_vectored(cx, bufs);
    }
    let mut gathered = [0; SMALL];
    let mut len = 0;
    for buf in bufs {
        gathered[len..len + buf.len()].copy_from_slice(buf);
        len += buf.len();
    }
    stream.poll_write(cx, &gathered[..len])
}
