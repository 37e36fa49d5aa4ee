//! How much of a peer's head is read before it is refused.

/// No head may be larger than this, whatever the configuration says: spans are 32 bits wide, and nothing that large
/// is a head.
const LARGEST_HEAD: usize = 16 << 20;

/// Bounds on a message head. They hold while the head is still incomplete, so that they bound memory too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the whole head, from the first byte to the end of the empty line. Values over 16 MiB count as 16 MiB.
    /// Exceeding it is [`HeadError::HeadTooLarge`](crate::HeadError::HeadTooLarge).
    pub max_head_bytes: usize,
    /// Number of field lines. Exceeding it is [`HeadError::TooManyFields`](crate::HeadError::TooManyFields).
    pub max_fields: usize,
    /// Bytes of the request target. Exceeding it is [`HeadError::TargetTooLong`](crate::HeadError::TargetTooLong).
    pub max_target_bytes: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { max_head_bytes: 64 << 10, max_fields: 128, max_target_bytes: 16 << 10 }
    }
}

impl HeadLimits {
    pub(crate) fn head_bytes(&self) -> usize {
        self.max_head_bytes.min(LARGEST_HEAD)
    }
}
