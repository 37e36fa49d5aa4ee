//! Which figures are accepted, and whether what was counted keeps to them. It counts nothing itself.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// What the file begins with.
const HEAD: &str = "\
# Instructions that hot paths may take, in user space and for one call, as callgrind counts them. Written by
# `cargo run --release -p sluicegate-instructions -- --accept`; README.md in bench/ says how they are counted.
";

/// The file of accepted figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// By what the figures were counted.
    pub toolchain: Toolchain,
    /// A count may be greater by this part: the folder of a build alone, by which the compiler orders and divides code, makes
    /// 3 % of a row.
    pub tolerance: f64,
    /// The same where the toolchain is another one, which compiles and counts otherwise.
    pub tolerance_elsewhere: f64,
    /// By the name of the row.
    pub instructions: BTreeMap<String, u64>,
}

/// What counts depend on beside the code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toolchain {
    /// The compiler's version.
    pub rustc: String,
    /// The version of valgrind: it chooses which processor programs see.
    pub valgrind: String,
    /// The architecture.
    pub machine: String,
}

impl Bounds {
    /// Without any row.
    pub fn new(toolchain: Toolchain) -> Self {
        Self { toolchain, tolerance: 0.06, tolerance_elsewhere: 0.15, instructions: BTreeMap::new() }
    }

    /// # Errors
    /// Where the file is not there, or not one of bounds.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("{} (start this in the folder of the repository)", file.display()))?;
        yaml_serde::from_str(&text).with_context(|| format!("{}: it is no file of bounds", file.display()))
    }

    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = format!("{HEAD}{}", yaml_serde::to_string(self)?);
        std::fs::write(file, text).with_context(|| file.display().to_string())
    }

    /// Compares.
    pub fn judge(&self, counted: &[(String, u64)], toolchain: &Toolchain) -> Judgement {
        let is_same = self.toolchain == *toolchain;
        let tolerance = if is_same { self.tolerance } else { self.tolerance_elsewhere };
        let rows = counted.iter().map(|(name, count)| Row {
            name: name.clone(),
            counted: *count,
            accepted: self.instructions.get(name).copied(),
        });
        Judgement { rows: rows.collect(), tolerance, recorded_by: (!is_same).then(|| self.toolchain.clone()) }
    }
}

/// What came of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judgement {
    rows: Vec<Row>,
    tolerance: f64,
    /// The toolchain of the figures, where it is not that of the counts.
    recorded_by: Option<Toolchain>,
}

/// One row of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Row {
    name: String,
    counted: u64,
    /// `None`: it is in no file yet.
    accepted: Option<u64>,
}

impl Row {
    /// Greater than accepted by this part, or less where it is negative.
    fn change(&self) -> Option<f64> {
        let accepted = self.accepted.filter(|accepted| *accepted > 0)?;
        Some(self.counted as f64 / accepted as f64 - 1.0)
    }
}

impl Judgement {
    /// The rows that take too much or have no bound.
    pub fn exceeded(&self) -> Vec<&str> {
        self.rows
            .iter()
            .filter(|row| row.change().is_none_or(|change| self.is_too_much(change)))
            .map(|row| row.name.as_str())
            .collect()
    }

    /// Parts are not exact in binary, counts are.
    fn is_too_much(&self, change: f64) -> bool {
        change > self.tolerance + 1e-9
    }

    /// As a table of Markdown, with what is to be done.
    pub fn table(&self) -> String {
        let mut text = String::from("| | instructions | accepted | change |\n| --- | --- | --- | --- |\n");
        for row in &self.rows {
            let accepted = row.accepted.map_or_else(|| "none".to_owned(), thousands);
            let change = match row.change() {
                None => "**no bound**".to_owned(),
                Some(change) if self.is_too_much(change) => format!("**{:+.1} %, too much**", change * 100.0),
                Some(change) if change < -self.tolerance => format!("{:+.1} %, accept it", change * 100.0),
                Some(change) => format!("{:+.1} %", change * 100.0),
            };
            // Writing into a string cannot fail.
            let _ = writeln!(text, "| {} | {} | {accepted} | {change} |", row.name, thousands(row.counted));
        }
        if let Some(recorded) = &self.recorded_by {
            let _ = writeln!(
                text,
                "\nThe accepted figures are of rustc {}, valgrind {} on {}, which is not what counted here: {:.0} % more are \
                 let through.",
                recorded.rustc,
                recorded.valgrind,
                recorded.machine,
                self.tolerance * 100.0
            );
        }
        text
    }
}

/// A number with commas.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toolchain(rustc: &str) -> Toolchain {
        Toolchain { rustc: rustc.to_owned(), valgrind: "3.19.0".to_owned(), machine: "x86_64".to_owned() }
    }

    fn bounds() -> Bounds {
        Bounds { instructions: BTreeMap::from([("a".to_owned(), 1000)]), ..Bounds::new(toolchain("1.95.0")) }
    }

    fn exceeded(name: &str, count: u64, rustc: &str) -> bool {
        !bounds().judge(&[(name.to_owned(), count)], &toolchain(rustc)).exceeded().is_empty()
    }

    #[test]
    fn a_row_may_grow_by_the_tolerance_and_shrink_as_it_likes() {
        assert!(!exceeded("a", 1060, "1.95.0"));
        assert!(exceeded("a", 1061, "1.95.0"));
        assert!(!exceeded("a", 1, "1.95.0"));
        assert!(exceeded("b", 1, "1.95.0"), "a row without a bound is not let through");
    }

    #[test]
    fn another_toolchain_has_more_room_and_is_named() {
        assert!(!exceeded("a", 1150, "1.96.0"));
        assert!(exceeded("a", 1151, "1.96.0"));
        let table = bounds().judge(&[("a".to_owned(), 1100)], &toolchain("1.96.0")).table();
        assert!(table.contains("| a | 1,100 | 1,000 | +10.0 % |"), "{table}");
        assert!(table.contains("rustc 1.95.0"), "{table}");
    }

    #[test]
    fn the_file_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("bounds.yaml");
        bounds().write(&file).expect("it is written");
        assert_eq!(Bounds::read(&file).expect("it is read"), bounds());
        std::fs::write(&file, "tolerance: much\n").expect("it is written");
        assert!(Bounds::read(&file).is_err());
    }

    #[test]
    fn numbers_have_commas() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
