//! Which file gives which object: whatever happens to the files, the end is what a fresh load of them gives.

use proptest::prelude::*;
use sluicegate_config::{ObjectRef, Rejection, Verdict};
use sluicegate_source::files::{Changes, FileTable};
use sluicegate_source::manifest::{Format, Source, parse};
use sluicegate_translate::ObjectChange;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A folder in memory, the table that follows it, and what a controller would have at the other end.
#[derive(Default)]
struct Folder {
    files: BTreeMap<Arc<str>, String>,
    table: FileTable,
    objects: BTreeMap<ObjectRef, String>,
    notes: BTreeMap<Arc<str>, Vec<Rejection>>,
    last: usize,
}

impl Folder {
    fn read(&mut self, path: &Arc<str>) {
        match self.files.get(path) {
            None => self.table.remove(path),
            Some(text) => {
                let source = Source { path, format: Format::Yaml, bytes: text.as_bytes() };
                let manifest = parse(source, |digest| self.table.knows(path, digest));
                self.table.put(path, manifest);
            }
        }
    }

    fn settle(&mut self) {
        let mut turns = 0;
        while let Some(path) = self.table.wanted() {
            self.read(&path);
            turns += 1;
            assert!(turns < 1_000, "{path} is wanted for ever");
        }
        let Changes { objects, files } = self.table.drain();
        self.last = objects.len();
        for change in objects {
            match change {
                ObjectChange::Set(object) => {
                    self.objects.insert(object.reference(), format!("{object:?}"));
                }
                ObjectChange::Remove(reference) => {
                    self.objects.remove(&reference);
                }
            }
        }
        for (path, notes) in files {
            if notes.is_empty() {
                self.notes.remove(&path)
            } else {
                self.notes.insert(path, notes)
            };
        }
    }

    fn write(&mut self, path: &str, text: &str) {
        let path = Arc::<str>::from(path);
        self.files.insert(Arc::clone(&path), text.to_owned());
        self.read(&path);
        self.settle();
    }

    fn remove(&mut self, path: &str) {
        let path = Arc::<str>::from(path);
        self.files.remove(&path);
        self.read(&path);
        self.settle();
    }

    fn fresh(&self) -> Self {
        let mut fresh = Self { files: self.files.clone(), ..Self::default() };
        for path in self.files.keys() {
            fresh.read(path);
        }
        fresh.settle();
        fresh
    }

    fn names(&self) -> Vec<String> {
        self.objects.keys().map(ToString::to_string).collect()
    }
}

fn service(name: &str, port: u16) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n")
}

#[test]
fn the_first_file_by_path_gives_an_object_and_the_other_is_told() {
    let mut folder = Folder::default();
    folder.write("b.yaml", &service("web", 1));
    folder.write("a.yaml", &service("web", 2));
    let note = &folder.notes["b.yaml"][0];
    assert_eq!((note.object.to_string().as_str(), note.verdict), ("Service default/web", Verdict::Rejected));
    assert!(note.reason.contains("a.yaml") && note.reason.contains("b.yaml"), "{note}");
    assert!(folder.objects.values().all(|body| body.contains("port: 2")));
    folder.remove("a.yaml");
    assert!(folder.notes.is_empty(), "{:?}", folder.notes);
    assert!(folder.objects.values().all(|body| body.contains("port: 1")));
    folder.remove("b.yaml");
    assert_eq!(folder.names(), [] as [&str; 0]);
}

#[test]
fn an_object_twice_in_a_file_counts_once() {
    let mut folder = Folder::default();
    folder.write("a.yaml", &format!("{}---\n{}", service("web", 1), service("web", 2)));
    assert!(folder.objects.values().all(|body| body.contains("port: 1")));
    assert_eq!(folder.notes["a.yaml"].len(), 1);
    folder.write("a.yaml", &service("web", 2));
    assert!(folder.objects.values().all(|body| body.contains("port: 2")));
    assert!(folder.notes.is_empty());
}

