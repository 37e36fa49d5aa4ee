//! Which file gives which object, and what changes when a file does. Pure: files come in as parsed manifests.
//!
//! An object that several files define is taken from the first by path; the others are told so. Bodies of objects are
//! handed on and not kept: where a file that was second becomes first, the table asks for that file again
//! ([`FileTable::wanted`]).

use crate::manifest::{Digest, Document, Manifest, Refused};
use foldhash::quality::RandomState;
use sluicegate_config::{ObjectRef, Rejection, Verdict};
use sluicegate_translate::{Object, ObjectChange};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Kept objects that one note names before it only counts them.
const MAX_NAMED: usize = 5;

/// The files of a folder and the objects that they give.
#[derive(Debug, Default)]
pub struct FileTable {
    files: BTreeMap<Arc<str>, Kept>,
    /// Every file that defines an object, sorted by path; the first is the one that gives it.
    owners: HashMap<Arc<ObjectRef>, SmallVec<[Arc<str>; 1]>, RandomState>,
    staged: BTreeMap<Arc<ObjectRef>, Option<Box<Object>>>,
    touched: BTreeSet<Arc<str>>,
    wanted: BTreeSet<Arc<str>>,
    /// Files of which something was not taken when they were drained last.
    noted: BTreeSet<Arc<str>>,
    /// An object that came lately: the next ones are often of its namespace, or of its name and another kind.
    neighbour: Option<Arc<ObjectRef>>,
}

/// What is kept of a file: where there are tens of thousands, nearly all hold one object each.
#[derive(Debug)]
enum Kept {
    /// One document that is one object, and nothing to say about it. The digest is that of both.
    Plain { object: Arc<ObjectRef>, slot: Slot },
    /// Anything else.
    Whole(Box<File>),
}

#[derive(Debug, Default)]
struct File {
    objects: HashMap<Arc<ObjectRef>, Slot, RandomState>,
    /// By the digest of a document's text: what it defines. Documents with notes are not here.
    documents: HashMap<Digest, Defines, RandomState>,
    notes: Vec<Rejection>,
    /// Objects that another file defines too.
    contested: BTreeSet<Arc<ObjectRef>>,
    /// Objects that stay in force although the file does not give them at the moment.
    kept: BTreeSet<Arc<ObjectRef>>,
    /// True if documents of the file define an object twice.
    repeats: bool,
}

/// The objects of a document, each with the digest of its content.
type Defines = SmallVec<[(Digest, Arc<ObjectRef>); 1]>;

#[derive(Clone, Debug)]
struct Slot {
    digest: Digest,
    /// True while this file gives the object and its body was not handed on: the file has to be read again.
    owed: bool,
}

/// What a batch of files changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// Objects, sorted.
    pub objects: Vec<ObjectChange>,
    /// For each file that was touched, all that was not taken from it (empty = nothing any more), sorted by path. Files of
    /// which everything is taken, as before, are left out.
    pub files: Vec<(Arc<str>, Vec<Rejection>)>,
}

impl Changes {
    /// True if nothing changed.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.files.is_empty()
    }
}

impl FileTable {
    /// True if the document's text is in this file already, so that it need not be parsed again.
    pub fn knows(&self, path: &str, digest: Digest) -> bool {
        self.files.get(path).is_some_and(|file| match file {
            Kept::Plain { slot, .. } => slot.digest == digest && !slot.owed,
            Kept::Whole(file) => file.documents.get(&digest).is_some_and(|defines| {
                defines.iter().all(|(_, object)| file.objects.get(object).is_some_and(|slot| !slot.owed))
            }),
        })
    }

    /// True if the file defines any object.
    pub fn gives_anything(&self, path: &str) -> bool {
        self.files.get(path).is_some_and(|file| match file {
            Kept::Plain { .. } => true,
            Kept::Whole(file) => !file.objects.is_empty(),
        })
    }

    /// Takes what a file holds.
    pub fn put(&mut self, path: &Arc<str>, manifest: Manifest) {
        self.wanted.remove(path);
        self.touched.insert(Arc::clone(path));
        match self.edit_of(path, &manifest) {
            Some(removed) => self.put_edit(path, manifest, &removed),
            None => self.put_whole(path, manifest),
        }
    }

