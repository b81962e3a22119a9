//! One system call for everything a connection has to say.
//!
//! HTTP/2 hands each data frame of more than a few bytes to the socket by itself: a list of
//! half a megabyte is 32 writes, a hundred answers are a hundred, and the reader is woken by
//! each. Here the frames of one turn of the connection's task are gathered and written when the
//! turn is over; nothing waits for longer than that.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gathered bytes from which a connection writes in the middle of its turn; with one more
/// frame, this bounds the memory of a connection whose peer does not read.
const GATHER_BYTES: usize = 128 << 10;

/// How much buffer an idle connection keeps.
const KEPT_BYTES: usize = 16 << 10;

struct State<S> {
    stream: S,
    gathered: Vec<u8>,
    /// How much of `gathered` is written.
    written: usize,
}

impl<S: AsyncWrite + Unpin> State<S> {
    /// Writes everything that was gathered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gathered.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.written < self.gathered.len() {
            let rest = &self.gathered[self.written..];
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        self.gathered.clear();
        self.gathered.shrink_to(KEPT_BYTES);
        self.written = 0;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gathered.len() < GATHER_BYTES {
            Poll::Ready(Ok(()))
        } else {
            self.poll_drain(cx)
        }
    }
}

/// A stream that gathers what is written to it until [`Turns`] has the turn's end.
pub(super) struct Gathering<S>(Arc<Mutex<State<S>>>);

impl<S> Gathering<S> {
    pub(super) fn new(stream: S) -> Self {
        Self(Arc::new(Mutex::new(State {
            stream,
            gathered: Vec::new(),
            written: 0,
        })))
    }

    /// Another handle on the stream, to run the connection with.
    pub(super) fn handle(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    /// Never contended: both handles are used by one task.
    fn state(&self) -> MutexGuard<'_, State<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.state().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.state();
        ready!(state.poll_room(cx))?;
        state.gathered.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.state();
        ready!(state.poll_room(cx))?;
        let before = state.gathered.len();
        for piece in pieces {
            state.gathered.extend_from_slice(piece);
        }
        Poll::Ready(Ok(state.gathered.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The end of the turn does it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state();
        ready!(state.poll_drain(cx))?;
        Pin::new(&mut state.stream).poll_shutdown(cx)
    }
}

/// Runs a connection over a [`Gathering`] stream and writes at the end of each of its turns.
pub(super) struct Turns<S, F> {
    pub(super) stream: Gathering<S>,
    pub(super) connection: F,
}

impl<S, F, E> Future for Turns<S, F>
where
    S: AsyncWrite + Unpin,
    F: Future<Output = Result<(), E>> + Unpin,
    E: From<io::Error>,
{
    type Output = Result<(), E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = Pin::new(&mut self.connection).poll(cx);
        let drained = self.stream.state().poll_drain(cx);
        match (outcome, drained) {
            // What is left when a connection has ended is for nobody: it shuts its stream down,
            // which writes the rest, before it ends well.
            (Poll::Ready(outcome), _) => Poll::Ready(outcome),
            (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(error.into())),
            // The socket wakes this task when it takes more.
            (Poll::Pending, _) => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Counts the writes that reach the stream.
    struct Counting<S>(S, Arc<Mutex<usize>>);

    impl<S: AsyncWrite + Unpin> AsyncWrite for Counting<S> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            *self.1.lock().expect("count") += 1;
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn what_is_written_in_one_turn_goes_out_together_when_it_ends() {
        let (ours, mut theirs) = duplex(1 << 20);
        let writes = Arc::new(Mutex::new(0));
        let stream = Gathering::new(Counting(ours, writes.clone()));
        let mut writer = stream.handle();
        let connection = Box::pin(async move {
            for part in [&b"one "[..], b"two ", b"three"] {
                writer.write_all(part).await?;
                writer.flush().await?;
            }
            std::future::pending::<io::Result<()>>().await
        });
        let mut turns = Turns { stream, connection };
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut turns).poll(&mut cx).is_pending());
        assert_eq!(*writes.lock().expect("count"), 1);
        let mut read = [0; 13];
        theirs.read_exact(&mut read).await.expect("all of it");
        assert_eq!(&read, b"one two three");
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_makes_the_writer_wait_and_loses_nothing() {
        let (ours, mut theirs) = duplex(4096);
        let stream = Gathering::new(ours);
        let mut writer = stream.handle();
        let sent = Arc::new(Mutex::new(0usize));
        let counter = sent.clone();
        let connection = Box::pin(async move {
            for number in 0..1000u32 {
                let part = [number as u8; 1024];
                writer.write_all(&part).await?;
                *counter.lock().expect("count") += part.len();
            }
            writer.shutdown().await
        });
        let mut turns = Turns { stream, connection };
        poll_fn(|cx| {
            assert!(Pin::new(&mut turns).poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        let waiting = *sent.lock().expect("count");
        assert!(waiting <= GATHER_BYTES + 1024, "{waiting} bytes in memory");
        let serving = tokio::spawn(turns);
        let mut read = Vec::new();
        theirs.read_to_end(&mut read).await.expect("to the end");
        serving.await.expect("no panic").expect("no error");
        let expected: Vec<u8> = (0..1000u32).flat_map(|n| [n as u8; 1024]).collect();
        assert!(read == expected, "{} bytes", read.len());
    }
}
