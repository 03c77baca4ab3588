//! Shows on standard error how far long work is: one line that is updated on a terminal, else a line now and then.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

const REDRAW: Duration = Duration::from_millis(200);
const LINE: Duration = Duration::from_secs(5);

/// How far one piece of work is.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    shown: Instant,
    terminal: bool,
    is_drawn: bool,
}

impl Progress {
    /// Work that begins now.
    pub fn start() -> Self {
        let now = Instant::now();
        Self { began: now, shown: now, terminal: stderr().is_terminal(), is_drawn: false }
    }

    /// Shows a line, where it is time for one; only then the line is made. `describe` is told how many seconds the work
    /// has taken so far.
    pub fn tick(&mut self, describe: impl FnOnce(f64) -> String) {
        if self.shown.elapsed() < if self.terminal { REDRAW } else { LINE } {
            return;
        }
        self.shown = Instant::now();
        let line = describe(self.began.elapsed().as_secs_f64());
        // Nobody may be reading; that must not end the work.
        let _ = if self.terminal { write!(stderr(), "\r\x1b[K{line}") } else { writeln!(stderr(), "{line}") };
        let _ = stderr().flush();
        self.is_drawn = self.terminal;
    }

    /// Takes the updated line off the terminal, before something else is written there.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            let _ = write!(stderr(), "\r\x1b[K");
            let _ = stderr().flush();
        }
    }

    /// How long the work has taken so far.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