    /// Where a file is as plain as it was, the digests of the documents that it has no more. Then only those and the new
    /// ones need work, which matters for a file of 20,000 documents.
    fn edit_of(&self, path: &Arc<str>, manifest: &Manifest) -> Option<Vec<Digest>> {
        let Kept::Whole(file) = self.files.get(path)? else { return None };
        let plain = file.kept.is_empty() && !file.repeats && file.notes.is_empty();
        if !plain || !manifest.notes.is_empty() || manifest.refused != Refused::Nothing {
            return None;
        }
        let mut present = HashSet::with_capacity_and_hasher(manifest.documents.len(), RandomState::default());
        let mut added = BTreeSet::new();
        for document in &manifest.documents {
            let digest = match document {
                Document::Known(digest) => *digest,
                Document::Parsed { digest, objects } => {
                    for (_, object) in objects {
                        if !added.insert(object.reference()) {
                            return None;
                        }
                    }
                    (*digest)?
                }
            };
            if !present.insert(digest) {
                return None;
            }
        }
        let removed = file.documents.keys().filter(|digest| !present.contains(digest)).copied().collect::<Vec<_>>();
        let leaving =
            removed.iter().filter_map(|digest| file.documents.get(digest)).flatten().map(|(_, object)| object);
        let leaving = leaving.collect::<BTreeSet<_>>();
        let repeats = |object: &ObjectRef| {
            file.objects.get_key_value(object).is_some_and(|(object, _)| !leaving.contains(object))
        };
        let parsed_again = manifest.documents.iter().any(|document| match document {
            Document::Parsed { digest: Some(digest), .. } => file.documents.contains_key(digest),
            _ => false,
        });
        (!parsed_again && !added.iter().any(repeats)).then_some(removed)
    }

    fn put_edit(&mut self, path: &Arc<str>, manifest: Manifest, removed: &[Digest]) {
        let names = Names { owners: &self.owners, neighbour: self.neighbour.as_deref() };
        let Some(Kept::Whole(file)) = self.files.get_mut(path) else { return };
        let mut leaving = BTreeMap::new();
        for (_, object) in removed.iter().filter_map(|digest| file.documents.remove(digest)).flatten() {
            if let Some(slot) = file.objects.remove(&object) {
                leaving.insert(object, slot);
            }
        }
        let mut claims = Vec::new();
        for document in manifest.documents {
            let Document::Parsed { digest: Some(digest), objects } = document else { continue };
            let mut defines = Defines::with_capacity(objects.len());
            for (content, body) in objects {
                let object = names.of(&body);
                let former = leaving.remove(&object);
                let unchanged = former.as_ref().is_some_and(|former| !former.owed && former.digest == content);
                let owed = former.is_some_and(|former| former.owed);
                file.objects.insert(Arc::clone(&object), Slot { digest: content, owed });
                defines.push((content, Arc::clone(&object)));
                if !unchanged {
                    claims.push((object, body));
                }
            }
            file.documents.insert(digest, defines);
        }
        for object in leaving.keys() {
            file.contested.remove(object);
        }
        for object in leaving.into_keys() {
            self.release(path, &object);
        }
        for (object, body) in claims {
            self.claim(path, object, Some(body));
        }
    }

    fn put_whole(&mut self, path: &Arc<str>, manifest: Manifest) {
        let mut former = self.files.remove(path).map(Kept::into_whole).unwrap_or_default();
        let mut file = File { notes: manifest.notes, ..File::default() };
        let mut bodies = BTreeMap::new();
        let names = Names { owners: &self.owners, neighbour: self.neighbour.as_deref() };
        for document in manifest.documents {
            take_document(document, &names, &former, &mut file, &mut bodies);
        }
        keep_former(&manifest.refused, &mut former, &mut file);
        for object in
            former.objects.keys().filter(|object| !file.objects.contains_key(*object)).cloned().collect::<BTreeSet<_>>()
        {
            self.release(path, &object);
        }
        file.contested = former.contested.iter().filter(|object| file.objects.contains_key(*object)).cloned().collect();
        let unchanged = |object: &Arc<ObjectRef>, slot: &Slot| {
            former.objects.get(object).is_some_and(|former| !former.owed && former.digest == slot.digest)
        };
        let claims = file.objects.iter().filter(|(object, slot)| !unchanged(object, slot));
        let claims = claims.map(|(object, _)| Arc::clone(object)).collect::<BTreeSet<_>>();
        self.files.insert(Arc::clone(path), Kept::of(file));
        self.neighbour = claims.first().cloned().or(self.neighbour.take());
        for object in claims {
            let body = bodies.remove(&object);
            self.claim(path, object, body);
        }
    }

    /// Takes a file away.
    pub fn remove(&mut self, path: &Arc<str>) {
        self.wanted.remove(path);
        let Some(file) = self.files.remove(path) else { return };
        self.touched.insert(Arc::clone(path));
        for object in file.into_whole().objects.into_keys().collect::<BTreeSet<_>>() {
            self.release(path, &object);
        }
    }

