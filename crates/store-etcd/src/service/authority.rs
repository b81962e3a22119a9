//! Lets clients in whose requests name the server by a whole URL.
//!
//! etcd's clients up to 3.4 send an endpoint such as `http://10.0.0.1:2379` as the `:authority` of
//! the requests that go to one member (`endpoint status`, `defrag`, …). That is no authority, and
//! our HTTP/2 library resets the stream, while etcd takes it. Nobody here reads it, so the three
//! characters that make it invalid are replaced by three others on the way in: of the same length,
//! also when compressed, so that nothing else moves.
//!
//! The text itself is sent once per connection, in the first block of headers; later requests
//! refer to it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a connection over HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;

/// A first block of headers that is longer is left alone.
const BLOCK_BYTES_MAX: usize = 16 * 1024;

/// `:authority` with a text of its own that is to be remembered.
const AUTHORITY: u8 = 0x41;

/// `http://` in HPACK's Huffman code, 41 bits, and `httpw--`, which has as many.
const URL_BITS: u32 = 41;
#[allow(clippy::unusual_byte_groupings, reason = "a group is a character")]
const URL: u64 = 0b100111_01001_01001_101011_1011100_011000_011000;
#[allow(clippy::unusual_byte_groupings, reason = "a group is a character")]
const NAME: u64 = 0b100111_01001_01001_101011_1111000_010110_010110;

/// A connection whose first block of headers is looked at.
pub(super) struct Lenient<I> {
    inner: I,
    /// Bytes that were received and not handed on yet.
    held: Vec<u8>,
    /// How many of them may be handed on.
    released: usize,
    /// Whether the preface was handed on, so that a frame comes next.
    begun: bool,
    /// Whether there is nothing left to look for.
    done: bool,
}

impl<I> Lenient<I> {
    pub(super) fn new(inner: I) -> Self {
        Self {
            inner,
            held: Vec::new(),
            released: 0,
            begun: false,
            done: false,
        }
    }

    /// Decides what of the held bytes may go on. They begin with the preface or with a frame.
    fn look(&mut self) {
        let mut at = 0;
        if !self.begun {
            let compared = self.held.len().min(PREFACE.len());
            if self.held[..compared] != PREFACE[..compared] {
                return self.release();
            }
            if compared < PREFACE.len() {
                return;
            }
            self.begun = true;
            at = PREFACE.len();
        }
        // Whole frames before the first block of headers need not wait for it.
        while let Some(head) = self.held.get(at..at + FRAME_HEAD_BYTES) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let kind = head[3];
            let end = at + FRAME_HEAD_BYTES + length;
            if length > BLOCK_BYTES_MAX {
                return self.release();
            }
            if self.held.len() < end {
                break;
            }
            if kind == HEADERS {
                correct(&mut self.held[at + FRAME_HEAD_BYTES..end]);
                return self.release();
            }
            at = end;
        }
        self.released = at;
    }

    fn release(&mut self) {
        self.done = true;
        self.released = self.held.len();
    }

    /// Hands on what may go; whether there was something.
    fn hand_on(&mut self, to: &mut ReadBuf<'_>) -> bool {
        let count = self.released.min(to.remaining());
        if count == 0 {
            return false;
        }
        to.put_slice(&self.held[..count]);
        self.held.drain(..count);
        self.released -= count;
        true
    }
}

/// Replaces the authority in a block of headers, if it is a URL.
fn correct(block: &mut [u8]) {
    let spare = 48 - URL_BITS;
    for at in 0..block.len().saturating_sub(7) {
        let compressed = block[at + 1] & 0x80 != 0;
        if block[at] != AUTHORITY || !compressed {
            continue;
        }
        let mut bytes = [0; 8];
        bytes[2..].copy_from_slice(&block[at + 2..at + 8]);
        let bits = u64::from_be_bytes(bytes);
        if bits >> spare == URL {
            let corrected = NAME << spare | bits & ((1 << spare) - 1);
            block[at + 2..at + 8].copy_from_slice(&corrected.to_be_bytes()[2..]);
            return;
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Lenient<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.hand_on(buf) {
                return Poll::Ready(Ok(()));
            }
            if this.done {
                return Pin::new(&mut this.inner).poll_read(cx, buf);
            }
            let mut chunk = [0; 4096];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                // The end: what was held back is all there will be.
                this.release();
                if this.held.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let released = this.released;
            debug_assert_eq!(released, 0, "everything released was handed on");
            this.held.extend_from_slice(chunk.filled());
            this.look();
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Lenient<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// `http://127.0.0.1:23790` as a Go client sends it.
    const COMPRESSED: &[u8] = &[
        0x9d, 0x29, 0xae, 0xe3, 0x0c, 0x04, 0x4e, 0xae, 0x05, 0xc0, 0xb8, 0x6e, 0x09, 0x97, 0x5f,
        0x07,
    ];

    fn connection(block: &[u8]) -> Vec<u8> {
        let mut bytes = PREFACE.to_vec();
        // Settings, then headers, then data.
        bytes.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&[0, 0, block.len() as u8, HEADERS, 4, 0, 0, 0, 1]);
        bytes.extend_from_slice(block);
        bytes.extend_from_slice(&[0, 0, 2, 0, 1, 0, 0, 0, 1, AUTHORITY, 7]);
        bytes
    }

    fn block(authority: &[u8]) -> Vec<u8> {
        let mut block = vec![0x83, 0x86, AUTHORITY, 0x80 | authority.len() as u8];
        block.extend_from_slice(authority);
        block.push(0x5f);
        block
    }

    async fn through(bytes: &[u8], piece: usize) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = Lenient::new(server);
        let bytes = bytes.to_vec();
        let sending = tokio::spawn(async move {
            for piece in bytes.chunks(piece) {
                client.write_all(piece).await.unwrap();
            }
        });
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.unwrap();
        sending.await.unwrap();
        received
    }

    #[tokio::test]
    async fn a_url_becomes_a_name_however_the_bytes_are_cut() {
        let before = connection(&block(COMPRESSED));
        for piece in 1..before.len() {
            let after = through(&before, piece).await;
            let changed: Vec<usize> = (0..before.len())
                .filter(|at| before[*at] != after[*at])
                .collect();
            assert_eq!(after.len(), before.len());
            // From bit 22 of the text to bit 39.
            let text = PREFACE.len() + 9 + 9 + 4;
            assert_eq!(changed, [text + 2, text + 3, text + 4], "{piece}");
        }
    }

    #[tokio::test]
    async fn everything_else_passes_as_it_is() {
        let proper = connection(&block(&COMPRESSED[6..]));
        let http1 = b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
        let early_end = PREFACE[..10].to_vec();
        let half_a_frame = proper[..40].to_vec();
        let mut huge = PREFACE.to_vec();
        huge.extend_from_slice(&[0xff, 0xff, 0xff, HEADERS, 4, 0, 0, 0, 1, 1, 2, 3]);
        for bytes in [proper, http1, early_end, half_a_frame, huge, Vec::new()] {
            for piece in [1, 7, 1000] {
                assert_eq!(through(&bytes, piece).await, bytes);
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_pass(tail in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let bytes = [PREFACE, &tail].concat();
            let after = runtime.block_on(through(&bytes, 5));
            proptest::prop_assert_eq!(after.len(), bytes.len());
        }
    }
}
