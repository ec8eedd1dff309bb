//! Takes bytes apart into what a check needs. After the end of the bytes all is zero or empty.

use std::time::Duration;

use bytes::Buf;

pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn u8(&mut self) -> u8 {
        self.0.try_get_u8().unwrap_or(0)
    }

    pub(super) fn u64(&mut self) -> u64 {
        self.0.try_get_u64().unwrap_or(0)
    }

    pub(super) fn usize(&mut self) -> usize {
        usize::try_from(self.u64()).unwrap_or(usize::MAX)
    }

    /// As many bytes as the next one says.
    pub(super) fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.u8()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(super) fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    pub(super) fn bool(&mut self) -> bool {
        self.u8() % 2 == 1
    }

    pub(super) fn some<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.bool().then(|| value(self))
    }

    /// Up to seven.
    pub(super) fn list<T>(&mut self, mut value: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let many = self.u8() % 8;
        (0..many).map(|_| value(self)).collect()
    }

    /// From nothing to all that there is, most of them common ones.
    pub(super) fn duration(&mut self) -> Duration {
        match self.u8() {
            0 => Duration::ZERO,
            1 => Duration::MAX,
            2 => Duration::from_nanos(self.u64()),
            3 => Duration::from_secs(self.u64()),
            millis => Duration::from_millis(u64::from(millis).pow(2)),
        }
    }
}
