//! One network namespace: a host, a router or a switch. Work is done in it by threads that enter it; a socket that was
//! opened there belongs to it for good, whoever uses it afterwards.

use std::fs;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::bpf::{Attachment, Hook, Program};
use crate::{Capture, Frame, FrameSender, LabError, Process, mounts, netlink, offload};

/// A namespace of a [`Lab`](crate::Lab). Clones are the same namespace. It goes when the lab is dropped; a handle that
/// is kept longer can still be entered, but its links are gone.
#[derive(Debug, Clone)]
pub struct Namespace {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    label: String,
    name: String,
    file: OwnedFd,
}

impl Namespace {
    /// Makes a namespace under `/run/netns/<name>`, with `lo` up, and without the noise and delays of IPv6 address
    /// detection.
    pub(crate) fn create(label: &str, name: String) -> Result<Self, LabError> {
        let path = mounts::name_path(&name);
        fs::create_dir_all(mounts::NAMES).map_err(LabError::system(format!("making {}", mounts::NAMES)))?;
        let made = OpenOptions::new().write(true).create_new(true).open(&path);
        made.map_err(LabError::system(format!("making {}", path.display())))?;
        let opened = mount_fresh(&name).and_then(|()| File::open(&path));
        let file = opened
            .map_err(LabError::system(format!("making the namespace {name} (is this root, with CAP_SYS_ADMIN?)")))
            .inspect_err(|_| mounts::remove(&name))?;
        let namespace = Self { shared: Arc::new(Shared { label: label.to_owned(), name, file: file.into() }) };
        namespace.prepare().inspect_err(|_| mounts::remove(namespace.name()))?;
        Ok(namespace)
    }

    /// The name that it was given in its lab, such as `client1`.
    pub fn label(&self) -> &str {
        &self.shared.label
    }

    /// The name under `/run/netns`, for `nsenter --net=/run/netns/<name>`.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The file under `/run/netns`.
    pub fn path(&self) -> PathBuf {
        mounts::name_path(&self.shared.name)
    }

    /// A BPF file system of its own, which programs that are started in the namespace see as `/sys/fs/bpf`: the pins of
    /// two directors do not meet, and those of a killed one are there for its successor. It goes with the lab.
    pub fn bpf_directory(&self) -> PathBuf {
        mounts::bpf_path(&self.shared.name)
    }

