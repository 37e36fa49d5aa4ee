//! Explicit congestion notification at the end of a tunnel (RFC 6040, section 4.2).

pub(crate) const NOT_ECT: u8 = 0b00;
pub(crate) const ECT_1: u8 = 0b01;
pub(crate) const ECT_0: u8 = 0b10;
pub(crate) const CE: u8 = 0b11;

/// What the inner packet says after the tunnel; `None` = it must be dropped.
#[inline(always)]
pub(crate) const fn decapsulated(inner: u8, outer: u8) -> Option<u8> {
    match (inner & 3, outer & 3) {
        // The sender does not know ECN, so a drop is the only sign that it understands.
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (CE, _) | (_, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figure 4 of RFC 6040: a row an inner field; columns: outer Not-ECT, ECT(0), ECT(1), CE.
    #[test]
    fn combines_as_figure_4_of_rfc_6040() {
        let figure = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, row) in figure {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                assert_eq!(decapsulated(inner, outer), expected, "inner {inner:02b}, outer {outer:02b}");
            }
        }
    }
}
