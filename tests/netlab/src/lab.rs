//! The laboratory: it makes namespaces, joins them, and takes all of it away again. It decides nothing about what runs
//! in them.

use crate::names::{Owner, check_label, namespace_name, owner_of};
use crate::slow_wire::SlowWire;
use crate::wire::{self, WireOptions};
use crate::{Bridge, LabError, Namespace, mounts, namespace};

/// A network of namespaces that lives as long as this value.
///
/// Labs of several processes, and several labs of one process, do not see each other, whatever their prefixes. What a
/// killed process left behind goes when the next lab of that prefix is made, or by [`Lab::sweep`].
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    owner: Owner,
    /// Tells the labs of one process apart.
    serial: u32,
    labels: Vec<String>,
    slow_wires: Vec<SlowWire>,
    names: Vec<String>,
}

impl Lab {
    /// Begins an empty lab. The prefix (such as `sg-forward`) says whose namespaces these are; those of dead processes
    /// with the same prefix are removed first.
    pub fn new(prefix: &str) -> Result<Self, LabError> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);

        check_label("the prefix of a lab", prefix)?;
        Self::sweep(prefix);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let owner = Owner::current();
        Ok(Self {
            prefix: prefix.to_owned(),
            owner,
            serial,
            labels: Vec::new(),
            slow_wires: Vec::new(),
            names: Vec::new(),
        })
    }

    /// Removes the namespaces of labs of that prefix whose process is dead, and kills what still runs in them. Says
    /// how many there were. A process of another container counts as dead, should it share `/run/netns`.
    pub fn sweep(prefix: &str) -> usize {
        let stale = mounts::existing();
        let stale = stale.iter().filter(|name| owner_of(prefix, name).is_some_and(|owner| !owner.lives()));
        stale.map(|name| namespace::remove(name)).count()
    }

    /// Makes a host: a namespace with `lo` up and nothing else. The label is unique in the lab.
    pub fn namespace(&mut self, label: &str) -> Result<Namespace, LabError> {
        check_label("the label of a namespace", label)?;
        if self.labels.iter().any(|known| known == label) {
            let name = label.to_owned();
            return Err(LabError::Name { what: "the label of a namespace", name, reason: "the lab has one already" });
        }
        let made = Namespace::create(label, namespace_name(&self.prefix, self.owner, self.serial, label))?;
        self.labels.push(label.to_owned());
        self.names.push(made.name().to_owned());
        Ok(made)
    }

    /// Makes a switch: a namespace with a bridge that snoops multicast. Hosts are attached with [`Bridge::attach`].
    pub fn bridge(&mut self, label: &str) -> Result<Bridge, LabError> {
        Bridge::create(self.namespace(label)?)
    }

    /// Joins two hosts by a wire; both ends are up.
    pub fn connect(
        &mut self,
        one: &Namespace,
        one_interface: &str,
        other: &Namespace,
        other_interface: &str,
        options: WireOptions,
    ) -> Result<(), LabError> {
        if options.delay.is_zero() {
            return wire::join((one, one_interface), (other, other_interface), options.mtu);
        }
        let middle = self.namespace(&format!("wire{}", self.slow_wires.len() + 1))?;
        let (one, other) = ((one, one_interface), (other, other_interface));
        self.slow_wires.push(SlowWire::join(one, other, (&middle, ["one", "other"]), options)?);
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.slow_wires.clear();
        for name in &self.names {
            namespace::remove(name);
        }
    }
}
