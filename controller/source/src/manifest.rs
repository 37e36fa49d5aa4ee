//! One file: bytes → documents → objects and notes. Pure: the bytes come in, nothing is opened.

use crate::object::{Decoded, Refusal, TypeMeta, decode, file_reference};
use crate::text::documents;
use crate::value::{ValueError, from_json, from_yaml};
use serde_json::Value;
use serde_json::value::RawValue;
use sluicegate_config::{ObjectRef, Rejection, Verdict};
use sluicegate_translate::Object;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

/// The largest file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 64 << 20;
/// The most documents that one file may hold.
pub const MAX_DOCUMENTS: usize = 1 << 18;
/// Refused documents of one file that are told one by one; the rest is counted in one note.
const MAX_REFUSALS: usize = 100;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A YAML stream; JSON is YAML too.
    Yaml,
    /// One JSON text after the other.
    Json,
}

impl Format {
    /// By the end of the file's name; `None` for what is not a manifest.
    pub fn of(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1 {
            "yaml" | "yml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// Identifies the text of a document or the content of an object. Equal digests are taken for equal content (64 bits:
/// an accident in 10^19 comparisons).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(u64);

impl Digest {
    pub(crate) fn of(content: &(impl Hash + ?Sized)) -> Self {
        // Seeds are fixed, so that a digest means the same for the whole life of the process.
        Self(foldhash::quality::FixedState::with_seed(0x51c6).hash_one(content))
    }
}

/// What a file holds.
#[derive(Debug, Default)]
pub struct Manifest {
    /// Its documents in order.
    pub documents: Vec<Document>,
    /// What was not taken, and what to do about it.
    pub notes: Vec<Rejection>,
    /// What the refused documents may have defined.
    pub refused: Refused,
}

/// What the refused documents of a file may have defined: what the file gave before under these names stays in force.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum Refused {
    /// Nothing was refused.
    #[default]
    Nothing,
    /// These objects alone.
    These(Vec<ObjectRef>),
    /// Nobody knows: a document, or the whole file, could not be read that far.
    Anything,
}

impl Refused {
    fn add(&mut self, object: Option<ObjectRef>) {
        match (self, object) {
            (Self::These(list), Some(object)) => list.push(object),
            (this @ Self::Nothing, Some(object)) => *this = Self::These(vec![object]),
            (this, None) => *this = Self::Anything,
            (Self::Anything, Some(_)) => {}
        }
    }
}

/// One document of a file.
#[derive(Debug)]
pub enum Document {
    /// Its text is one that the caller said it knows; it was not parsed again.
    Known(Digest),
    /// It was parsed. (What was refused in it is in the notes.)
    Parsed {
        /// Of its text. `None` where there are notes, so that it is parsed again and they come with the line where it stands then.
        digest: Option<Digest>,
        /// The objects: one, or as many as a `List` has.
        objects: Vec<(Digest, Box<Object>)>,
    },
}

/// One file of bytes to parse.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The path as users shall see it.
    pub path: &'a Arc<str>,
    /// How it is written.
    pub format: Format,
    /// Its whole content.
    pub bytes: &'a [u8],
}

/// The text of one document, before it is parsed.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    text: &'a str,
    line: usize,
    ordinal: usize,
    format: Format,
}

/// What one document gave.
#[derive(Debug)]
pub struct Outcome {
    document: Document,
    notes: Vec<Rejection>,
    refused: Refused,
    other_kinds: Vec<String>,
}

/// Parses a file. `known` tells which texts need not be parsed again.
pub fn parse(source: Source<'_>, known: impl Fn(Digest) -> bool) -> Manifest {
    let (pieces, refusal) = split(source);
    let outcomes = pieces.into_iter().map(|piece| parse_piece(source.path, piece, &known)).collect();
    assemble(source.path, outcomes, refusal)
}

