//! The frame of the packet path, in place: a slot of the receive ring with the room that was reserved in front of it.

use sluicegate_l4::Packet;
use std::ops::Range;

/// An Ethernet header must be left, as in the kernel.
const SHORTEST: usize = 14;

/// A frame inside a buffer, with room in front of it.
#[derive(Debug)]
pub struct RoomyFrame<'a> {
    buffer: &'a mut [u8],
    bounds: Range<usize>,
    ingress: u32,
}

impl<'a> RoomyFrame<'a> {
    /// The frame at `bounds` of a buffer; `None` where they do not lie in it.
    pub fn new(buffer: &'a mut [u8], bounds: Range<usize>, ingress: u32) -> Option<Self> {
        (bounds.start <= bounds.end && bounds.end <= buffer.len()).then_some(Self { buffer, bounds, ingress })
    }

    /// Where in the buffer the frame lies.
    #[must_use]
    pub fn bounds(&self) -> Range<usize> {
        self.bounds.clone()
    }

    /// The frame.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.bounds.clone()).unwrap_or_default()
    }

    /// Puts back the VLAN tag that the kernel took out on reception. False where there is no room.
    pub fn insert_tag(&mut self, protocol: u16, tag: u16) -> bool {
        const ADDRESSES: usize = 12;
        const TAG: usize = 4;
        let Some(start) = self.bounds.start.checked_sub(TAG) else { return false };
        if self.bounds.len() < SHORTEST {
            return false;
        }
        self.buffer.copy_within(self.bounds.start..self.bounds.start + ADDRESSES, start);
        self.bounds.start = start;
        let [protocol, tag] = [protocol.to_be_bytes(), tag.to_be_bytes()];
        let Some(place) = self.view_mut::<TAG>(ADDRESSES) else { return false };
        *place = [protocol[0], protocol[1], tag[0], tag[1]];
        true
    }
}

impl Packet for RoomyFrame<'_> {
    #[inline(always)]
    fn length(&self) -> usize {
        self.bounds.len()
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        self.ingress
    }

    #[inline(always)]
    fn view<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.buffer.get(self.bounds.clone())?.get(offset..)?.first_chunk()
    }

    #[inline(always)]
    fn view_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.buffer.get_mut(self.bounds.clone())?.get_mut(offset..)?.first_chunk_mut()
    }

    fn move_head(&mut self, by: isize) -> bool {
        match self.bounds.start.checked_add_signed(-by) {
            Some(start) if start + SHORTEST <= self.bounds.end => {
                self.bounds.start = start;
                true
            }
            _ => false,
        }
    }

    fn truncate(&mut self, length: usize) -> bool {
        let fits = (SHORTEST..=self.bounds.len()).contains(&length);
        if fits {
            self.bounds.end = self.bounds.start + length;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_goes_between_addresses_and_type() {
        let mut buffer = [0; 30];
        buffer[10..24].copy_from_slice(&[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0]);
        let mut frame = RoomyFrame::new(&mut buffer, 10..30, 7).expect("inside");
        assert!(frame.insert_tag(0x8100, 100));
        assert_eq!(frame.length(), 24);
        let head = *frame.view::<18>(0).expect("there");
        assert_eq!(head, [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x81, 0, 0, 100, 8, 0]);
    }

    #[test]
    fn bounds_move_within_the_buffer_alone() {
        let mut buffer = [0; 64];
        let mut frame = RoomyFrame::new(&mut buffer, 20..64, 7).expect("inside");
        assert!(frame.move_head(20) && !frame.move_head(1), "room is used up");
        assert!(frame.truncate(50) && !frame.truncate(51) && !frame.truncate(13));
        assert!(!frame.move_head(-37) && frame.move_head(-36), "an Ethernet header is left");
        assert!(frame.view::<14>(0).is_some() && frame.view::<15>(0).is_none());
        assert!(RoomyFrame::new(&mut buffer, 20..65, 7).is_none());
    }
}
