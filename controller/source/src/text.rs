//! Cuts a YAML stream into its documents, so that each can be parsed, rejected and cached by itself.
//!
//! The YAML specification makes this possible without parsing: a line that starts with `---` or `...` and then ends or
//! goes on with white space is a document marker wherever it stands, even inside a quoted or block scalar
//! (YAML 1.2.2, section 9.1.2, `c-forbidden`).

/// One document of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Document<'a> {
    /// The text without markers and directives.
    pub text: &'a str,
    /// The line of the file on which the text starts, from 1.
    pub line: usize,
}

/// The documents of a stream that hold more than white space and comments.
pub(crate) fn documents(stream: &str) -> impl Iterator<Item = Document<'_>> {
    let stream = stream.strip_prefix('\u{feff}').unwrap_or(stream);
    Documents { rest: stream, line: 1, done: false }.filter(|document| !is_blank(document.text))
}

struct Documents<'a> {
    rest: &'a str,
    line: usize,
    done: bool,
}

impl<'a> Iterator for Documents<'a> {
    type Item = Document<'a>;

    fn next(&mut self) -> Option<Document<'a>> {
        if self.done {
            return None;
        }
        self.skip_directives();
        let document = Document { text: self.rest, line: self.line };
        match marker(self.rest) {
            Some((start, after)) => {
                let text = &self.rest[..start];
                self.line += memchr::memchr_iter(b'\n', text.as_bytes()).count();
                self.rest = &self.rest[after..];
                Some(Document { text, ..document })
            }
            None => {
                self.done = true;
                Some(document)
            }
        }
    }
}

impl Documents<'_> {
    /// Drops `%YAML …` lines in front of a marker; they say nothing that a manifest needs.
    fn skip_directives(&mut self) {
        while self.rest.starts_with('%') {
            let end = memchr::memchr(b'\n', self.rest.as_bytes()).map_or(self.rest.len(), |at| at + 1);
            self.rest = &self.rest[end..];
            self.line += 1;
        }
    }
}

/// The first marker: where its line starts, and where the text after the marker starts (on the same line).
fn marker(text: &str) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut at = 0;
    loop {
        let line = &bytes[at..];
        if line.starts_with(b"---") || line.starts_with(b"...") {
            match line.get(3) {
                None | Some(b' ' | b'\t' | b'\r' | b'\n') => return Some((at, at + 3)),
                Some(_) => {}
            }
        }
        at += memchr::memchr(b'\n', line)? + 1;
    }
}

/// True for white space and comments alone.
fn is_blank(text: &str) -> bool {
    text.lines().all(|line| {
        let line = line.trim_start();
        line.is_empty() || line.starts_with('#')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_cut_at_markers_alone() {
        let table: &[(&str, &[(&str, usize)])] = &[
            ("", &[]),
            ("# nothing\n---\n\n...\n", &[]),
            ("a: 1\n", &[("a: 1\n", 1)]),
            ("---\na: 1\n---\nb: 2\n", &[("\na: 1\n", 1), ("\nb: 2\n", 3)]),
            ("\u{feff}a: 1\n...\n---\nb: 2", &[("a: 1\n", 1), ("\nb: 2", 3)]),
            ("%YAML 1.2\n---\na: 1\n", &[("\na: 1\n", 2)]),
            ("--- {a: 1}\n--- # two\nb: 2\n", &[(" {a: 1}\n", 1), (" # two\nb: 2\n", 2)]),
            ("a: |\n  ---\n  x\n----\n", &[("a: |\n  ---\n  x\n----\n", 1)]),
            ("a: 1\r\n---\r\nb: 2\r\n", &[("a: 1\r\n", 1), ("\r\nb: 2\r\n", 2)]),
            ("----BEGIN: 1\n", &[("----BEGIN: 1\n", 1)]),
        ];
        for (stream, expected) in table {
            let found: Vec<_> = documents(stream).map(|document| (document.text, document.line)).collect();
            assert_eq!(&found, expected, "{stream:?}");
        }
    }

    #[test]
    fn millions_of_empty_documents_take_linear_time() {
        let stream = "---\n".repeat(2_000_000);
        assert_eq!(documents(&stream).count(), 0);
    }
}
