//! A Unix stream socket that carries frames, and descriptors beside them, without ever blocking.
//! Knows nothing of what the frames say.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    Shutdown, recvmsg, sendmsg, shutdown,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::frames::{FrameError, FrameReader};

/// Descriptors beside one frame. The kernel allows 253.
pub(crate) const DESCRIPTORS_PER_FRAME: usize = 64;

/// Bytes waiting to be sent at which the other side is taken for dead: four of the longest frames.
const LONGEST_QUEUE: usize = 200 << 20;

const READ_AT_ONCE: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("reading from the channel failed")]
    Receive {
        #[source]
        source: io::Error,
    },
    #[error("writing to the channel failed")]
    Send {
        #[source]
        source: io::Error,
    },
    #[error("the other side does not read: {LONGEST_QUEUE} bytes are waiting")]
    QueueFull,
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// One end of a channel.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
    reader: FrameReader,
    descriptors: VecDeque<OwnedFd>,
    outgoing: VecDeque<Outgoing>,
    is_closed: bool,
}

#[derive(Debug)]
struct Outgoing {
    frame: Vec<u8>,
    sent: usize,
    descriptors: Vec<OwnedFd>,
}

impl Channel {
    /// Takes a connected stream socket and makes it non-blocking.
    pub(crate) fn new(socket: impl Into<OwnedFd>) -> io::Result<Self> {
        let socket = socket.into();
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket,
            reader: FrameReader::default(),
            descriptors: VecDeque::new(),
            outgoing: VecDeque::new(),
            is_closed: false,
        })
    }

    /// Two connected ends: one that is a channel, one to be given away.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        Ok((Self::new(ours)?, theirs.into()))
    }

    /// Puts a frame, and descriptors that arrive with it, behind what is waiting already.
    pub(crate) fn enqueue(&mut self, frame: Vec<u8>, descriptors: Vec<OwnedFd>) -> Result<(), ChannelError> {
        assert!(descriptors.len() <= DESCRIPTORS_PER_FRAME, "a frame carries at most {DESCRIPTORS_PER_FRAME}");
        let waiting: usize = self.outgoing.iter().map(|outgoing| outgoing.frame.len()).sum();
        if waiting + frame.len() > LONGEST_QUEUE {
            return Err(ChannelError::QueueFull);
        }
        self.outgoing.push_back(Outgoing { frame, sent: 0, descriptors });
        Ok(())
    }

    /// Sends what the socket takes now.
    pub(crate) fn flush(&mut self) -> Result<Flushed, ChannelError> {
        while let Some(outgoing) = self.outgoing.front_mut() {
            match send_some(&self.socket, outgoing) {
                Ok(sent) => outgoing.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Flushed::Partly),
                Err(source) => return Err(ChannelError::Send { source }),
            }
            outgoing.descriptors.clear();
            if outgoing.sent == outgoing.frame.len() {
                self.outgoing.pop_front();
            }
        }
        Ok(Flushed::Wholly)
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.outgoing.is_empty()
    }

    fn give_up_sending(&mut self) {
        self.outgoing.clear();
    }

    /// Receives what has arrived.
    pub(crate) fn fill(&mut self) -> Result<(), ChannelError> {
        let mut bytes = vec![0; READ_AT_ONCE];
        loop {
            match receive_some(&self.socket, &mut bytes, &mut self.descriptors) {
                Ok(0) => {
                    self.is_closed = true;
                    return Ok(());
                }
                Ok(received) => self.reader.push(&bytes[..received]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(source) => return Err(ChannelError::Receive { source }),
            }
        }
    }

    /// The next whole frame of what was received.
    pub(crate) fn next_payload(&mut self) -> Result<Option<Vec<u8>>, ChannelError> {
        Ok(self.reader.next_payload()?)
    }

    /// Descriptors that came with the frames read so far, oldest first; fewer than asked for if fewer came.
    pub(crate) fn take_descriptors(&mut self, count: usize) -> Vec<OwnedFd> {
        let available = count.min(self.descriptors.len());
        self.descriptors.drain(..available).collect()
    }

    /// Whether the other side has closed it; frames may still be left.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }
}

/// Whether everything was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    Wholly,
    Partly,
}

impl Drop for Channel {
    fn drop(&mut self) {
        // A copy of the descriptor may live on as standard input; the other side must see the end all the same.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn send_some(socket: &OwnedFd, outgoing: &Outgoing) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_FRAME))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = outgoing.descriptors.iter().map(AsFd::as_fd).collect();
    if !descriptors.is_empty() {
        let fits = ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        assert!(fits, "the buffer holds {DESCRIPTORS_PER_FRAME} descriptors");
    }
    let rest = [IoSlice::new(&outgoing.frame[outgoing.sent..])];
    Ok(sendmsg(socket, &rest, &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
}

fn receive_some(socket: &OwnedFd, bytes: &mut [u8], descriptors: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_FRAME))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, flags)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(received.bytes)
}

/// A channel inside tokio.
#[derive(Debug)]
pub(crate) struct AsyncChannel {
    channel: Channel,
    /// The same socket, registered with tokio: it tells when the channel may go on.
    readiness: UnixStream,
}

impl AsyncChannel {
    pub(crate) fn new(channel: Channel) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixStream::from(channel.socket.try_clone()?);
        Ok(Self { channel, readiness: UnixStream::from_std(socket)? })
    }

    /// The next frame's payload; None once the other side has closed the channel. Safe to cancel: what is waiting to
    /// be sent is sent meanwhile.
    pub(crate) async fn receive(&mut self) -> Result<Option<Vec<u8>>, ChannelError> {
        loop {
            if let Some(payload) = self.channel.next_payload()? {
                return Ok(Some(payload));
            }
            if self.channel.is_closed() {
                return Ok(None);
            }
            if self.channel.flush().is_err() {
                // The other side is gone; what it said before still counts.
                self.channel.give_up_sending();
                self.channel.fill()?;
                continue;
            }
            let wanted =
                if self.channel.has_unsent() { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            self.wait(wanted).await.map_err(|source| ChannelError::Receive { source })?;
            self.channel.fill()?;
        }
    }

    /// Sends a frame wholly. What was cut short by cancelling is sent with the next call of either kind.
    pub(crate) async fn send(&mut self, frame: Vec<u8>, descriptors: Vec<OwnedFd>) -> Result<(), ChannelError> {
        self.channel.enqueue(frame, descriptors)?;
        while self.channel.flush()? == Flushed::Partly {
            self.wait(Interest::WRITABLE).await.map_err(|source| ChannelError::Send { source })?;
        }
        Ok(())
    }

    pub(crate) fn take_descriptors(&mut self, count: usize) -> Vec<OwnedFd> {
        self.channel.take_descriptors(count)
    }

    /// Waits for readiness and forgets it at once. So whoever waited must read or write until the socket has had
    /// enough; what happens from now on makes it ready again.
    async fn wait(&self, wanted: Interest) -> io::Result<()> {
        let ready = self.readiness.ready(wanted).await?;
        for (is_ready, interest) in
            [(ready.is_readable(), Interest::READABLE), (ready.is_writable(), Interest::WRITABLE)]
        {
            if is_ready {
                let forgotten = self.readiness.try_io(interest, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                debug_assert!(forgotten.is_err(), "the closure only forgets");
            }
        }
        Ok(())
    }
}
