//! Text that becomes part of a page.

use std::fmt;

/// Shown as it is, within an element or a quoted attribute.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for sign in self.0.chars() {
            match sign {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // XML has no way to write these.
                control if control.is_control() && !matches!(control, '\n' | '\t') => f.write_str("\u{fffd}")?,
                plain => write!(f, "{plain}")?,
            }
        }
        Ok(())
    }
}
