//! As much of Protocol Buffers as two messages of etcd need: a field written, a field found.

/// Writes field `number`, below 16, with these bytes.
pub(crate) fn put_bytes(message: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    message.push(number << 3 | 2);
    let mut length = bytes.len();
    while 0x80 <= length {
        message.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend_from_slice(bytes);
}

/// The number in field `number`, zero if it is absent. `None`: this is no message.
pub(crate) fn number(message: &[u8], number: u64) -> Option<u64> {
    match find(message, number)? {
        Value::Number(value) => Some(value),
        Value::Absent => Some(0),
        Value::Bytes(_) => None,
    }
}

/// The bytes in field `number`, none if it is absent. `None`: this is no message.
pub(crate) fn bytes(message: &[u8], number: u64) -> Option<&[u8]> {
    match find(message, number)? {
        Value::Bytes(value) => Some(value),
        Value::Absent => Some(&[]),
        Value::Number(_) => None,
    }
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Absent,
}

fn find(mut message: &[u8], number: u64) -> Option<Value<'_>> {
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut message)?),
            1 => Value::Bytes(message.split_off(..8)?),
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                Value::Bytes(message.split_off(..length)?)
            }
            5 => Value::Bytes(message.split_off(..4)?),
            _ => return None,
        };
        if key >> 3 == number {
            return Some(value);
        }
    }
    Some(Value::Absent)
}

/// Seven bits a byte, the lowest first.
fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *message.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found() {
        let mut message = Vec::new();
        put_bytes(&mut message, 1, b"key");
        put_bytes(&mut message, 2, &[7; 300]);
        assert_eq!(message[..5], *b"\x0a\x03key");
        assert_eq!(message[5..8], [0x12, 0xac, 0x02]);
        assert_eq!(bytes(&message, 1), Some(&b"key"[..]));
        assert_eq!(bytes(&message, 2), Some(&[7; 300][..]));
        assert_eq!(bytes(&message, 3), Some(&[][..]));
    }

    #[test]
    fn numbers_are_found_behind_other_fields() {
        // 1: fixed64, 2: fixed32, 3: 300, 4: the largest number.
        let message =
            b"\x09........\x15....\x18\xac\x02\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(number(message, 3), Some(300));
        assert_eq!(number(message, 4), Some(u64::MAX));
        assert_eq!(number(message, 5), Some(0));
        assert_eq!(number(message, 1), None);
    }

    #[test]
    fn what_is_cut_short_is_no_message() {
        for wrong in [&b"\x0a\x03ke"[..], b"\x18\xac", b"\x18", b"\x09...", b"\x0b"] {
            assert_eq!(number(wrong, 9), None, "{wrong:?}");
        }
    }
}