    /// A file that has to be read again before [`FileTable::drain`], because it gives what another file gave before.
    pub fn wanted(&self) -> Option<Arc<str>> {
        self.wanted.first().cloned()
    }

    /// What changed since the last call.
    pub fn drain(&mut self) -> Changes {
        let objects = std::mem::take(&mut self.staged)
            .into_iter()
            .map(|(reference, body)| match body {
                Some(body) => ObjectChange::Set(*body),
                None => ObjectChange::Remove(ObjectRef::clone(&reference)),
            })
            .collect();
        let mut files = Vec::new();
        for path in std::mem::take(&mut self.touched) {
            let notes = self.notes(&path);
            let was_noted =
                if notes.is_empty() { self.noted.remove(&path) } else { !self.noted.insert(Arc::clone(&path)) };
            if was_noted || !notes.is_empty() {
                files.push((path, notes));
            }
        }
        Changes { objects, files }
    }

    /// Gives back what the maps of a first load have too much: nodes that were filled in order are half empty.
    pub fn pack(&mut self) {
        self.files = std::mem::take(&mut self.files).into_iter().collect();
        self.owners.shrink_to_fit();
    }

    /// Enters a file's claim to an object that is new or different in it.
    fn claim(&mut self, path: &Arc<str>, object: Arc<ObjectRef>, body: Option<Box<Object>>) {
        let owners = self.owners.entry(Arc::clone(&object)).or_default();
        if let Err(place) = owners.binary_search(path) {
            owners.insert(place, Arc::clone(path));
        }
        let first = owners.first() == Some(path);
        if owners.len() > 1 {
            // The others' notes name the one that comes first, which may be another one from here on.
            let owners = owners.clone();
            self.contest(&object, &owners);
        }
        let Some(slot) = self.files.get_mut(path).and_then(|file| file.slot(&object)) else { return };
        match body {
            _ if !first => slot.owed = false,
            Some(body) => {
                slot.owed = false;
                self.staged.insert(object, Some(body));
            }
            // Its text is one that was not parsed again, but it stands in another place of the file.
            None => {
                slot.owed = true;
                self.wanted.insert(Arc::clone(path));
            }
        }
    }

    /// Gives up a file's claim; what comes next in the order of paths takes over.
    fn release(&mut self, path: &Arc<str>, object: &Arc<ObjectRef>) {
        let Some(owners) = self.owners.get_mut(object) else { return };
        let Ok(place) = owners.binary_search(path) else { return };
        owners.remove(place);
        let rest = owners.clone();
        if rest.is_empty() {
            self.owners.remove(object);
        }
        self.contest(object, &rest);
        if place != 0 {
            return;
        }
        self.staged.insert(Arc::clone(object), None);
        if let Some(next) = rest.first()
            && let Some(slot) = self.files.get_mut(next).and_then(|file| file.slot(object))
        {
            slot.owed = true;
            self.wanted.insert(Arc::clone(next));
        }
    }

    fn contest(&mut self, object: &Arc<ObjectRef>, owners: &[Arc<str>]) {
        for owner in owners {
            self.touched.insert(Arc::clone(owner));
            if owners.len() > 1 {
                let Some(mut file) = self.files.remove(owner).map(Kept::into_whole) else { continue };
                file.contested.insert(Arc::clone(object));
                self.files.insert(Arc::clone(owner), Kept::Whole(Box::new(file)));
            } else if let Some(Kept::Whole(file)) = self.files.get_mut(owner) {
                file.contested.remove(object);
            }
        }
    }

    fn notes(&self, path: &Arc<str>) -> Vec<Rejection> {
        let Some(Kept::Whole(file)) = self.files.get(path) else { return Vec::new() };
        let mut notes = file.notes.clone();
        for object in &file.contested {
            let first = self.owners.get(object).and_then(|owners| owners.first());
            if let Some(first) = first.filter(|first| *first != path) {
                notes.push(duplicate(
                    object,
                    path,
                    &format!("{first} defines this object too and comes first by path"),
                ));
            }
        }
        if !file.kept.is_empty() {
            notes.push(kept_note(path, &file.kept));
        }
        notes
    }
}

impl Kept {
    fn of(file: File) -> Self {
        let is_plain = file.notes.is_empty() && file.contested.is_empty() && file.kept.is_empty() && !file.repeats;
        let mut documents = file.documents.iter();
        let mut objects = file.objects.iter();
        if is_plain
            && let (Some((digest, defines)), None) = (documents.next(), documents.next())
            && let (Some((object, slot)), None) = (objects.next(), objects.next())
            && defines[..] == [(*digest, Arc::clone(object))]
            && slot.digest == *digest
        {
            return Self::Plain { object: Arc::clone(object), slot: slot.clone() };
        }
        Self::Whole(Box::new(file))
    }

