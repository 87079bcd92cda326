//! The protobuf wire format: a message is a run of numbered values. Knows nothing of types.

use super::ProtobufError;

/// The largest number that a field may have.
const FIELD_NUMBER_MAX: u64 = (1 << 29) - 1;

/// A value as it is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    /// Text, bytes, a message, or several packed numbers.
    Bytes(&'a [u8]),
    /// Four bytes, which no field of Kubernetes is encoded in.
    Fixed32,
}

/// The values of a message with their field numbers, in order; ends after the first error.
pub(super) fn values(message: &[u8]) -> impl Iterator<Item = Result<(u32, Wire<'_>), ProtobufError>> {
    until_empty(message, Reader::take_value)
}

/// The numbers of a packed list; ends after the first error.
pub(super) fn packed(numbers: &[u8]) -> impl Iterator<Item = Result<u64, ProtobufError>> {
    until_empty(numbers, Reader::take_varint)
}

fn until_empty<'a, T>(
    bytes: &'a [u8],
    take: impl Fn(&mut Reader<'a>) -> Result<T, ProtobufError>,
) -> impl Iterator<Item = Result<T, ProtobufError>> {
    let mut reader = Reader { rest: bytes };
    std::iter::from_fn(move || {
        if reader.rest.is_empty() {
            return None;
        }
        let taken = take(&mut reader);
        if taken.is_err() {
            reader.rest = &[];
        }
        Some(taken)
    })
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take_value(&mut self) -> Result<(u32, Wire<'a>), ProtobufError> {
        let key = self.take_varint()?;
        let number = match key >> 3 {
            number @ 1..=FIELD_NUMBER_MAX => number as u32,
            number => return Err(ProtobufError::FieldNumber(number)),
        };
        let value = match key & 7 {
            0 => Wire::Varint(self.take_varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take_array()?)),
            2 => Wire::Bytes(self.take_bytes()?),
            5 => {
                let [_, _, _, _] = self.take_array()?;
                Wire::Fixed32
            }
            // 3 and 4 are groups.
            other => return Err(ProtobufError::WireType(other)),
        };
        Ok((number, value))
    }

    fn take_bytes(&mut self) -> Result<&'a [u8], ProtobufError> {
        let length = usize::try_from(self.take_varint()?).map_err(|_| ProtobufError::CutShort)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(ProtobufError::CutShort)?;
        self.rest = rest;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], ProtobufError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(ProtobufError::CutShort)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn take_varint(&mut self) -> Result<u64, ProtobufError> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let [byte] = self.take_array()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return Err(ProtobufError::LongNumber);
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(ProtobufError::LongNumber)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Values<'a> = Vec<(u32, Wire<'a>)>;

    fn read(message: &[u8]) -> Result<Values<'_>, ProtobufError> {
        values(message).collect()
    }

    #[test]
    fn values_are_read_in_order() {
        let table: [(&[u8], Values); 8] = [
            (&[], vec![]),
            (&[0x08, 0x00], vec![(1, Wire::Varint(0))]),
            (&[0x08, 0x96, 0x01], vec![(1, Wire::Varint(150))]),
            (&[0x82, 0x01, 0x01, 0x61], vec![(16, Wire::Bytes(b"a"))]),
            (&[0x11, 1, 0, 0, 0, 0, 0, 0, 0], vec![(2, Wire::Fixed64(1))]),
            (&[0x1d, 1, 2, 3, 4, 0x08, 0x07], vec![(3, Wire::Fixed32), (1, Wire::Varint(7))]),
            (&[0x12, 0x00, 0x12, 0x01, 0x62], vec![(2, Wire::Bytes(b"")), (2, Wire::Bytes(b"b"))]),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], vec![(1, Wire::Varint(u64::MAX))]),
        ];
        for (message, expected) in table {
            assert_eq!(read(message), Ok(expected), "{message:?}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let table: [(&[u8], ProtobufError); 9] = [
            (&[0x08], ProtobufError::CutShort),
            (&[0x08, 0x80], ProtobufError::CutShort),
            (&[0x12, 0x02, 0x61], ProtobufError::CutShort),
            (&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], ProtobufError::CutShort),
            (&[0x1d, 1, 2, 3], ProtobufError::CutShort),
            (&[0x00, 0x00], ProtobufError::FieldNumber(0)),
            (&[0x0b], ProtobufError::WireType(3)),
            (&[0x0f], ProtobufError::WireType(7)),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], ProtobufError::LongNumber),
        ];
        for (message, expected) in table {
            assert_eq!(read(message), Err(expected), "{message:?}");
        }
    }

    #[test]
    fn packed_numbers_are_read_until_the_first_error() {
        let read = |numbers| packed(numbers).collect::<Vec<_>>();
        assert_eq!(read(&[1, 0x80, 0x01, 3]), [Ok(1), Ok(128), Ok(3)]);
        assert_eq!(read(&[1, 0x80]), [Ok(1), Err(ProtobufError::CutShort)]);
    }
}
