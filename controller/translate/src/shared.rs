//! What many objects have in common is kept once: names, namespaces, paths, field names, sets of annotations.

use crate::annotations::{self, Options};
use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// The annotations of an Ingress that mean something here, as written and as read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Annotations {
    pub(crate) written: Box<[(Box<str>, Box<str>)]>,
    pub(crate) options: Options,
}

/// Annotations are equal, and hashed, by what is written.
#[derive(Debug, PartialEq, Eq)]
struct Written(Arc<Annotations>);

impl Hash for Written {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.written.hash(state);
    }
}

impl Borrow<[(Box<str>, Box<str>)]> for Written {
    fn borrow(&self) -> &[(Box<str>, Box<str>)] {
        &self.0.written
    }
}

/// Values that are still in use somewhere, and the odd one that is not.
///
/// Unused ones are swept out when their number has doubled, so that the cost of sweeping is shared by the insertions.
#[derive(Debug)]
pub(crate) struct Shared {
    texts: HashSet<Arc<str>>,
    annotations: HashSet<Written>,
    sweep_texts_at: usize,
    sweep_annotations_at: usize,
}

const SMALL: usize = 1024;

impl Default for Shared {
    fn default() -> Self {
        Self { texts: HashSet::new(), annotations: HashSet::new(), sweep_texts_at: SMALL, sweep_annotations_at: SMALL }
    }
}

impl Shared {
    /// The one copy of a text.
    pub(crate) fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        if self.texts.len() >= self.sweep_texts_at {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.sweep_texts_at = SMALL.max(self.texts.len() * 2);
        }
        let text: Arc<str> = text.into();
        self.texts.insert(Arc::clone(&text));
        text
    }

    /// Forgets what nobody uses, and gives back what the sets have too much.
    pub(crate) fn pack(&mut self) {
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.texts.shrink_to_fit();
        self.annotations.retain(|annotations| Arc::strong_count(&annotations.0) > 1);
        self.annotations.shrink_to_fit();
    }

    /// The one copy of a set of annotations.
    pub(crate) fn annotations(&mut self, written: Box<[(Box<str>, Box<str>)]>) -> Arc<Annotations> {
        if let Some(known) = self.annotations.get(&*written) {
            return Arc::clone(&known.0);
        }
        if self.annotations.len() >= self.sweep_annotations_at {
            self.annotations.retain(|annotations| Arc::strong_count(&annotations.0) > 1);
            self.sweep_annotations_at = SMALL.max(self.annotations.len() * 2);
        }
        let (options, _) = annotations::read(&written);
        let annotations = Arc::new(Annotations { written, options });
        self.annotations.insert(Written(Arc::clone(&annotations)));
        annotations
    }
}

#[cfg(test)]
mod tests {
    use super::{SMALL, Shared};

    #[test]
    fn one_copy_while_it_is_used_and_none_after() {
        let mut shared = Shared::default();
        let kept = shared.text("kept");
        assert!(std::sync::Arc::ptr_eq(&kept, &shared.text("kept")));
        for n in 0..SMALL * 8 {
            shared.text(&format!("gone-{n}"));
        }
        assert!(shared.texts.len() <= SMALL, "{} texts are kept for one that is used", shared.texts.len());
        assert!(shared.texts.contains("kept"));
    }
}
