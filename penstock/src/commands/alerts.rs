//! `penstock alerts`: what fires, and what people say about it.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use penstock_alerter::RuleSet;
use penstock_operator::alerts::{self, Filter, NewSilence, StateFilter};
use penstock_operator::{Cluster, Moment};
use penstock_proto::DeviceId;
use penstock_service::Config;

use crate::common::{Common, print, runtime};

/// Exit code for a command line that cannot be carried out.
const USAGE: u8 = 2;

/// List alerts, acknowledge them, silence devices and rules. Changes nothing about what fires, only who hears of it.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List what fires, newest first
    #[command(
        after_help = "Examples:\n  penstock alerts list\n  penstock alerts list --severity critical --json\n  \
        penstock alerts list --device 0a1b2c3d-0000-4000-8000-0123456789ab --state all"
    )]
    List(ListArgs),
    /// Show everything about one alert: its records, who has acknowledged it, what silences it
    #[command(
        after_help = "Examples:\n  penstock alerts show 5b0e1c2d9f\n  penstock alerts show 5b0e1c2d9f --json"
    )]
    Show(OneArgs),
    /// Acknowledge an alert: it is not notified again until it is resolved
    #[command(
        after_help = "Examples:\n  penstock alerts ack 5b0e1c2d9f\n  penstock alerts ack 5b0e1c2d9f --by ann --comment 'on my way'\n  \
        penstock alerts ack 5b0e1c2d9f --undo"
    )]
    Ack(AckArgs),
    /// Silence a device, a rule, or one rule of one device: what begins meanwhile is notified only if it still fires at
    /// the end
    #[command(
        after_help = "Examples:\n  penstock alerts silence --device 0a1b2c3d-0000-4000-8000-0123456789ab --for 2h --comment 'moving it'\n  \
        penstock alerts silence --rule low-battery --until 2026-12-24T08:00:00Z\n  \
        penstock alerts silence --all --for 30m"
    )]
    Silence(SilenceArgs),
    /// End a silence now
    #[command(after_help = "Example:\n  penstock alerts unsilence 1f2e3d4c5b6a")]
    Unsilence(OneArgs),
    /// Apply the rules to every reading in Kafka, and compare what they raise with the alert topics
    ///
    /// Holds while the rules are those of the first reading. Of partitions whose first readings Kafka has deleted it only
    /// tells alerts that are there twice. Exit code 1 if an alert is missing, there twice, or raised by no reading.
    #[command(after_help = "Examples:\n  penstock alerts audit\n  penstock alerts audit --json")]
    Audit {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List silences that hold
    #[command(after_help = "Examples:\n  penstock alerts silences\n  penstock alerts silences --all --json")]
    Silences(SilencesArgs),
}

/// States to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum StateArg {
    #[default]
    Firing,
    Resolved,
    All,
}

/// Severities to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SeverityArg {
    Info,
    Warning,
    Critical,
}