#[test]
fn a_file_that_turned_bad_removes_nothing_and_says_so() {
    let mut folder = Folder::default();
    let good = format!("{}---\n{}", service("a", 1), service("b", 1));
    folder.write("x.yaml", &good);
    for broken in [
        format!("{}---\nkind: [Service\n", service("a", 1)),
        "\u{0}".to_owned(),
        format!("{}---\n{}", service("a", 1), service("b", 1).replace("port: 1", "port: one")),
    ] {
        folder.write("x.yaml", &broken);
        assert_eq!(folder.names(), ["Service default/a", "Service default/b"], "{broken:?}");
        assert!(folder.notes["x.yaml"].iter().any(|note| note.verdict == Verdict::Rejected));
        assert!(
            folder.notes["x.yaml"]
                .iter()
                .any(|note| note.reason.contains("stays in force: ") && note.reason.contains("Service default/b"))
        );
        folder.write("x.yaml", &good);
        assert!(folder.notes.is_empty());
        assert_eq!(folder.last, 0, "the same objects are not handed on again");
    }
    // What the file does not have any more goes, where it is known that the broken document is another one.
    folder.write("x.yaml", &service("a", 1).replace("port: 1", "port: one"));
    assert_eq!(folder.names(), ["Service default/a"]);
    folder.remove("x.yaml");
    assert_eq!(folder.names(), [] as [&str; 0]);
    assert!(folder.notes.is_empty());
}

#[test]
fn one_document_of_many_changes_one_object() {
    let mut folder = Folder::default();
    let text = |port| {
        (0..500).map(|i| service(&format!("s{i}"), if i == 250 { port } else { 1 })).collect::<Vec<_>>().join("---\n")
    };
    folder.write("x.yaml", &text(1));
    assert_eq!(folder.last, 500);
    folder.write("x.yaml", &text(2));
    assert_eq!(folder.last, 1);
}

const PATHS: [&str; 4] = ["a.yaml", "b/c.yaml", "b/d.yaml", "e.yaml"];

#[derive(Clone, Debug)]
enum Step {
    Write(usize, Vec<(u8, u16)>),
    Damage(usize, Vec<(u8, u16)>),
    Rename(usize, usize),
    Remove(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let documents = || proptest::collection::vec((0..4_u8, 1..4_u16), 0..4);
    let step = prop_oneof![
        4 => (0..4_usize, documents()).prop_map(|(file, documents)| Step::Write(file, documents)),
        1 => (0..4_usize, documents()).prop_map(|(file, documents)| Step::Damage(file, documents)),
        2 => (0..4_usize, 0..4_usize).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => (0..4_usize).prop_map(Step::Remove),
    ];
    proptest::collection::vec(step, 1..24)
}

fn text(documents: &[(u8, u16)]) -> String {
    documents.iter().map(|(name, port)| service(&format!("s{name}"), *port)).collect::<Vec<_>>().join("---\n")
}

proptest! {
    #[test]
    fn any_history_ends_as_a_fresh_load(steps in steps()) {
        let mut folder = Folder::default();
        let mut broken = std::collections::BTreeSet::new();
        for step in steps {
            match step {
                Step::Write(file, documents) => {
                    broken.remove(&file);
                    folder.write(PATHS[file], &text(&documents));
                }
                Step::Damage(file, documents) => {
                    broken.insert(file);
                    folder.write(PATHS[file], &format!("{}---\nkind: [\n", text(&documents)));
                }
                Step::Rename(from, to) => {
                    let Some(text) = folder.files.get(PATHS[from]).cloned() else { continue };
                    if from != to {
                        if broken.remove(&from) { broken.insert(to); } else { broken.remove(&to); }
                        folder.files.remove(PATHS[from]);
                        folder.files.insert(PATHS[to].into(), text);
                        folder.read(&PATHS[from].into());
                        folder.read(&PATHS[to].into());
                        folder.settle();
                    }
                }
                Step::Remove(file) => {
                    broken.remove(&file);
                    folder.remove(PATHS[file]);
                }
            }
            let fresh = folder.fresh();
            if broken.is_empty() {
                prop_assert_eq!(&folder.objects, &fresh.objects);
                prop_assert_eq!(&folder.notes, &fresh.notes);
            } else {
                // Broken files keep what they gave; nothing that can be read may be missing.
                for reference in fresh.objects.keys() {
                    prop_assert!(folder.objects.contains_key(reference), "{reference} is missing");
                }
            }
        }
    }
}
