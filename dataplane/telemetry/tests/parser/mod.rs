//! A strict reader of both exposition formats, written from their specifications and sharing nothing with the writer.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, BTreeSet};

/// One line of values.
#[derive(Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
    /// Labels and value of its exemplar.
    pub exemplar: Option<(BTreeMap<String, String>, f64)>,
}

/// The samples under one `# TYPE`.
#[derive(Debug)]
pub struct Family {
    pub kind: String,
    pub samples: Vec<Sample>,
}

/// An exposition, families under the names that the table gives them.
#[derive(Debug, Default)]
pub struct Exposed {
    pub families: BTreeMap<String, Family>,
}

impl Exposed {
    /// The value of the sample with exactly these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.sample(name, name, labels)
    }

    pub fn histogram_count(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.sample(name, &format!("{name}_count"), labels)
    }

    /// `(le, cumulative count)` in order.
    pub fn buckets(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(f64, f64)> {
        let bucket = format!("{name}_bucket");
        let samples = self.families[name].samples.iter().filter(|sample| {
            sample.name == bucket
                && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|is| is == value))
        });
        samples.map(|sample| (number(&sample.labels["le"]).expect("checked"), sample.value)).collect()
    }

    fn sample(&self, family: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: BTreeMap<String, String> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let samples = &self.families.get(family)?.samples;
        samples.iter().find(|sample| sample.name == name && sample.labels == wanted).map(|sample| sample.value)
    }
}

/// OpenMetrics 1.0.0: ends in `# EOF`, counter families are named without `_total`.
pub fn parse_openmetrics(text: &str) -> Result<Exposed, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("does not end in # EOF")?;
    parse(body, true)
}

/// Prometheus text 0.0.4: counter families are named as their samples.
pub fn parse_text(text: &str) -> Result<Exposed, String> {
    parse(text, false)
}

fn parse(body: &str, open: bool) -> Result<Exposed, String> {
    let mut exposed = Exposed::default();
    let mut current: Option<(String, String)> = None;
    let mut helped: Option<String> = None;
    let mut seen = BTreeSet::new();
    if !body.ends_with('\n') {
        return Err("the last line is not ended".into());
    }
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or_else(|| format!("no help: {line}"))?;
            if help.is_empty() || !is_name(name) {
                return Err(format!("bad help: {line}"));
            }
            helped = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or_else(|| format!("no type: {line}"))?;
            if helped.as_deref() != Some(name) || !is_kind(kind, open) {
                return Err(format!("bad type: {line}"));
            }
            let full = if open && kind == "counter" { format!("{name}_total") } else { name.to_owned() };
            let family = Family { kind: kind.to_owned(), samples: Vec::new() };
            if exposed.families.insert(full.clone(), family).is_some() {
                return Err(format!("{full} is there twice"));
            }
            current = Some((full, kind.to_owned()));
        } else if line.starts_with('#') || line.is_empty() {
            return Err(format!("unexpected line: {line:?}"));
        } else {
            let sample = sample(line)?;
            let (family, kind) = current.as_ref().ok_or_else(|| format!("sample without family: {line}"))?;
            let has_bucket = kind == "histogram" && sample.name.ends_with("_bucket");
            if sample.exemplar.is_some() && !(open && has_bucket) {
                return Err(format!("an exemplar where none may be: {line}"));
            }
            let allowed = match kind.as_str() {
                "summary" => ["_sum", "_count"].iter().any(|end| sample.name == format!("{family}{end}")),
                "histogram" => ["_bucket", "_sum", "_count"].iter().any(|end| sample.name == format!("{family}{end}")),
                _ => sample.name == *family,
            };
            if !allowed || !seen.insert((sample.name.clone(), sample.labels.clone())) {
                return Err(format!("sample of no family or twice: {line}"));
            }
            if kind != "gauge" && (sample.value < 0.0 || sample.value.is_nan()) {
                return Err(format!("a count below zero: {line}"));
            }
            exposed.families.get_mut(family).ok_or("no family")?.samples.push(sample);
        }
    }
    exposed.families.iter().filter(|(_, family)| family.kind == "histogram").try_for_each(check_histogram)?;
    Ok(exposed)
}

/// Buckets are cumulative, ordered, end in `+Inf` and agree with the count.
fn check_histogram((name, family): (&String, &Family)) -> Result<(), String> {
    let mut series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    for sample in family.samples.iter().filter(|sample| sample.name.ends_with("_bucket")) {
        let mut labels = sample.labels.clone();
        let le = labels.remove("le").ok_or_else(|| format!("{name}: a bucket without le"))?;
        series.entry(labels).or_default().push((number(&le)?, sample.value));
    }
    for (labels, buckets) in series {
        let ordered = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        let count =
            family.samples.iter().find(|sample| sample.name == format!("{name}_count") && sample.labels == labels);
        let sum = family.samples.iter().any(|sample| sample.name == format!("{name}_sum") && sample.labels == labels);
        let last = buckets.last().copied();
        if !ordered
            || !sum
            || last.map(|(le, _)| le) != Some(f64::INFINITY)
            || last.map(|(_, n)| n) != count.map(|c| c.value)
        {
            return Err(format!("{name}: broken histogram {labels:?} {buckets:?}"));
        }
    }
    Ok(())
}

fn is_kind(kind: &str, open: bool) -> bool {
    matches!(kind, "counter" | "gauge" | "histogram" | "summary") || open && kind == "unknown"
}

fn sample(line: &str) -> Result<Sample, String> {
    let bad = || format!("bad sample: {line}");
    let (line, exemplar) = match line.split_once(" # ") {
        None => (line, None),
        Some((line, exemplar)) => (line, Some(exemplar_of(exemplar)?)),
    };
    let name_end = line.find(['{', ' ']).ok_or_else(bad)?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        (labels, rest) = label_set(inner).ok_or_else(bad)?;
    }
    let value = number(rest.strip_prefix(' ').ok_or_else(bad)?)?;
    if !is_name(name) {
        return Err(bad());
    }
    Ok(Sample { name: name.to_owned(), labels, value, exemplar })
}

/// Labels up to the closing brace, and what is behind it.
fn label_set(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        let (key, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        if !is_name(key) || key.contains(':') || labels.insert(key.to_owned(), value).is_some() {
            return None;
        }
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None => return after.strip_prefix('}').map(|rest| (labels, rest)),
        }
    }
}

/// `{labels} value timestamp`; the labels have 128 characters at most.
fn exemplar_of(text: &str) -> Result<(BTreeMap<String, String>, f64), String> {
    let bad = || format!("bad exemplar: {text}");
    let (labels, rest) = text.strip_prefix('{').and_then(label_set).ok_or_else(bad)?;
    let length: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    let (value, at) = rest.strip_prefix(' ').and_then(|rest| rest.split_once(' ')).ok_or_else(bad)?;
    if length > 128 || number(at)? <= 0.0 {
        return Err(bad());
    }
    Ok((labels, number(value)?))
}

/// Reads up to the closing quote; `\\`, `\"` and `\n` are the only escapes.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, character)) = chars.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                escaped @ ('\\' | '"') => escaped,
                _ => return None,
            }),
            '\n' => return None,
            other => value.push(other),
        }
    }
    None
}

fn number(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        _ if text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.e".contains(&byte)) => {
            text.parse().map_err(|_| format!("bad number: {text}"))
        }
        _ => Err(format!("bad number: {text}")),
    }
}

fn is_name(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_' || byte == b':');
    first && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':')
}
