//! WebSockets (RFC 6455): bytes pass as they are, watched only for where a frame ends, so that a connection which has to
//! end can be ended with a close frame that says "service restart" (1012) instead of being cut in the middle of a message.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::watch;

/// FIN and opcode 8, two bytes, 1012: to the client.
const CLOSE_TO_CLIENT: [u8; 4] = [0x88, 0x02, 0x03, 0xf4];
/// The same to the pod, whose peer must mask what it sends: with zeros, which change nothing.
const CLOSE_TO_POD: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xf4];
/// How long a side may take to end the frame that it has begun, and the other to answer the close frame.
const LONGEST_GOODBYE: Duration = Duration::from_secs(1);
const BUFFER: usize = 16 << 10;

/// Where in a stream of frames a reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frames {
    /// Bytes of a frame's head that were read: 14 at most.
    head: [u8; 14],
    head_length: usize,
    /// Bytes of its payload that are still to come.
    payload: u64,
}

impl Frames {
    /// Whether everything that was begun is over.
    pub(crate) fn is_between(&self) -> bool {
        self.head_length == 0 && self.payload == 0
    }

    /// Reads up to the end of the first frame that ends in `bytes`, and tells how many bytes that took.
    pub(crate) fn read_one(&mut self, bytes: &[u8]) -> usize {
        let mut read = 0;
        while read < bytes.len() {
            if self.payload > 0 {
                let taken = self.payload.min((bytes.len() - read) as u64);
                self.payload -= taken;
                read += taken as usize;
            } else {
                self.head[self.head_length] = bytes[read];
                self.head_length += 1;
                read += 1;
                if self.head_length < head_length(&self.head[..self.head_length]) {
                    continue;
                }
                self.payload = payload_length(&self.head);
                self.head_length = 0;
            }
            if self.is_between() {
                break;
            }
        }
        read
    }
}

/// How long the head will be that begins like this.
fn head_length(begun: &[u8]) -> usize {
    let [_, second, ..] = begun else { return 2 };
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    2 + extended + mask
}

fn payload_length(head: &[u8; 14]) -> u64 {
    match head[1] & 0x7f {
        126 => u64::from(u16::from_be_bytes([head[2], head[3]])),
        127 => u64::from_be_bytes([head[2], head[3], head[4], head[5], head[6], head[7], head[8], head[9]]),
        length => u64::from(length),
    }
}

/// Passes frames both ways until either side ends, or until `over`: then each side gets a close frame.
pub(crate) async fn pass_both_ways<C, P>(client: C, pod: P, over: impl Future<Output = ()>) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite,
    P: AsyncRead + AsyncWrite,
{
    let (from_client, to_client) = split(client);
    let (from_pod, to_pod) = split(pod);
    let (stop, stopped) = watch::channel(false);
    let over = async {
        over.await;
        stop.send_replace(true);
        tokio::time::sleep(LONGEST_GOODBYE * 2).await;
    };
    tokio::select! {
        passed = async { tokio::try_join!(
            pass(from_client, to_pod, &CLOSE_TO_POD, stopped.clone()),
            pass(from_pod, to_client, &CLOSE_TO_CLIENT, stopped.clone()),
        ) } => passed.map(drop),
        () = over => Ok(()),
    }
}

async fn pass<R: AsyncRead, W: AsyncWrite>(
    mut from: ReadHalf<R>,
    mut to: WriteHalf<W>,
    close: &[u8],
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut frames = Frames::default();
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped), if frames.is_between() => break,
            read = from.read(&mut buffer) => read?,
        };
        if read == 0 {
            return to.shutdown().await;
        }
        let mut whole = 0;
        while whole < read && !(*stopped.borrow() && frames.is_between()) {
            whole += frames.read_one(&buffer[whole..read]);
        }
        to.write_all(&buffer[..whole]).await?;
    }
    to.write_all(close).await?;
    to.shutdown().await?;
    // What still comes is answered by nobody; read, so that its sender gets the close frame and not a reset.
    let drained = async {
        while from.read(&mut buffer).await? > 0 {}
        io::Result::Ok(())
    };
    tokio::time::timeout(LONGEST_GOODBYE, drained).await.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as a server sends it, or as a client does.
    fn frame(length: usize, is_masked: bool) -> Vec<u8> {
        let mask = if is_masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match length {
            0..126 => frame.push(mask | length as u8),
            126..65_536 => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(vec![7; if is_masked { 4 } else { 0 }]);
        frame.extend(vec![0x88; length]);
        frame
    }

    #[test]
    fn the_end_of_each_frame_is_found_however_its_bytes_come() {
        for is_masked in [false, true] {
            for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
                let bytes = [frame(length, is_masked), frame(3, is_masked)].concat();
                let end = bytes.len() - frame(3, is_masked).len();
                for piece in [1, 2, 3, 7, 1000, bytes.len()] {
                    let (mut frames, mut read) = (Frames::default(), 0);
                    while read < end {
                        let until = bytes.len().min(read + piece);
                        read += frames.read_one(&bytes[read..until]);
                        assert_eq!(frames.is_between(), read == end, "{length} in pieces of {piece}, at {read}");
                    }
                    assert_eq!(read, end, "{length} in pieces of {piece}");
                }
            }
        }
    }

    #[tokio::test]
    async fn both_sides_get_a_close_frame_between_two_frames() {
        let (mut client, proxy_client) = tokio::io::duplex(1 << 20);
        let (mut pod, proxy_pod) = tokio::io::duplex(1 << 20);
        let (over, is_over) = tokio::sync::oneshot::channel::<()>();
        let passing = tokio::spawn(pass_both_ways(proxy_client, proxy_pod, async { drop(is_over.await) }));
        let long = frame(1000, false);
        pod.write_all(&long[..500]).await.unwrap();
        client.write_all(&frame(5, true)).await.unwrap();
        let mut got = vec![0; 500];
        client.read_exact(&mut got).await.unwrap();
        over.send(()).unwrap();
        tokio::task::yield_now().await;
        pod.write_all(&[&long[500..], &frame(9, false)[..]].concat()).await.unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!([got, rest].concat(), [&long[..], &CLOSE_TO_CLIENT].concat());
        let mut to_pod = Vec::new();
        pod.read_to_end(&mut to_pod).await.unwrap();
        assert_eq!(to_pod, [&frame(5, true)[..], &CLOSE_TO_POD].concat());
        drop((client, pod));
        passing.await.unwrap().unwrap();
    }
}
