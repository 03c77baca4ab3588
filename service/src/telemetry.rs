//! Logs of the process: for people on a terminal, as JSON lines otherwise. Never writes to standard output,
//! which belongs to the results of commands.

use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::{LogFormat, Telemetry};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error(
        "telemetry.log_level does not parse ({0}): use error, warn, info, debug, trace or info,module=debug"
    )]
    Filter(#[from] ParseError),
    /// Somebody set up logging before.
    #[error("logging is already set up in this process ({0}): call telemetry::init once, in main")]
    AlreadySet(#[from] TryInitError),
}

/// Sends `tracing` events and `log` records to standard error, and panics too, so that they stand in the log
/// as one event.
///
/// # Errors
/// The filter does not parse (a validated configuration's does), or logging is set up already.
pub fn init(telemetry: &Telemetry) -> Result<(), TelemetryError> {
    let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let terminal = Terminal { is_terminal: io::stderr().is_terminal(), colours };
    subscriber(telemetry, terminal, io::stderr)?.try_init()?;
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if tracing::enabled!(tracing::Level::ERROR) {
            let backtrace = std::backtrace::Backtrace::capture();
            tracing::error!(%backtrace, "{panic}");
        } else {
            print(panic);
        }
    }));
    Ok(())
}

/// What the log is written to.
#[derive(Clone, Copy)]
struct Terminal {
    is_terminal: bool,
    colours: bool,
}

fn subscriber<W>(
    telemetry: &Telemetry,
    terminal: Terminal,
    writer: W,
) -> Result<impl Subscriber + Send + Sync + 'static, TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = parse_filter(&telemetry.log_level)?;
    let human = match telemetry.log_format {
        LogFormat::Auto => terminal.is_terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let layer = fmt::layer().with_writer(writer);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = if human {
        layer.with_ansi(terminal.is_terminal && terminal.colours).boxed()
    } else {
        layer.json().flatten_event(true).with_ansi(false).boxed()
    };
    Ok(Registry::default().with(layer.with_filter(filter)))
}

/// Parses `error`, `warn`, `info`, `debug`, `trace`, `off` or directives such as
/// `info,penstock_gateway=debug`.
pub(crate) fn parse_filter(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, format: LogFormat, is_terminal: bool) -> String {
        let telemetry = Telemetry { log_level: level.to_owned(), log_format: format, ..Telemetry::default() };
        let terminal = Terminal { is_terminal, colours: true };
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = subscriber(&telemetry, terminal, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(partition = 7, "batch stored");
            tracing::debug!("detail");
        });
        let bytes = buffer.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_terminal_gets_colours_and_anything_else_json_lines() {
        assert!(logged("info", LogFormat::Auto, true).contains('\u{1b}'));
        let text = logged("info", LogFormat::Auto, false);
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["message"], "batch stored");
        assert_eq!(line["partition"], 7);
        assert_eq!(line["level"], "INFO");
        assert!(line["timestamp"].is_string());
    }

    #[test]
    fn log_format_overrides_the_terminal() {
        assert!(logged("info", LogFormat::Json, true).starts_with('{'));
        let human = logged("info", LogFormat::Human, false);
        assert!(human.contains("batch stored partition=7") && !human.contains('\u{1b}'), "{human}");
    }

    #[test]
    fn log_level_is_a_filter_by_module() {
        assert!(!logged("info", LogFormat::Human, false).contains("detail"));
        assert!(logged("warn,penstock_service=debug", LogFormat::Human, false).contains("detail"));
        let telemetry = Telemetry { log_level: "info=loud".to_owned(), ..Telemetry::default() };
        let terminal = Terminal { is_terminal: false, colours: false };
        assert!(matches!(subscriber(&telemetry, terminal, io::sink), Err(TelemetryError::Filter(_))));
    }
}