    fn into_whole(self) -> File {
        match self {
            Self::Whole(file) => *file,
            Self::Plain { object, slot } => {
                let mut file = File::default();
                file.documents.insert(slot.digest, SmallVec::from([(slot.digest, Arc::clone(&object))]));
                file.objects.insert(object, slot);
                file
            }
        }
    }

    fn slot(&mut self, object: &ObjectRef) -> Option<&mut Slot> {
        match self {
            Self::Plain { object: own, slot } => (**own == *object).then_some(slot),
            Self::Whole(file) => file.objects.get_mut(object),
        }
    }
}

/// The one copy of each object's name.
struct Names<'a> {
    owners: &'a HashMap<Arc<ObjectRef>, SmallVec<[Arc<str>; 1]>, RandomState>,
    neighbour: Option<&'a ObjectRef>,
}

impl Names<'_> {
    fn of(&self, object: &Object) -> Arc<ObjectRef> {
        let mut reference = object.reference();
        if let Some((known, _)) = self.owners.get_key_value(&reference) {
            return Arc::clone(known);
        }
        if let Some(neighbour) = self.neighbour {
            for (text, shared) in
                [(&mut reference.namespace, &neighbour.namespace), (&mut reference.name, &neighbour.name)]
            {
                if text == shared {
                    *text = Arc::clone(shared);
                }
            }
        }
        Arc::new(reference)
    }
}

fn take_document(
    document: Document,
    names: &Names<'_>,
    former: &File,
    file: &mut File,
    bodies: &mut BTreeMap<Arc<ObjectRef>, Box<Object>>,
) {
    let (digest, objects) = match document {
        Document::Known(digest) => {
            let defines = former.documents.get(&digest).cloned().unwrap_or_default();
            (Some(digest), defines.into_iter().map(|(content, object)| (content, object, None)).collect::<Vec<_>>())
        }
        Document::Parsed { digest, objects } => {
            (digest, objects.into_iter().map(|(content, body)| (content, names.of(&body), Some(body))).collect())
        }
    };
    let defines = objects.iter().map(|(content, object, _)| (*content, Arc::clone(object))).collect();
    if let Some(digest) = digest {
        file.documents.insert(digest, defines);
    }
    for (digest, object, body) in objects {
        if file.objects.contains_key(&object) {
            file.repeats = true;
            let reason = "the file defines this object twice, and the first one counts".to_owned();
            file.notes.push(Rejection {
                object: ObjectRef::clone(&object),
                field: "metadata.name".to_owned(),
                verdict: Verdict::Rejected,
                reason,
                remedy: "remove or rename one of the two".to_owned(),
            });
            continue;
        }
        if let Some(body) = body {
            bodies.insert(Arc::clone(&object), body);
        }
        let owed = former.objects.get(&object).is_some_and(|slot| slot.owed);
        file.objects.insert(object, Slot { digest, owed });
    }
}

/// What refused documents gave before stays. What is owed cannot: its body is nowhere.
fn keep_former(refused: &Refused, former: &mut File, file: &mut File) {
    let keeps: Box<dyn Fn(&ObjectRef) -> bool> = match refused {
        Refused::Nothing => return,
        Refused::These(objects) => {
            let objects = objects.iter().collect::<HashSet<_>>();
            Box::new(move |object| objects.contains(object))
        }
        Refused::Anything => Box::new(|_| true),
    };
    for (object, slot) in former.objects.iter().collect::<BTreeMap<_, _>>() {
        if !slot.owed && keeps(object) && !file.objects.contains_key(object) {
            file.objects.insert(Arc::clone(object), slot.clone());
            file.kept.insert(Arc::clone(object));
        }
    }
}

fn duplicate(object: &ObjectRef, path: &Arc<str>, why: &str) -> Rejection {
    Rejection {
        object: object.clone(),
        field: "metadata.name".to_owned(),
        verdict: Verdict::Rejected,
        reason: format!("the definition in {path} is not taken: {why}"),
        remedy: "remove or rename one of the two".to_owned(),
    }
}

fn kept_note(path: &Arc<str>, kept: &BTreeSet<Arc<ObjectRef>>) -> Rejection {
    let mut names = kept.iter().take(MAX_NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if kept.len() > MAX_NAMED {
        names.push_str(&format!(" and {} more", kept.len() - MAX_NAMED));
    }
    Rejection {
        object: crate::object::file_reference(path),
        field: "(file)".to_owned(),
        verdict: Verdict::Warning,
        reason: format!("while the file is broken, what it gave before stays in force: {names}"),
        remedy: "repair the file before the next restart, which forgets them".to_owned(),
    }
}
