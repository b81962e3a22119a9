//! Primitives of the formats here: LEB128 numbers, length-prefixed bytes.

use bytes::Bytes;

use super::codec::DecodeError;

/// Appends to a buffer.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(crate) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    /// Small magnitudes of either sign stay short.
    pub(crate) fn signed(&mut self, number: i64) {
        self.number(((number << 1) ^ (number >> 63)) as u64);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }
}

/// Takes from shared bytes; every failure is a [`DecodeError`], never a panic.
#[derive(Debug)]
pub(crate) struct Reader(Bytes);

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    pub(crate) fn remaining(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        if self.0.is_empty() {
            return Err(DecodeError::Malformed);
        }
        Ok(self.0.split_to(1)[0])
    }

    pub(crate) fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Malformed),
        }
    }

    pub(crate) fn number(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0u64;
        for (index, &byte) in self.0.iter().take(10).enumerate() {
            let part = u64::from(byte & 0x7f);
            if index == 9 && byte > 1 {
                return Err(DecodeError::Malformed);
            }
            number |= part << (7 * index);
            if byte & 0x80 == 0 {
                let _ = self.0.split_to(index + 1);
                return Ok(number);
            }
        }
        Err(DecodeError::Malformed)
    }

    pub(crate) fn signed(&mut self) -> Result<i64, DecodeError> {
        let number = self.number()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.number()?;
        match usize::try_from(length) {
            Ok(length) if length <= self.0.len() => Ok(self.0.split_to(length)),
            _ => Err(DecodeError::Malformed),
        }
    }

    /// A number of elements that follow, each at least one byte long.
    pub(crate) fn count(&mut self) -> Result<usize, DecodeError> {
        match usize::try_from(self.number()?) {
            Ok(count) if count <= self.0.len() => Ok(count),
            _ => Err(DecodeError::Malformed),
        }
    }

    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Malformed)
        }
    }
}
