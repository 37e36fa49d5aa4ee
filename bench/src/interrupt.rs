//! Ctrl-C and SIGTERM while servers are running: what goes on is ended in order, so that nothing is left behind.

use anyhow::bail;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Whether somebody wants the end.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Watches from here on. The second time the process ends at once.
    ///
    /// # Errors
    /// Where signals cannot be had.
    pub fn watch() -> anyhow::Result<Self> {
        let wanted = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&wanted);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut signals = {
            let _inside = runtime.enter();
            [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?]
        };
        std::thread::spawn(move || {
            runtime.block_on(async {
                any(&mut signals).await;
                theirs.store(true, Ordering::Relaxed);
                eprintln!("ends after this turn; once more to leave at once");
                any(&mut signals).await;
                std::process::exit(130);
            });
        });
        Ok(Self(wanted))
    }

    /// To be asked between two pieces of work.
    ///
    /// # Errors
    /// Where the end is wanted.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }
}

async fn any(signals: &mut [Signal; 2]) {
    let [one, other] = signals;
    tokio::select! { _ = one.recv() => {}, _ = other.recv() => {} }
}