/// Cuts a file into documents, cheaply. The second part says what is wrong with the file as a whole; the pieces before
/// that point are good. Together with [`parse_piece`] and [`assemble`] this lets one large file be parsed on many cores.
pub fn split(source: Source<'_>) -> (Vec<Piece<'_>>, Option<Rejection>) {
    let text = match std::str::from_utf8(source.bytes) {
        Ok(text) => text,
        Err(error) => {
            let reason = format!("byte {} is not UTF-8", error.valid_up_to());
            return (Vec::new(), Some(file_note(source.path, "(file)", reason, "save the file as UTF-8")));
        }
    };
    let mut pieces = Vec::new();
    let mut refusal = None;
    let mut push = |text, line| {
        if pieces.len() < MAX_DOCUMENTS {
            pieces.push(Piece { text, line, ordinal: pieces.len() + 1, format: source.format });
            return true;
        }
        let reason = format!("the file holds more than {MAX_DOCUMENTS} documents");
        refusal = Some(file_note(source.path, "(file)", reason, "divide it into several files"));
        false
    };
    match source.format {
        Format::Yaml => {
            let _all = documents(text).all(|document| push(document.text, document.line));
        }
        Format::Json => {
            let text = text.strip_prefix('\u{feff}').unwrap_or(text);
            let mut stream = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
            let (mut line, mut counted) = (1, 0);
            while let Some(raw) = stream.next() {
                match raw {
                    Ok(raw) => {
                        let start = stream.byte_offset() - raw.get().len();
                        line += memchr::memchr_iter(b'\n', &text.as_bytes()[counted..start]).count();
                        counted = start;
                        if !push(raw.get(), line) {
                            break;
                        }
                    }
                    Err(error) => {
                        refusal = Some(file_note(source.path, "(file)", error.to_string(), "repair the JSON syntax"));
                        break;
                    }
                }
            }
        }
    }
    (pieces, refusal)
}

/// Parses one document.
pub fn parse_piece(path: &Arc<str>, piece: Piece<'_>, known: &impl Fn(Digest) -> bool) -> Outcome {
    let digest = Digest::of(piece.text);
    let mut outcome = Outcome {
        document: Document::Known(digest),
        notes: Vec::new(),
        refused: Refused::Nothing,
        other_kinds: Vec::new(),
    };
    if known(digest) {
        return outcome;
    }
    let parsed = match piece.format {
        Format::Yaml => from_yaml(piece.text),
        Format::Json => from_json(piece.text),
    };
    let mut objects = Vec::new();
    match parsed {
        Ok(value) => read_value(path, piece, &value, &mut outcome, &mut objects),
        Err(ValueError { line, message }) => {
            let line = piece.line + line.map_or(0, |line| line - 1);
            outcome.notes.push(file_note(
                path,
                &format!("document {}", piece.ordinal),
                format!("{} (line {line} of the file)", without_position(&message)),
                "repair the syntax; what the document gave before stays in force until then",
            ));
            outcome.refused.add(None);
        }
    }
    let digest = (outcome.notes.is_empty() && outcome.other_kinds.is_empty()).then_some(digest);
    outcome.document = Document::Parsed { digest, objects };
    outcome
}

/// Puts the documents of a file together.
pub fn assemble(path: &Arc<str>, outcomes: Vec<Outcome>, refusal: Option<Rejection>) -> Manifest {
    let mut manifest = Manifest::default();
    let mut kinds = BTreeMap::<String, usize>::new();
    for outcome in outcomes {
        manifest.documents.push(outcome.document);
        manifest.notes.extend(outcome.notes);
        match outcome.refused {
            Refused::Nothing => {}
            Refused::These(objects) => objects.into_iter().for_each(|object| manifest.refused.add(Some(object))),
            Refused::Anything => manifest.refused.add(None),
        }
        for kind in outcome.other_kinds {
            *kinds.entry(kind).or_default() += 1;
        }
    }
    if manifest.notes.len() > MAX_REFUSALS {
        let more = manifest.notes.len() - MAX_REFUSALS;
        manifest.notes.truncate(MAX_REFUSALS);
        let reason = format!("{more} more things in this file are wrong");
        manifest.notes.push(file_note(path, "(file)", reason, "repair those that are named, then look again"));
    }
    if let Some(refusal) = refusal {
        manifest.notes.push(refusal);
        manifest.refused.add(None);
    }
    for (kind, count) in kinds.into_iter().take(MAX_REFUSALS) {
        let objects = if count == 1 { "1 object is" } else { &format!("{count} objects are") };
        manifest.notes.push(Rejection {
            object: file_reference(path),
            field: "kind".to_owned(),
            verdict: Verdict::Ignored,
            reason: format!("{objects} of kind {kind}, which the gateway does not read"),
            remedy: kind_remedy(&kind).to_owned(),
        });
    }
    manifest
}

