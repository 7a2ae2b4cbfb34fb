//! The bytes of a file: written with their digest, and read without trust in any length.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};

use ring::digest::{Context, SHA256};

use super::SnapshotError;

/// Writes a file, and its digest at the end.
pub(super) struct Writer {
    to: BufWriter<File>,
    context: Context,
}

/// Reads what was written; numbers have their lowest byte first.
pub(super) struct Reader<R> {
    from: R,
}

impl Writer {
    pub(super) fn new(to: BufWriter<File>) -> Self {
        let context = Context::new(&SHA256);
        Self { to, context }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.context.update(bytes);
        self.to.write_all(bytes)
    }

    /// A length, and so many bytes.
    pub(super) fn text(&mut self, text: &[u8]) -> io::Result<()> {
        let length = u32::try_from(text.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a text of over 4 GiB"))?;
        self.bytes(&length.to_le_bytes())?;
        self.bytes(text)
    }

    /// Ends the file with the digest of all before.
    pub(super) fn finish(mut self) -> io::Result<File> {
        let digest = self.context.finish();
        self.to.write_all(digest.as_ref())?;
        self.to.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

impl<R: Read> Reader<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let mut bytes = [0; N];
        match self.from.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(SnapshotError::Damaged("cut short"))
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn byte(&mut self) -> Result<u8, SnapshotError> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Result<u32, SnapshotError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, SnapshotError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, SnapshotError> {
        self.array().map(i64::from_le_bytes)
    }

    /// A length, and so many bytes.
    pub(super) fn text(&mut self) -> Result<Vec<u8>, SnapshotError> {
        let length = self.u32()?;
        // Grows with what is there, whatever the length says.
        let mut text = Vec::new();
        let mut rest = self.from.by_ref().take(u64::from(length));
        rest.read_to_end(&mut text)?;
        if text.len() == length as usize {
            Ok(text)
        } else {
            Err(SnapshotError::Damaged("cut short"))
        }
    }

    pub(super) fn string(&mut self) -> Result<String, SnapshotError> {
        String::from_utf8(self.text()?).map_err(|_| SnapshotError::Damaged("no text"))
    }

    /// Nothing follows.
    pub(super) fn end(&mut self) -> Result<(), SnapshotError> {
        match self.from.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(SnapshotError::Damaged("too long")),
        }
    }
}
