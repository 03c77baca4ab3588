//! Limits that the operating system sets on the process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit of open files to the highest the process may have: each connection is one.
pub(crate) fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files; it bounds the number of connections");
    }
}