/// A manifest for a file that could not be read at all.
pub fn unreadable(path: &Arc<str>, reason: String, remedy: &str) -> Manifest {
    Manifest {
        documents: Vec::new(),
        notes: vec![file_note(path, "(file)", reason, remedy)],
        refused: Refused::Anything,
    }
}

fn read_value(
    path: &Arc<str>,
    piece: Piece<'_>,
    value: &Value,
    outcome: &mut Outcome,
    objects: &mut Vec<(Digest, Box<Object>)>,
) {
    if value.is_null() {
        return;
    }
    let Some(defaults) = TypeMeta::of_items(value) else {
        return read_object(path, piece, value, None, &TypeMeta::default(), outcome, objects);
    };
    match value.get("items") {
        Some(Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                read_object(path, piece, item, Some(index), &defaults, outcome, objects);
            }
        }
        Some(Value::Null) | None => {}
        Some(_) => {
            let field = format!("document {}: items", piece.ordinal);
            let reason = format!("a list of objects is expected (line {} of the file)", piece.line);
            outcome.notes.push(file_note(path, &field, reason, "write `items` as a list"));
            outcome.refused.add(None);
        }
    }
}

fn read_object(
    path: &Arc<str>,
    piece: Piece<'_>,
    value: &Value,
    item: Option<usize>,
    defaults: &TypeMeta,
    outcome: &mut Outcome,
    objects: &mut Vec<(Digest, Box<Object>)>,
) {
    let place = match item {
        None => format!("document {}", piece.ordinal),
        Some(item) => format!("document {}: items[{item}]", piece.ordinal),
    };
    match decode(value, defaults) {
        Decoded::OtherKind(kind) => outcome.other_kinds.push(kind),
        Decoded::Object(object, unknown) => {
            for field in unknown {
                outcome.notes.push(Rejection {
                    object: object.reference(),
                    reason: format!("Kubernetes knows no such field ({path}, {place})"),
                    field,
                    verdict: Verdict::Warning,
                    remedy: "remove the field or correct its spelling or place".to_owned(),
                });
            }
            let digest = match item {
                None => Digest::of(piece.text),
                Some(_) => Digest::of(value),
            };
            objects.push((digest, object));
        }
        Decoded::Refused(Refusal { object, field, reason, remedy }) => {
            let (at, field) = match &object {
                Some(object) => (object.clone(), field),
                None => (file_reference(path), format!("{place}: {field}")),
            };
            outcome.notes.push(Rejection {
                object: at,
                field,
                verdict: Verdict::Rejected,
                reason: format!("{reason} ({path}, {place}, line {})", piece.line),
                remedy: format!("{remedy}; what it gave before stays in force until then"),
            });
            outcome.refused.add(object);
        }
    }
}

fn file_note(path: &Arc<str>, field: &str, reason: String, remedy: &str) -> Rejection {
    Rejection {
        object: file_reference(path),
        field: field.to_owned(),
        verdict: Verdict::Rejected,
        reason,
        remedy: remedy.to_owned(),
    }
}

/// Parsers end their messages with a position inside the document; the position in the file is said instead.
fn without_position(message: &str) -> &str {
    message.split(" at line ").next().unwrap_or(message)
}

fn kind_remedy(kind: &str) -> &'static str {
    if kind.starts_with("Endpoints ") {
        "write an EndpointSlice instead, as the API server does for Endpoints"
    } else {
        "leave it, or keep it in another folder"
    }
}
