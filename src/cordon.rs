//! `cordon` and `uncordon`: takes a running director out of service and lets it back in, through its admin API.

use crate::cli::{CordonArguments, UncordonArguments};
use crate::options::AdminAddress;
use crate::output::{print, warn};
use crate::{Failure, admin_client};
use anyhow::bail;
use sluicegate_admin::State;
use sluicegate_admin::director::DirectorState;
use std::time::{Duration, Instant};

/// A hand-over takes milliseconds where the others are there.
const HAND_OVER: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);

pub fn cordon(arguments: &CordonArguments) -> Result<(), Failure> {
    let path = if arguments.force { "/api/v1/cordon?force=true" } else { "/api/v1/cordon" };
    let director: DirectorState = admin_client::post(&arguments.admin, path)?;
    let orphans = wait_until_it_holds_nothing(&arguments.admin, &director.name)?;
    print(&format!("{} is cordoned and holds no virtual IP\n", director.name))?;
    if !orphans.is_empty() {
        warn(&format!("nobody holds {}", orphans.join(", ")));
    }
    Ok(())
}

pub fn uncordon(arguments: &UncordonArguments) -> Result<(), Failure> {
    let director: DirectorState = admin_client::post(&arguments.admin, "/api/v1/uncordon")?;
    print(&format!("{} may hold virtual IPs again\n", director.name))?;
    Ok(())
}

/// The virtual IPs that nobody holds afterwards. Those that others are about to take are waited for.
fn wait_until_it_holds_nothing(admin: &AdminAddress, director: &str) -> anyhow::Result<Vec<String>> {
    let begun = Instant::now();
    loop {
        let state: State = admin_client::get(admin, "/api/v1/state?section=vips")?;
        let vips = state.vips.unwrap_or_default();
        let held = vips.iter().filter(|vip| vip.owner.as_deref() == Some(director)).count();
        let orphans: Vec<String> =
            vips.iter().filter(|vip| vip.owner.is_none()).map(|vip| vip.address.to_string()).collect();
        let has_successor =
            state.director.is_some_and(|director| director.peers.iter().any(|peer| peer.present && peer.fit));
        let is_patient = begun.elapsed() < HAND_OVER;
        if held == 0 && (orphans.is_empty() || !has_successor || !is_patient) {
            return Ok(orphans);
        }
        if !is_patient {
            bail!("{director} is cordoned and still holds {held} virtual IPs; its log says why");
        }
        std::thread::sleep(LOOK);
    }
}