    /// Runs the closure on a thread inside of the namespace and waits for it. A panic goes on in the caller.
    ///
    /// # Panics
    ///
    /// Where the process lost `CAP_SYS_ADMIN` after it made the lab.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            self.enter().expect("a namespace that this process made can be entered");
            work()
        };
        match thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(value) => value,
            Err(panicked) => panic::resume_unwind(panicked),
        }
    }

    /// Starts a thread inside of the namespace.
    ///
    /// # Panics
    ///
    /// The thread panics where the process lost `CAP_SYS_ADMIN` after it made the lab.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
        let namespace = self.clone();
        thread::spawn(move || {
            namespace.enter().expect("a namespace that this process made can be entered");
            work()
        })
    }

    /// Starts a program inside of the namespace, with a `/sys` that shows the namespace's interfaces and its
    /// [`bpf_directory`](Self::bpf_directory) as `/sys/fs/bpf`. It is killed when the [`Process`] is dropped, and, should this process
    /// die before, by the next [`Lab::sweep`](crate::Lab::sweep).
    pub fn spawn_process(&self, mut command: Command) -> Result<Process, LabError> {
        let what = format!("starting {:?} in {}", command.get_program(), self.label());
        let spawn = || mounts::see_own_sys(self.name()).and_then(|()| command.spawn());
        let child = self.run(spawn).map_err(LabError::system(what))?;
        Ok(Process::new(child))
    }

    /// Reads a kernel setting, such as `net/ipv4/ip_forward`.
    pub fn sysctl(&self, key: &str) -> Result<String, LabError> {
        let text = self.run(|| fs::read_to_string(sysctl_path(key)));
        let text = text.map_err(LabError::system(format!("reading {key} in {}", self.label())))?;
        Ok(text.trim().to_owned())
    }

    /// Writes a kernel setting of this namespace.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<(), LabError> {
        self.run(|| fs::write(sysctl_path(key), value))
            .map_err(LabError::system(format!("setting {key} to {value} in {}", self.label())))
    }

    /// Forwards packets between its interfaces, IPv4 and IPv6, without sending redirects.
    pub fn become_router(&self) -> Result<(), LabError> {
        self.set_sysctl("net/ipv4/ip_forward", "1")?;
        self.set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
        self.set_sysctl("net/ipv4/conf/all/send_redirects", "0")?;
        self.set_sysctl("net/ipv4/conf/default/send_redirects", "0")
    }

    /// Adds an address such as `192.0.2.1/24` or `2001:db8::1/64` to an interface, usable at once.
    pub fn add_address(&self, interface: &str, address: &str) -> Result<(), LabError> {
        let (address, prefix) = parse_prefix(address)?;
        self.ask(|| netlink::add_address(interface, address, prefix))
    }

    /// Removes an address from an interface.
    pub fn remove_address(&self, interface: &str, address: &str) -> Result<(), LabError> {
        let (address, prefix) = parse_prefix(address)?;
        self.ask(|| netlink::remove_address(interface, address, prefix))
    }

    /// Makes the host a real server of direct server return: the address lies on `lo`, and is neither answered for
    /// (`arp_ignore` 1) nor told to neighbours (`arp_announce` 2). For IPv6 the address on `lo` is enough.
    pub fn hold_vip(&self, vip: IpAddr) -> Result<(), LabError> {
        self.set_sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
        self.set_sysctl("net/ipv4/conf/all/arp_announce", "2")?;
        let length = if vip.is_ipv4() { 32 } else { 128 };
        self.ask(|| netlink::add_address("lo", vip, length))
    }

    /// Takes back what [`hold_vip`](Self::hold_vip) did with the address.
    pub fn drop_vip(&self, vip: IpAddr) -> Result<(), LabError> {
        let length = if vip.is_ipv4() { 32 } else { 128 };
        self.ask(|| netlink::remove_address("lo", vip, length))
    }

    /// Adds a route to `destination` (`0.0.0.0/0` and `::/0` are the default routes) through a gateway.
    pub fn add_route(&self, destination: &str, gateway: IpAddr) -> Result<(), LabError> {
        let (destination, prefix) = parse_prefix(destination)?;
        self.ask(|| netlink::add_route(destination, prefix, gateway))
    }

    /// Removes a route.
    pub fn remove_route(&self, destination: &str, gateway: IpAddr) -> Result<(), LabError> {
        let (destination, prefix) = parse_prefix(destination)?;
        self.ask(|| netlink::remove_route(destination, prefix, gateway))
    }

    /// Sets a neighbour that never ages, instead of whom ARP or NDP would find.
    pub fn set_neighbour(&self, interface: &str, address: IpAddr, mac: [u8; 6]) -> Result<(), LabError> {
        self.ask(|| netlink::set_neighbour(interface, address, mac))
    }

    /// Forgets the neighbours that ARP and NDP found, as the kernel does by itself with those that it has no use for.
    pub fn forget_neighbours(&self, interface: &str) -> Result<(), LabError> {
        self.ask(|| netlink::forget_neighbours(interface))
    }

    /// Sets an interface up or down, as an administrator of this host would. Setting it down removes its routes and
    /// IPv6 addresses; [`Bridge::unplug`](crate::Bridge::unplug) takes the carrier alone.
    pub fn set_link(&self, interface: &str, up: bool) -> Result<(), LabError> {
        self.ask(|| netlink::set_up(interface, up))
    }

    /// Sets the MTU of an interface, in bytes without the Ethernet header.
    pub fn set_mtu(&self, interface: &str, mtu: u32) -> Result<(), LabError> {
        self.ask(|| netlink::set_mtu(interface, mtu))
    }

    /// The MTU of an interface.
    pub fn mtu(&self, interface: &str) -> Result<u32, LabError> {
        Ok(self.ask(|| netlink::find(interface))?.mtu)
    }

    /// The hardware address of an interface.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6], LabError> {
        Ok(self.ask(|| netlink::find(interface))?.mac)
    }

    /// Sets the hardware address of an interface.
    pub fn set_mac(&self, interface: &str, mac: [u8; 6]) -> Result<(), LabError> {
        self.ask(|| netlink::set_mac(interface, mac))
    }

    /// The number of an interface. Numbers count from 1 in every namespace.
    pub fn ifindex(&self, interface: &str) -> Result<u32, LabError> {
        Ok(self.ask(|| netlink::find(interface))?.index)
    }

    /// Whether an interface is up and the other end of its wire too.
    pub fn has_carrier(&self, interface: &str) -> Result<bool, LabError> {
        let facts = self.ask(|| netlink::find(interface))?;
        Ok(facts.up && facts.running)
    }

    /// Captures what passes an interface from here on, both ways.
    pub fn capture(&self, interface: &str) -> Result<Capture, LabError> {
        Capture::start(self, interface, |_| true)
    }

    /// Captures the frames that `wanted` is true for, which keeps captures under load small.
    pub fn capture_if(
        &self,
        interface: &str,
        wanted: impl Fn(&Frame) -> bool + Send + 'static,
    ) -> Result<Capture, LabError> {
        Capture::start(self, interface, wanted)
    }

    /// For frames that no socket would send: malformed, borrowed, many.
    pub fn frame_sender(&self, interface: &str) -> Result<FrameSender, LabError> {
        FrameSender::open(self, interface)
    }

    /// Loads a packet program and attaches it to an interface, until the [`Attachment`] is dropped.
    pub fn attach(&self, interface: &str, hook: Hook, program: &Program) -> Result<Attachment, LabError> {
        self.run(|| program.attach(interface, hook))
    }

    /// Lets frames arrive that the other end of the wire sends with `XDP_TX` or `XDP_REDIRECT`, by a native XDP program
    /// that passes everything. Ports of a [`Bridge`](crate::Bridge) have one.
    pub fn accept_xdp_frames(&self, interface: &str) -> Result<Attachment, LabError> {
        self.attach(interface, Hook::Xdp, &Program::pass())
    }

    /// Lets the kernel merge received segments of a flow (GRO) at an interface, or not, as wires are made. With it, frames that
    /// the other end sends with `XDP_TX` or `XDP_REDIRECT` arrive without a native program here.
    pub fn merge_received_segments(&self, interface: &str, merge: bool) -> Result<(), LabError> {
        let what = format!("switching GRO of {interface} in {}", self.label());
        self.run(|| offload::merge_received(interface, merge)).map_err(LabError::system(what))
    }

    pub(crate) fn file(&self) -> &OwnedFd {
        &self.shared.file
    }

    /// Runs a request over netlink inside, and names the namespace in its errors.
    pub(crate) fn ask<T: Send>(&self, request: impl FnOnce() -> Result<T, LabError> + Send) -> Result<T, LabError> {
        self.run(request).map_err(|error| match error {
            LabError::NoInterface { interface, .. } => {
                LabError::NoInterface { namespace: self.label().to_owned(), interface }
            }
            LabError::Netlink { what, source } => {
                LabError::Netlink { what: format!("{}: {what}", self.label()), source }
            }
            other => other,
        })
    }

    fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.shared.file.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    fn prepare(&self) -> Result<(), LabError> {
        const QUIET: &[(&str, &str)] = &[
            // Addresses are given by hand and are unique: what looks for duplicates or routers only delays and makes
            // captures noisy.
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/default/dad_transmits", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv6/conf/default/router_solicitations", "0"),
            // The host's own choice must not show through.
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv6/conf/all/disable_ipv6", "0"),
            ("net/ipv6/conf/default/disable_ipv6", "0"),
            // Tests of error paths ask for many ICMP errors in little time.
            ("net/ipv4/icmp_ratelimit", "0"),
            ("net/ipv6/icmp/ratelimit", "0"),
        ];
        self.run(|| QUIET.iter().try_for_each(|(key, value)| fs::write(sysctl_path(key), value)))
            .map_err(LabError::system(format!("preparing the namespace {}", self.label())))?;
        self.set_link("lo", true)
    }
}

