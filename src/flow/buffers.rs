//! Buffers that are used again: a block costs no page faults after the first round.

use std::sync::{Arc, Mutex, PoisonError};

/// A free list of byte buffers of one capacity. Holds at most `kept_max` of them.
#[derive(Clone, Debug)]
pub struct Buffers {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    capacity: usize,
    kept_max: usize,
}

impl Buffers {
    pub fn new(capacity: usize, kept_max: usize) -> Self {
        Self { free: Arc::default(), capacity, kept_max }
    }

    /// A buffer of exactly `bytes`, whatever is in it: only new memory costs being zeroed.
    pub fn take(&self, bytes: usize) -> Vec<u8> {
        let recycled = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = recycled.unwrap_or_else(|| Vec::with_capacity(self.capacity.max(bytes)));
        buffer.resize(bytes, 0);
        buffer
    }

    pub fn give(&self, buffer: Vec<u8>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.kept_max && buffer.capacity() >= self.capacity {
            free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::flow::Buffers;

    #[test]
    fn a_given_buffer_comes_back_with_the_length_asked_for() {
        let buffers = Buffers::new(16, 1);
        let buffer = buffers.take(16);
        let address = buffer.as_ptr();
        buffers.give(buffer);
        let again = buffers.take(7);
        assert_eq!((again.len(), again.as_ptr()), (7, address));
        assert_eq!(buffers.take(32).len(), 32);
    }
}