/// `penstock alerts list`
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Of this device
    #[arg(long, value_name = "UUID")]
    device: Option<DeviceId>,
    /// Of this rule
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// Of this severity
    #[arg(long, value_enum)]
    severity: Option<SeverityArg>,
    /// That are in this state
    #[arg(long, value_enum, default_value_t)]
    state: StateArg,
    /// Show the newest so many; all are counted
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Commands that are about one thing.
#[derive(Args, Debug)]
pub(crate) struct OneArgs {
    /// Its id
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Who says something, and why.
#[derive(Args, Debug)]
pub(crate) struct Said {
    /// Who says so
    #[arg(long, value_name = "NAME", env = "USER", hide_env_values = true, default_value = "")]
    by: String,
    /// Why
    #[arg(long, value_name = "TEXT", default_value = "")]
    comment: String,
}

/// `penstock alerts ack`
#[derive(Args, Debug)]
pub(crate) struct AckArgs {
    /// The alert's id
    id: String,
    #[command(flatten)]
    said: Said,
    /// Take the acknowledgement back
    #[arg(long)]
    undo: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `penstock alerts silence`
#[derive(Args, Debug)]
pub(crate) struct SilenceArgs {
    /// Only this device
    #[arg(long, value_name = "UUID")]
    device: Option<DeviceId>,
    /// Only this rule
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// Everything
    #[arg(long, conflicts_with_all = ["device", "rule"])]
    all: bool,
    /// For so long: 90s, 30m, 2h, 7d, 4w
    #[arg(long = "for", value_name = "TIME", value_parser = for_so_long, required_unless_present = "until")]
    period: Option<i64>,
    /// Until this time: RFC 3339
    #[arg(long, value_name = "TIME", conflicts_with = "period")]
    until: Option<Moment>,
    #[command(flatten)]
    said: Said,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `penstock alerts silences`
#[derive(Args, Debug)]
pub(crate) struct SilencesArgs {
    /// Also those that have ended
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A time span in milliseconds.
fn for_so_long(text: &str) -> Result<i64, String> {
    let expected = "write how long, e.g. 90s, 30m, 2h, 7d, 4w";
    // How long ago something was is written in the same way; as a time it is not.
    let zero = Moment { ms: 0 };
    if text.contains(['-', ':', 'T']) {
        return Err(expected.to_owned());
    }
    let ms = Moment::parse(text, zero).map(|moment| -moment.ms).map_err(|_| expected.to_owned())?;
    if ms > 0 { Ok(ms) } else { Err(expected.to_owned()) }
}

impl Command {
    pub(crate) fn run(&self, common: &Common) -> anyhow::Result<ExitCode> {
        let config = common.load()?.config;
        match self {
            Self::List(args) => args.run(&config),
            Self::Show(args) => {
                let shown = alerts::show(&Cluster::new(&config), &args.id)?;
                done(print(args.json, &shown, |out| shown.print(out)))
            }
            Self::Ack(args) => args.run(&config),
            Self::Silence(args) => args.run(&config),
            Self::Unsilence(args) => {
                let ended = alerts::unsilence(&Cluster::new(&config), runtime()?.handle(), &args.id)?;
                done(print(args.json, &ended, |out| ended.print_ended(out)))
            }
            Self::Audit { json } => audit(&config, *json),
            Self::Silences(args) => {
                let silences = alerts::silences(&Cluster::new(&config), args.all)?;
                done(print(args.json, &silences, |out| silences.print(out)))
            }
        }
    }
}

fn done(printed: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    printed.map(|()| ExitCode::SUCCESS)
}

fn audit(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let rules = Arc::new(RuleSet::configured(&config.alerts.rules)?);
    let cluster = Cluster::new(config);
    let report =
        penstock_alerter::audit::audit(cluster.settings(), cluster.prefix(), &rules, Moment::now().ms)?;
    let breaches: Vec<String> = report.breaches.iter().map(ToString::to_string).collect();
    let shown = serde_json::json!({
        "readings": report.readings, "expected": report.expected, "found": report.found, "breaches": breaches,
        "partitions_cut": report.partitions_cut, "unsure": report.unsure,
    });
    print(json, &shown, |out| report.print(out))?;
    Ok(if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl ListArgs {
    fn run(&self, config: &Config) -> anyhow::Result<ExitCode> {
        let severity = self.severity.map(|severity| match severity {
            SeverityArg::Info => "info",
            SeverityArg::Warning => "warning",
            SeverityArg::Critical => "critical",
        });
        let filter = Filter {
            device: self.device.map(|device| device.to_string()),
            rule: self.rule.clone(),
            severity: severity.map(str::to_owned),
            state: match self.state {
                StateArg::Firing => StateFilter::Firing,
                StateArg::Resolved => StateFilter::Resolved,
                StateArg::All => StateFilter::All,
            },
        };
        let listed = alerts::list(&Cluster::new(config), &filter, self.limit)?;
        done(print(self.json, &listed, |out| listed.print(out)))
    }
}

impl AckArgs {
    fn run(&self, config: &Config) -> anyhow::Result<ExitCode> {
        let (cluster, runtime) = (Cluster::new(config), runtime()?);
        if self.undo {
            alerts::unack(&cluster, runtime.handle(), &self.id)?;
            let gone = serde_json::json!({"id": self.id, "acknowledgement": null});
            return done(print(self.json, &gone, |out| writeln!(out, "{} is not acknowledged", self.id)));
        }
        let acknowledged =
            alerts::ack(&cluster, runtime.handle(), &self.id, &self.said.by, &self.said.comment)?;
        done(print(self.json, &acknowledged, |out| acknowledged.print(out)))
    }
}

impl SilenceArgs {
    fn run(&self, config: &Config) -> anyhow::Result<ExitCode> {
        if !self.all && self.device.is_none() && self.rule.is_none() {
            return usage("say what to silence: --device, --rule, both, or --all; see --help");
        }
        let now = Moment::now();
        let until = match (self.period, self.until) {
            (Some(ms), _) => Moment { ms: now.ms.saturating_add(ms) },
            (None, Some(until)) => until,
            (None, None) => return usage("say how long: --for 2h or --until TIME; see --help"),
        };
        if until <= now {
            return usage("--until lies in the past: nothing would be silenced");
        }
        let new = NewSilence {
            device: self.device.map(|device| device.to_string()),
            rule: self.rule.clone(),
            until,
            comment: self.said.comment.clone(),
            by: self.said.by.clone(),
        };
        let silenced = alerts::silence(&Cluster::new(config), runtime()?.handle(), &new)?;
        done(print(self.json, &silenced, |out| silenced.print(out)))
    }
}

fn usage(message: &str) -> anyhow::Result<ExitCode> {
    eprintln!("penstock: {message}");
    Ok(ExitCode::from(USAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_is_a_span_and_not_a_time() {
        assert_eq!(for_so_long("2h"), Ok(7_200_000));
        for text in ["", "0s", "2", "tomorrow", "2026-01-31T12:00:00Z", "-2h"] {
            assert!(for_so_long(text).is_err(), "{text}");
        }
    }
}
