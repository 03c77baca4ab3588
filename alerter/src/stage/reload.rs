//! Reads the rules again: when their file changes, and when asked to. A file that is wrong changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use penstock_service::waiting::pause;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::rules::RuleSet;

/// How often it is looked whether a file has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keeps the rules as their file has them, until `stop`. `asked` changes when the file is to be read in any case.
pub(super) async fn watch(
    path: PathBuf,
    rules: watch::Sender<Arc<RuleSet>>,
    mut asked: watch::Receiver<u64>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let mut seen = fingerprint(&path, &rules.borrow());
    loop {
        let is_asked = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = asked.changed() => changed.is_ok(),
            going_on = pause(LOOK_EVERY, &stop) => {
                if !going_on {
                    return;
                }
                false
            }
        };
        let found = fingerprint(&path, &rules.borrow());
        if found == seen && !is_asked {
            continue;
        }
        seen = found;
        match RuleSet::configured(&path) {
            Ok(loaded) => {
                tracing::info!(rules = loaded.rules().len(), file = %path.display(), "rules are read again");
                metrics.reloaded(true);
                // Without a receiver the stage has ended.
                let _ = rules.send(Arc::new(loaded));
                seen = fingerprint(&path, &rules.borrow());
            }
            Err(error) => {
                metrics.reloaded(false);
                tracing::error!("the rules are not read again, those in force stay:\n{error}");
            }
        }
    }
}

/// What changes when one of the files changes: length and time of modification of each.
fn fingerprint(path: &Path, rules: &RuleSet) -> Vec<Option<(u64, SystemTime)>> {
    let look = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.len(), metadata.modified().ok()?))
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let groups = rules.groups().map(|group| folder.join(group));
    std::iter::once(path.to_owned()).chain(groups).map(|path| look(&path)).collect()
}
