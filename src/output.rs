//! What people and scripts read: standard output, error lines, aligned tables.

use std::io::{self, Write};

/// Writes to standard output. A reader that went away (`| head`) is no error.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// One line on standard error, about what failed.
pub fn complain(message: &str) {
    say("error", message);
}

/// The same about what was done, and has a consequence that may not have been meant.
pub fn warn(message: &str) {
    say("warning", message);
}

fn say(severity: &str, message: &str) {
    let line = message.split('\n').map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
    // There is nowhere left to say that standard error is gone.
    let _gone = writeln!(io::stderr(), "{severity}: {line}");
}

/// Spaces between two columns.
const GAP: usize = 2;
/// No column is made narrower than that.
const NARROWEST: usize = 10;

/// Columns of text, each as wide as its widest cell; the last one is not padded.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table with these headings. A heading that starts with `>` is aligned to the right, without the sign.
    pub fn new(headings: &[&str]) -> Self {
        Self {
            right: headings.iter().map(|heading| heading.starts_with('>')).collect(),
            rows: vec![headings.iter().map(|heading| heading.trim_start_matches('>').to_owned()).collect()],
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell.into())).collect());
    }

    /// True if there are no rows below the headings.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// The text, a line a row.
    pub fn render(&self) -> String {
        self.render_with(&self.widths())
    }

    /// As [`render`](Self::render), but no line is longer than so many columns as long as that leaves every column some:
    /// what does not fit into a cell goes on below, and columns are made narrower where that costs the fewest lines.
    pub fn render_within(&self, columns: usize) -> String {
        let mut widths = self.widths();
        let gaps = GAP * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > columns {
            let candidates = (0..widths.len()).filter(|column| widths[*column] > NARROWEST);
            let cheapest = candidates.min_by_key(|column| {
                let mut narrower = widths.clone();
                narrower[*column] -= 1;
                (self.lines(&narrower), std::cmp::Reverse(widths[*column]))
            });
            match cheapest {
                Some(column) => widths[column] -= 1,
                None => break,
            }
        }
        self.render_with(&widths)
    }

    fn lines(&self, widths: &[usize]) -> usize {
        let of_row = |row: &Vec<String>| row.iter().zip(widths).map(|(cell, width)| wrap(cell, *width).len()).max();
        self.rows.iter().filter_map(of_row).sum()
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths = vec![0; self.right.len()];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }

    fn render_with(&self, widths: &[usize]) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<Vec<String>> = row.iter().zip(widths).map(|(cell, width)| wrap(cell, *width)).collect();
            for number in 0..cells.iter().map(Vec::len).max().unwrap_or_default() {
                let mut line = String::new();
                for ((cell, width), right) in cells.iter().zip(widths).zip(&self.right) {
                    let cell = cell.get(number).map_or("", String::as_str);
                    let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
                    let (before, after) = if *right { (gap.as_str(), "") } else { ("", gap.as_str()) };
                    line.push_str(&format!("{before}{cell}{after}{}", " ".repeat(GAP)));
                }
                text.push_str(line.trim_end());
                text.push('\n');
            }
        }
        text
    }
}

/// Cuts text at spaces, and inside of words that are longer than a line. All lines are as far in as the first one.
fn wrap(text: &str, width: usize) -> Vec<String> {
    if text.chars().count() <= width {
        return vec![text.to_owned()];
    }
    let inner = text.trim_start_matches(' ');
    let indent = &text[..(text.len() - inner.len()).min(width / 2)];
    if !indent.is_empty() {
        return wrap(inner, width - indent.len()).into_iter().map(|line| format!("{indent}{line}")).collect();
    }
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut rest: Vec<char> = word.chars().collect();
        let used = lines.last().map_or(0, |line| line.chars().count());
        if used > 0 && used + 1 + rest.len() > width {
            lines.push(String::new());
        } else if used > 0
            && let Some(line) = lines.last_mut()
        {
            line.push(' ');
        }
        while !rest.is_empty() {
            let used = lines.last().map_or(0, |line| line.chars().count());
            let room = width.saturating_sub(used);
            if room == 0 {
                lines.push(String::new());
                continue;
            }
            let part: String = rest.drain(..rest.len().min(room)).collect();
            if let Some(line) = lines.last_mut() {
                line.push_str(&part);
            }
        }
    }
    lines
}

/// Columns of the terminal that standard output goes to, if it is one.
pub fn terminal_columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Text of manifests must not steer a terminal.
pub fn printable(text: &str) -> String {
    if text.chars().any(char::is_control) {
        return text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_harmless() {
        let mut table = Table::new(&["NAME", ">COUNT", "NOTE"]);
        assert!(table.is_empty());
        table.row(["a", "10000000", "x\u{1b}[2Jy"]);
        table.row(["ünïcode", "2", ""]);
        assert_eq!(table.render(), "NAME        COUNT  NOTE\na        10000000  x [2Jy\nünïcode         2\n");
    }

    #[test]
    fn text_is_cut_at_spaces_and_keeps_its_indent() {
        assert_eq!(wrap("one two three four", 9), ["one two", "three", "four"]);
        assert_eq!(wrap("  a bb ccc", 6), ["  a bb", "  ccc"]);
        assert_eq!(wrap("x abcdefgh y", 4), ["x", "abcd", "efgh", "y"]);
        assert_eq!(wrap("fits", 4), ["fits"]);
    }

    #[test]
    fn tables_fit_and_lose_nothing() {
        let mut table = Table::new(&["WHAT", "SAID", ">N"]);
        table.row(["one two three four five", "a word-that-is-longer-than-its-column x", "1"]);
        table.row(["  short", "", "22"]);
        let letters = |text: &str| {
            let mut letters: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
            letters.sort_unstable();
            letters
        };
        for columns in [33, 40, 60] {
            let text = table.render_within(columns);
            assert!(text.lines().all(|line| line.chars().count() <= columns), "{columns}: {text}");
            assert_eq!(letters(&text), letters(&table.render()), "{columns}: {text}");
        }
        assert_eq!(table.render_within(500), table.render());
        // However narrow, every column has some room.
        assert_eq!(letters(&table.render_within(1)), letters(&table.render()));
    }
}
