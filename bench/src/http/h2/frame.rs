//! Frames of HTTP/2 (RFC 9113, 4 and 6), for both ends. It contains no I/O.

/// What a client sends first (RFC 9113, 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes in front of each frame.
pub const HEADER: usize = 9;

/// The largest frame that is sent or taken: nobody here offers more than what all must take.
pub const LARGEST: usize = 16_384;

/// Windows for data as large as h2load's: what is measured is not their refilling.
pub const WINDOW: u32 = (1 << 30) - 1;

/// What both ends begin with.
pub const DEFAULT_WINDOW: u32 = 65_535;

/// Kinds of frames.
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    pub const END_STREAM: u8 = 1;
    /// Of SETTINGS and PING.
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

/// Names of settings.
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes behind the header.
    pub length: usize,
    /// One of [`kind`].
    pub kind: u8,
    /// Of [`flag`].
    pub flags: u8,
    /// 0 for the connection.
    pub stream: u32,
}

impl Header {
    /// The header with which `bytes` begin, if all of it is there.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = *bytes.first_chunk::<HEADER>()?;
        Some(Self {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
        })
    }

    /// Appends it.
    pub fn append(self, out: &mut Vec<u8>) {
        let [_, a, b, c] = (self.length as u32).to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        out.extend_from_slice(&[a, b, c, self.kind, self.flags, s0, s1, s2, s3]);
    }

    /// Whether a flag is set.
    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Appends a frame with its content.
pub fn append(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, content: &[u8]) {
    Header { length: content.len(), kind, flags, stream }.append(out);
    out.extend_from_slice(content);
}

/// Appends SETTINGS.
pub fn append_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    Header { length: settings.len() * 6, kind: kind::SETTINGS, flags: 0, stream: 0 }.append(out);
    for (name, value) in settings {
        out.extend_from_slice(&name.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Appends WINDOW_UPDATE.
pub fn append_window(out: &mut Vec<u8>, stream: u32, more: u32) {
    append(out, kind::WINDOW_UPDATE, 0, stream, &more.to_be_bytes());
}

/// Pairs of a SETTINGS frame.
pub fn settings(content: &[u8]) -> impl Iterator<Item = (u16, u32)> + '_ {
    content
        .chunks_exact(6)
        .map(|pair| (u16::from_be_bytes([pair[0], pair[1]]), u32::from_be_bytes([pair[2], pair[3], pair[4], pair[5]])))
}

/// The first four bytes as a number.
pub fn number(content: &[u8]) -> Option<u32> {
    content.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))
}
