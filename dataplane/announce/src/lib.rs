//! Who holds a VIP, and telling the network so. It forwards no packet.
