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

    /// An empty buffer of the common capacity.
    pub fn take(&self) -> Vec<u8> {
        let recycled = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        recycled.unwrap_or_else(|| Vec::with_capacity(self.capacity))
    }

    pub fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
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
    fn a_given_buffer_comes_back_empty() {
        let buffers = Buffers::new(16, 1);
        let mut buffer = buffers.take();
        buffer.extend_from_slice(b"content");
        let address = buffer.as_ptr();
        buffers.give(buffer);
        let again = buffers.take();
        assert!(again.is_empty());
        assert_eq!(again.as_ptr(), address);
    }
}
