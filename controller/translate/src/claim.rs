//! Which Ingresses are ours, and in which dialect.

use crate::facts::ingress::{Class, ClassUse, Ingress};
use crate::objects::Objects;
use sluicegate_config::settings::INGRESS_NGINX_CONTROLLER;
use sluicegate_config::{Dialect, Settings};
use std::cmp::Reverse;
use std::sync::Arc;

/// Why an Ingress is somebody else's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotOurs {
    #[error("IngressClass {0} does not exist")]
    NoSuchClass(Arc<str>),
    #[error("IngressClass {class} belongs to controller {controller:?}")]
    OtherController { class: Arc<str>, controller: Box<str> },
    #[error("class {0} is not ours")]
    OtherName(Arc<str>),
    #[error("no class is named, and the default IngressClass {class} belongs to controller {controller:?}")]
    OtherDefault { class: Arc<str>, controller: Box<str> },
    #[error("no class is named and there is no default IngressClass")]
    NoDefault,
}

impl NotOurs {
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::NoSuchClass(_) => {
                "create that IngressClass with spec.controller: sluicegate.io/ingress, or name one that exists"
            }
            Self::OtherController { .. } | Self::OtherName(_) => {
                "name an IngressClass of controller sluicegate.io/ingress if the gateway shall serve it"
            }
            Self::OtherDefault { .. } | Self::NoDefault => {
                "name an IngressClass in spec.ingressClassName if the gateway shall serve it"
            }
        }
    }
}

impl Objects {
    /// The class decides: by the field, else by the annotation, else the default class.
    ///
    /// # Errors
    /// Says whose it is.
    pub(crate) fn claim(&self, ingress: &Ingress) -> Result<Dialect, NotOurs> {
        let settings = &*self.settings;
        let adopt = settings.adopt_without_classes && self.classes.is_empty();
        match &ingress.class {
            ClassUse::Field(name) => match self.classes.get(name) {
                Some(class) => by_class(settings, name, class),
                None if adopt && settings.owns_class_name(name) => Ok(dialect_of_name(settings, name)),
                None => Err(NotOurs::NoSuchClass(Arc::clone(name))),
            },
            ClassUse::Annotation(name) => match self.classes.get(name) {
                Some(class) => by_class(settings, name, class),
                None if settings.owns_class_name(name) => Ok(dialect_of_name(settings, name)),
                None => Err(NotOurs::OtherName(Arc::clone(name))),
            },
            ClassUse::Unnamed => match self.default_class() {
                Some((name, class)) => match dialect_of(settings, class) {
                    Some(dialect) => Ok(dialect),
                    None => {
                        Err(NotOurs::OtherDefault { class: Arc::clone(name), controller: class.controller.clone() })
                    }
                },
                None if adopt || settings.watch_ingress_without_class => Ok(inherited_dialect(settings)),
                None => Err(NotOurs::NoDefault),
            },
        }
    }

    /// The dialect of an Ingress that takes traffic; `None` if it is not ours or is a canary.
    pub(crate) fn serves(&self, ingress: &Ingress) -> Option<Dialect> {
        if ingress.options().canary {
            return None;
        }
        self.claim(ingress).ok()
    }

    /// The default class. Of several the newest, of equally old ones the first by name, as the API server chooses.
    pub(crate) fn default_class(&self) -> Option<(&Arc<str>, &Class)> {
        self.classes
            .iter()
            .filter(|(_, class)| class.default)
            .min_by_key(|(name, class)| (Reverse(class.created), *name))
    }
}

fn by_class(settings: &Settings, name: &Arc<str>, class: &Class) -> Result<Dialect, NotOurs> {
    dialect_of(settings, class)
        .ok_or_else(|| NotOurs::OtherController { class: Arc::clone(name), controller: class.controller.clone() })
}

/// The dialect of a class that is ours: its annotation, else that of its controller.
pub(crate) fn dialect_of(settings: &Settings, class: &Class) -> Option<Dialect> {
    let inherited = if *class.controller == *settings.controller {
        Dialect::Strict
    } else if settings.take_over_ingress_nginx && &*class.controller == INGRESS_NGINX_CONTROLLER {
        Dialect::Nginx
    } else {
        return None;
    };
    Some(match class.dialect.as_deref() {
        Some("strict") => Dialect::Strict,
        Some("nginx") => Dialect::Nginx,
        _ => inherited,
    })
}

fn dialect_of_name(settings: &Settings, name: &str) -> Dialect {
    if settings.is_taken_over_name(name) { Dialect::Nginx } else { Dialect::Strict }
}

/// Ingresses without any class, where the gateway stands in for ingress-nginx, were written for it.
fn inherited_dialect(settings: &Settings) -> Dialect {
    if settings.take_over_ingress_nginx { Dialect::Nginx } else { Dialect::Strict }
}
