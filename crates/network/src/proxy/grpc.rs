//! Where messages of a gRPC stream begin and end (gRPC over HTTP/2: Length-Prefixed-Message). Pure.

/// A byte that says whether the message is compressed, and four of length.
const PREFIX: usize = 5;

/// What was seen of a stream of messages, however they are cut into frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Messages {
    begun: u32,
    prefix: [u8; PREFIX],
    prefix_read: usize,
    left: u64,
}

impl Messages {
    /// How many have begun.
    pub(crate) fn begun(&self) -> u32 {
        self.begun
    }

    /// Whether everything that was begun is over.
    pub(crate) fn is_between(&self) -> bool {
        self.prefix_read == 0 && self.left == 0
    }

    pub(crate) fn read(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let taken = self.left.min(bytes.len() as u64);
                self.left -= taken;
                bytes = &bytes[taken as usize..];
                continue;
            }
            if self.prefix_read == 0 {
                self.begun = self.begun.saturating_add(1);
            }
            self.prefix[self.prefix_read] = *first;
            self.prefix_read += 1;
            bytes = rest;
            if self.prefix_read == PREFIX {
                let [_, a, b, c, d] = self.prefix;
                self.left = u32::from_be_bytes([a, b, c, d]).into();
                self.prefix_read = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32) -> Vec<u8> {
        [&[0][..], &length.to_be_bytes(), &vec![7; length as usize]].concat()
    }

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let bytes = [message(3), message(0), message(70_000), message(1)].concat();
        for piece in [1, 2, 5, 6, 1000, bytes.len()] {
            let mut messages = Messages::default();
            bytes.chunks(piece).for_each(|chunk| messages.read(chunk));
            assert_eq!((messages.begun(), messages.is_between()), (4, true), "in pieces of {piece}");
            messages.read(&message(2)[..6]);
            assert_eq!((messages.begun(), messages.is_between()), (5, false));
        }
    }
}
