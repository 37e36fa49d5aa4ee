//! Fields of headers, read from and written to views of fixed size. An offset that a caller got wrong reads as zero and
//! writes nothing: there is no panic in the packet path, and after inlining no check either.

/// `K` bytes at a fixed offset.
#[inline(always)]
pub(crate) fn bytes<const K: usize, const N: usize>(view: &[u8; N], at: usize) -> [u8; K] {
    match view.get(at..).and_then(<[u8]>::first_chunk::<K>) {
        Some(bytes) => *bytes,
        None => [0; K],
    }
}

/// 16 bits in network order, as a number.
#[inline(always)]
pub(crate) fn be16<const N: usize>(view: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes(bytes(view, at))
}

/// 32 bits as they lie.
#[inline(always)]
pub(crate) fn ne32<const N: usize>(view: &[u8; N], at: usize) -> u32 {
    u32::from_ne_bytes(bytes(view, at))
}

/// Sixteen bytes as the four words of an address.
#[inline(always)]
pub(crate) fn address<const N: usize>(view: &[u8; N], at: usize) -> [u32; 4] {
    [ne32(view, at), ne32(view, at + 4), ne32(view, at + 8), ne32(view, at + 12)]
}

/// Writes `K` bytes at a fixed offset.
#[inline(always)]
pub(crate) fn put<const K: usize, const N: usize>(view: &mut [u8; N], at: usize, value: [u8; K]) {
    if let Some(place) = view.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<K>) {
        *place = value;
    }
}

/// Writes an address.
#[inline(always)]
pub(crate) fn put_address<const N: usize>(view: &mut [u8; N], at: usize, address: [u32; 4]) {
    put(view, at, address[0].to_ne_bytes());
    put(view, at + 4, address[1].to_ne_bytes());
    put(view, at + 8, address[2].to_ne_bytes());
    put(view, at + 12, address[3].to_ne_bytes());
}
