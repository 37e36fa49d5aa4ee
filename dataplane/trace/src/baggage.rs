//! W3C `baggage`: values that applications send along. The gateway reads none of it; it forwards it, shortens it or removes
//! it.

use crate::tracestate::{joined, list_members};

/// Whether the fields, taken together, may cross as they are.
pub(crate) fn fits(values: &[&[u8]], most_bytes: usize, most_members: usize) -> bool {
    joined(values.iter().copied()) <= most_bytes && list_members(values).count() <= most_members
}

/// Appends one value with the members from the left, whole ones, as far as they fit; one that alone is too much does not
/// take the others along. False if none fits.
pub(crate) fn write_shortened(values: &[&[u8]], most_bytes: usize, most_members: usize, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let mut count = 0;
    for member in list_members(values) {
        let separator = &b","[..usize::from(count > 0)];
        if count < most_members && out.len() - start + separator.len() + member.len() <= most_bytes {
            out.extend_from_slice(separator);
            out.extend_from_slice(member);
            count += 1;
        }
    }
    count > 0
}
