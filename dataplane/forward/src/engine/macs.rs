//! Which MAC addresses the program takes frames for, by port.

use super::rows::Row;
use crate::ports::Port;
use aya::maps::{Array, MapData, MapError};
use sluicegate_l4::layout::PortMacs;
use std::collections::BTreeMap;

/// The table in the kernel.
pub struct MacTable {
    map: Array<MapData, Row<PortMacs>>,
}

impl MacTable {
    /// Of the loaded object.
    pub const fn new(map: Array<MapData, Row<PortMacs>>) -> Self {
        Self { map }
    }

    /// Writes the rows that differ.
    ///
    /// # Errors
    /// Where the kernel refuses one.
    pub fn set(&mut self, ports: &BTreeMap<u32, Port>) -> Result<(), MapError> {
        let wanted = rows(ports);
        for row in 0..PortMacs::ROWS {
            let wanted = wanted.get(&row).copied().unwrap_or_default();
            let held = self.map.get(&row, 0)?.0;
            if held == wanted {
                continue;
            }
            // Other CPUs may read a row half written: meanwhile it takes everything, as one that nobody wrote.
            if held.ifindex != 0 {
                self.map.set(row, Row(PortMacs { ifindex: 0, ..held }), 0)?;
            }
            self.map.set(row, Row(PortMacs { ifindex: 0, ..wanted }), 0)?;
            self.map.set(row, Row(wanted), 0)?;
        }
        Ok(())
    }
}

/// The rows that are not empty. Ports that share one, and those with more addresses than it holds, take every frame.
fn rows(ports: &BTreeMap<u32, Port>) -> BTreeMap<u32, PortMacs> {
    let mut rows: BTreeMap<u32, PortMacs> = BTreeMap::new();
    for port in ports.values() {
        let known = !port.macs.is_empty() && !port.macs.contains(&[0; 6]);
        let mut row = PortMacs { ifindex: port.index, ..PortMacs::default() };
        if !known || port.macs.len() > row.macs.len() {
            row = PortMacs::default();
        }
        for (place, mac) in row.macs.iter_mut().zip(&port.macs) {
            *place = PortMacs::word(*mac);
        }
        rows.entry(PortMacs::row_of(port.index)).and_modify(|row| *row = PortMacs::default()).or_insert(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(index: u32, macs: &[[u8; 6]]) -> (u32, Port) {
        let (name, asked_as) = (format!("eth{index}"), format!("eth{index}"));
        (index, Port { index, name, mac: [2; 6], macs: macs.to_vec(), mtu: 1500, asked_as })
    }

    #[test]
    fn a_port_takes_its_addresses_and_everything_where_they_do_not_fit() {
        let many: Vec<[u8; 6]> = (0..8).map(|last| [2, 0, 0, 0, 1, last]).collect();
        let ports = [
            port(3, &[[2, 0, 0, 0, 0, 3], [2, 0, 0, 0, 0, 4]]),
            port(4, &many),
            port(5, &many[..7]),
            port(6, &[]),
            port(7, &[[0; 6]]),
            port(8, &[[2, 0, 0, 0, 0, 8]]),
            port(8 + 256, &[[2, 0, 0, 0, 0, 9]]),
        ];
        let rows = rows(&BTreeMap::from(ports));
        assert_eq!(rows[&3].ifindex, 3);
        assert_eq!(rows[&3].macs[..3], [0x0300_0000_0002, 0x0400_0000_0002, 0]);
        assert_eq!(rows[&5].ifindex, 5);
        assert!([4, 6, 7, 8].iter().all(|row| rows[row].ifindex == 0), "{rows:?}");
    }
}
