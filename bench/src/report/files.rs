//! Where reports come to lie. A file is there whole or not at all.

use super::model::Report;
use super::page;
use anyhow::{Context as _, bail};
use serde::Deserialize;
use std::io::Write as _;
use std::path::Path;

/// Writes report.json (one report, or a list of several) and its page, index.html, into a folder that is made where it is not there.
///
/// # Errors
/// Where that cannot be written.
pub fn write_report(folder: &Path, reports: &[Report]) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let json = match reports {
        [one] => serde_json::to_string_pretty(one)?,
        several => serde_json::to_string_pretty(several)?,
    };
    write_whole(&folder.join("report.json"), &(json + "\n"))?;
    write_whole(&folder.join("index.html"), &page::page(reports))
}

/// Reads report.json of a folder, or a file of that form.
///
/// # Errors
/// Where it cannot be read, is no report, or is one of another form.
pub fn read_reports(path: &Path) -> anyhow::Result<Vec<Report>> {
    let file = if path.is_dir() { path.join("report.json") } else { path.to_owned() };
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let reports: Written = serde_json::from_str(&text)
        .with_context(|| format!("{}: not a report of this bench; measure again with --report", file.display()))?;
    let reports = match reports {
        Written::One(report) => vec![*report],
        Written::Several(reports) => reports,
    };
    for report in &reports {
        report.check().with_context(|| file.display().to_string())?;
    }
    Ok(reports)
}

/// What report.json holds.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    One(Box<Report>),
    Several(Vec<Report>),
}

/// The text of a file with other text between the markers of a measurement; everything else is somebody's prose and stays.
///
/// # Errors
/// Where the file cannot be read, or does not have both markers once and in order.
pub fn replaced(file: &Path, name: &str, text: &str) -> anyhow::Result<String> {
    let whole = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let (begin, end) = (format!("<!-- {name}: begin -->"), format!("<!-- {name}: end -->"));
    let parts = whole.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let Some((before, after)) = parts else {
        bail!("{}: put the lines {begin} and {end} where the tables are to stand", file.display());
    };
    Ok(format!("{before}{begin}\n{}\n{end}{after}", text.trim()))
}

/// Puts a file in the place of the one of that name.
///
/// # Errors
/// Where that cannot be written.
pub fn write_whole(file: &Path, text: &str) -> anyhow::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut fresh = tempfile::NamedTempFile::new_in(folder)?;
        fresh.write_all(text.as_bytes())?;
        // A temporary file is its owner's alone; a report is for others to read.
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fresh.as_file().set_permissions(readable)?;
        fresh.persist(file)?;
        Ok(())
    };
    write().with_context(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("RESULTS.md");
        let prose = "# Results\n<!-- live: begin -->\nold\n<!-- live: end -->\nprose\n<!-- packet: begin -->\nolder\n<!-- packet: end -->\n";
        std::fs::write(&file, prose).expect("written");
        let whole = replaced(&file, "packet", "\nnew | table\n").expect("replaced");
        assert_eq!(whole, prose.replace("older", "new | table"));
        assert_eq!(replaced(&file, "live", "old").expect("replaced"), prose, "nothing else changes");
        let missing = replaced(&file, "memory", "x").expect_err("no markers").to_string();
        assert!(missing.contains("<!-- memory: begin -->"), "{missing}");
    }
}
