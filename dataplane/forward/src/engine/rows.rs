//! Rows of the tables as aya moves them: the layout's types are plain old data, which aya has to be told.

use sluicegate_l4::layout::{AddressBucket, Backend, Control, Interface, PortMacs, Service, ServiceBucket, Traffic};

/// A row, byte for byte as it lies in the map.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Row<T>(pub T);

macro_rules! plain {
    ($($name:ty),*) => {$(
        // SAFETY: `layout` makes these of fixed size without padding, of integers alone: every bit pattern is a value.
        #[allow(unsafe_code, reason = "aya asks for this promise")]
        unsafe impl aya::Pod for Row<$name> {}
    )*};
}

plain!(AddressBucket, Backend, Control, Interface, PortMacs, Service, ServiceBucket, Traffic);