/// Kills what still runs in the namespace, other than this process, and removes its name and mounts. The kernel then
/// removes its links.
pub(crate) fn remove(name: &str) {
    if let Ok(namespace) = fs::metadata(mounts::name_path(name)) {
        for pid in processes_in(&namespace) {
            // One that ends by itself in between is as good.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    mounts::remove(name);
}

/// Processes whose first thread is in the namespace, without this one.
fn processes_in(namespace: &fs::Metadata) -> Vec<rustix::process::Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let others = ids.filter(|id| u32::try_from(*id) != Ok(std::process::id()));
    let inside = others.filter(|id| {
        fs::metadata(format!("/proc/{id}/ns/net"))
            .is_ok_and(|theirs| (theirs.dev(), theirs.ino()) == (namespace.dev(), namespace.ino()))
    });
    inside.filter_map(rustix::process::Pid::from_raw).collect()
}

/// Makes what lies behind a name, on a thread that ends here.
fn mount_fresh(name: &str) -> io::Result<()> {
    mounts::make_bpf(name)?;
    let path = mounts::name_path(name);
    let made = thread::scope(|scope| scope.spawn(|| mounts::make_namespace(&path)).join());
    made.unwrap_or_else(|_| Err(rustix::io::Errno::IO.into()))
}

fn sysctl_path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key.trim_start_matches('/'))
}

pub(crate) fn parse_prefix(text: &str) -> Result<(IpAddr, u8), LabError> {
    let wrong = || LabError::Prefix(text.to_owned());
    let (address, length) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let length: u8 = length.parse().map_err(|_| wrong())?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    if length <= longest { Ok((address, length)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_checked() {
        assert_eq!(parse_prefix("192.0.2.1/24").expect("good"), ("192.0.2.1".parse().expect("good"), 24));
        assert_eq!(parse_prefix("2001:db8::/64").expect("good"), ("2001:db8::".parse().expect("good"), 64));
        for bad in ["192.0.2.1", "192.0.2.1/33", "2001:db8::/129", "/24", "192.0.2/24", "192.0.2.1/-1"] {
            assert!(parse_prefix(bad).is_err(), "{bad}");
        }
    }
}
