//! A client's connection on which the head of a request may not take for ever. An idle connection may: only from the
//! first byte of a head on does the time run.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// From the first byte of a request's head to its last.
const LONGEST_HEAD_TIME: Duration = Duration::from_secs(30);

/// Requests of one connection that are being answered: while there are any, what comes may be their bodies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answering(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    now: AtomicUsize,
    ever: AtomicUsize,
}

/// One request that is being answered.
#[derive(Debug)]
pub(crate) struct Answered(Arc<Counts>);

impl Answering {
    pub(crate) fn begin(&self) -> Answered {
        self.0.now.fetch_add(1, Ordering::Relaxed);
        self.0.ever.fetch_add(1, Ordering::Relaxed);
        Answered(self.0.clone())
    }

    fn is_idle(&self) -> bool {
        self.0.now.load(Ordering::Relaxed) == 0
    }

    /// Requests whose heads were whole.
    fn heads(&self) -> usize {
        self.0.ever.load(Ordering::Relaxed)
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The client's side.
pub(crate) struct Paced<S> {
    inner: S,
    answering: Answering,
    /// When the first byte of a head came, and how many heads had come before it.
    begun: Option<(Instant, usize)>,
    /// Set only while the rest of a head is waited for.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    pub(crate) fn new(inner: S, answering: Answering) -> Self {
        Self { inner, answering, begun: None, deadline: None }
    }

    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some((begun, _)) = self.begun else { return Poll::Pending };
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep_until(begun + LONGEST_HEAD_TIME)));
        deadline.as_mut().poll(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, read: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let is_idle = self.answering.is_idle();
        let heads = self.answering.heads();
        if !is_idle || self.begun.is_some_and(|(_, before)| before != heads) {
            (self.begun, self.deadline) = (None, None);
        }
        let before = read.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, read);
        if is_idle && read.filled().len() > before && self.begun.is_none() {
            self.begun = Some((Instant::now(), heads));
        }
        if polled.is_pending() && self.poll_deadline(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::{pause, timeout};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_head_that_is_not_finished_in_time_ends_the_connection_and_an_idle_one_lives_on() {
        pause();
        let (mut client, server) = duplex(64);
        let answering = Answering::default();
        let mut paced = Paced::new(server, answering.clone());
        let mut read = [0; 64];
        assert!(timeout(LONGEST_HEAD_TIME * 10, paced.read(&mut read)).await.is_err(), "nothing was begun");

        client.write_all(b"GET").await.unwrap();
        assert_eq!(paced.read(&mut read).await.unwrap(), 3);
        let answered = answering.begin();
        assert!(timeout(LONGEST_HEAD_TIME * 10, paced.read(&mut read)).await.is_err(), "a body may come slowly");
        drop(answered);
        assert!(timeout(LONGEST_HEAD_TIME * 10, paced.read(&mut read)).await.is_err(), "idle again");

        client.write_all(b"GE").await.unwrap();
        assert_eq!(paced.read(&mut read).await.unwrap(), 2);
        assert_eq!(paced.read(&mut read).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
