//! What the programs of the suites have in common.

use std::fmt::Display;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

/// A seed for whoever gives none.
pub fn drawn_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) % 100_000
}

/// A line that names kinds which were never injected; nothing if there are none.
pub fn shown(never: &[impl Display]) -> String {
    if never.is_empty() {
        return String::new();
    }
    let never: Vec<_> = never.iter().map(ToString::to_string).collect();
    format!("never injected: {}\n", never.join(", "))
}

/// The first Ctrl-C or SIGTERM ends the run in order: faults are undone, every process ends. The second one ends it at
/// once; children are then killed by the kernel.
///
/// # Errors
/// If signals cannot be listened for.
pub fn cancel_on_signal(cancel: CancellationToken) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _guard = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::Builder::new().name("chaos-signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if cancel.is_cancelled() {
                    std::process::abort();
                }
                eprintln!("ending: faults are undone first");
                cancel.cancel();
            }
        });
    })?;
    Ok(())
}
