//! The built eBPF objects. It decides nothing: the programs are the packet path of `sluicegate-l4` over the kernel's maps.
