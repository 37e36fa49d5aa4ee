//! Rows of the tables as aya takes them.

use aya::Pod;
use sluicegate_l4::layout::{
    AddressBucket, Backend, Control, FlowSet, Interface, PortMacs, RingLine, Service, ServiceBucket, Traffic,
};

/// A value of a map, by the name of its type.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<T>(pub T);

macro_rules! plain {
    ($($row:ty),*) => {
        $(
            // SAFETY: a `repr(C)` struct of integers and arrays of them, whose size is asserted to be that of its fields:
            // it has no padding, and every pattern of bits is a value.
            #[allow(unsafe_code, reason = "aya copies rows as bytes")]
            unsafe impl Pod for Row<$row> {}
        )*
    };
}

plain!(
    AddressBucket,
    Backend,
    Control,
    FlowSet,
    Interface,
    PortMacs,
    RingLine,
    Service,
    ServiceBucket,
    Traffic,
    crate::replay::Script
);
