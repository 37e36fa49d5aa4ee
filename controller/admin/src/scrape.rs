//! An exposition as an answer: in the format that the scraper asks for, compressed if it takes that.

use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http::header;
use sluicegate_telemetry::{Exposition, Metrics};
use std::io::Write as _;
use std::time::Instant;

/// What a scraper asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) format: Exposition,
    pub(crate) gzip: bool,
}

impl Asked {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        Self {
            format: Exposition::negotiate(text(header::ACCEPT)),
            gzip: text(header::ACCEPT_ENCODING).is_some_and(takes_gzip),
        }
    }

    /// The body.
    pub(crate) fn write(self, metrics: &Metrics) -> Vec<u8> {
        let now = Instant::now();
        if !self.gzip {
            let mut whole = Vec::new();
            metrics.expose_in_pieces(self.format, now, &mut |piece| whole.extend_from_slice(piece.as_bytes()));
            return whole;
        }
        // The text is never there as a whole: it is some twenty times as long. Level 1 costs a third of the default's
        // time and gives up a tenth of the size.
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        // Writing into memory cannot fail.
        metrics.expose_in_pieces(self.format, now, &mut |piece| _ = encoder.write_all(piece.as_bytes()));
        encoder.finish().unwrap_or_default()
    }
}

/// RFC 9110 section 12.5.3: named, or meant by `*`, and not with a weight of 0.
fn takes_gzip(value: &str) -> bool {
    let weight = |wanted: &str| {
        value.split(',').find_map(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            let is_it = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
            let weight = parts.find_map(|part| part.strip_prefix("q=")).and_then(|weight| weight.parse::<f32>().ok());
            is_it.then(|| weight.unwrap_or(1.0))
        })
    };
    weight("gzip").or_else(|| weight("*")).is_some_and(|weight| weight > 0.0)
}
