//! `doctor`: what of this host stands in the way, why, and the command that changes it.

use crate::Failure;
use crate::cli::{DoctorArguments, DoctorRole, OutputFormat};
use crate::output::print;
use sluicegate_backend::doctor::{Expectation, Finding, Role, Severity, examine};
use sluicegate_backend::read_facts;
use std::fmt::Write as _;

pub fn doctor(arguments: &DoctorArguments) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let facts = runtime.block_on(read_facts());
    let expected = Expectation {
        role: match arguments.role {
            DoctorRole::Director => Role::Director,
            DoctorRole::Backend => Role::Backend,
        },
        interfaces: arguments.interface.clone(),
        vips: arguments.vip.clone(),
        tunnels: !arguments.no_tunnels,
    };
    let findings = examine(&facts, &expected);
    match arguments.output {
        OutputFormat::Table => print(&text(&findings))?,
        OutputFormat::Json => {
            let json: Vec<_> = findings.iter().map(json).collect();
            print(&format!("{:#}\n", serde_json::Value::Array(json)))?;
        }
    }
    let stands_in_the_way = findings.iter().any(|finding| finding.severity == Severity::Broken);
    if stands_in_the_way { Err(Failure::Silent) } else { Ok(()) }
}

fn text(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "nothing stands in the way\n".to_owned();
    }
    let mut text = String::new();
    for finding in findings {
        // Writing to a String does not fail.
        let _ok = writeln!(text, "{finding}");
    }
    text
}

fn json(finding: &Finding) -> serde_json::Value {
    serde_json::json!({
        "severity": name(finding.severity),
        "what": finding.what,
        "why": finding.why,
        "change": finding.change,
    })
}

fn name(severity: Severity) -> &'static str {
    match severity {
        Severity::Broken => "broken",
        Severity::Risky => "risky",
        Severity::Hint => "hint",
    }
}
