//! `penstock dlq`: dead letters.

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _, stderr, stdin};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use penstock_operator::dlq::{self, LetterId, LetterTopic, List, Selection, Task, Work};
use penstock_operator::{Cluster, Moment};
use penstock_proto::DeviceId;
use penstock_service::{Config, shutdown};

use crate::common::{Common, print, runtime};

/// Exit code for a command line that cannot be carried out.
const USAGE: u8 = 2;

/// Look at dead letters, publish them again, or discard them. Nothing is ever deleted from a topic.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List dead letters, newest first, and count them by reason
    #[command(
        after_help = "Examples:\n  penstock dlq list\n  penstock dlq list readings --reason too-old --since 7d\n  \
        penstock dlq list --device 0a1b2c3d-0000-4000-8000-0123456789ab --all --json"
    )]
    List(ListArgs),
    /// Show everything about one dead letter: headers, fields as far as they can be read, bytes
    #[command(
        after_help = "Examples:\n  penstock dlq show readings/3/17\n  penstock dlq show storage/0/4 --bytes 4096"
    )]
    Show(ShowArgs),
    /// Publish dead letters again, each once, as far as they are valid now
    ///
    /// Letters of `readings` are judged by the limits under `[bridge]` as of their receipt, letters of `storage` as the
    /// writer does. What is still refused stays open. Can be ended at any time and run again: no letter is published
    /// twice. Two at once: the second takes over.
    #[command(
        after_help = "Examples:\n  penstock dlq replay --dry-run\n  penstock dlq replay readings --reason in-future --since 2d\n  \
        penstock dlq replay storage/3/17 storage/3/18"
    )]
    Replay(ReplayArgs),
    /// Mark dead letters as not wanted; publishes nothing
    #[command(after_help = "Examples:\n  penstock dlq discard readings/3/17 --yes\n  \
        penstock dlq discard readings --reason undecodable --until 7d --yes")]
    Discard(DiscardArgs),
}

/// Conditions that letters have to meet.
#[derive(Args, Debug)]
pub(crate) struct Filters {
    /// With this reason, e.g. too-old
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Of this device
    #[arg(long, value_name = "UUID")]
    device: Option<DeviceId>,
    /// Stored at this time or later: RFC 3339, or how long ago (90s, 30m, 2h, 7d, 4w)
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Stored before this time
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
}

/// A topic or a letter, as it is named on the command line.
#[derive(Clone, Copy, Debug)]
enum Which {
    Topic(LetterTopic),
    Letter(LetterId),
}

fn which(text: &str) -> Result<Which, String> {
    let topic = text.parse().map(Which::Topic);
    topic.or_else(|_| text.parse().map(Which::Letter)).map_err(|error: dlq::ParseIdError| error.to_string())
}

impl Filters {
    fn selection(&self, named: &[Which]) -> Selection {
        let mut topics = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for which in named {
            match which {
                Which::Topic(topic) => drop(topics.insert(*topic)),
                Which::Letter(id) => drop(ids.insert(*id)),
            }
        }
        Selection {
            // Both named is as good as none.
            topic: topics.first().copied().filter(|_| topics.len() == 1),
            ids,
            reason: self.reason.clone(),
            device: self.device,
            since: self.since,
            until: self.until,
        }
    }
}

/// `penstock dlq list`
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// `readings`, `storage`, or ids [default: both topics]
    #[arg(value_name = "TOPIC|ID", value_parser = which)]
    named: Vec<Which>,
    #[command(flatten)]
    filters: Filters,
    /// Also letters that were replayed or discarded
    #[arg(long)]
    all: bool,
    /// Show the newest so many; all are counted
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `penstock dlq show`
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// The letter, e.g. readings/3/17
    id: LetterId,
    /// Dump so many bytes of the payload
    #[arg(long, default_value_t = 256, value_name = "N")]
    bytes: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `penstock dlq replay`
#[derive(Args, Debug)]
pub(crate) struct ReplayArgs {
    /// `readings`, `storage`, or ids [default: both topics]
    #[arg(value_name = "TOPIC|ID", value_parser = which)]
    named: Vec<Which>,
    #[command(flatten)]
    filters: Filters,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before everything is replayed
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `penstock dlq discard`
#[derive(Args, Debug)]
pub(crate) struct DiscardArgs {
    /// `readings`, `storage`, or ids
    #[arg(value_name = "TOPIC|ID", value_parser = which)]
    named: Vec<Which>,
    #[command(flatten)]
    filters: Filters,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Needed, unless with --dry-run: discarded letters are not replayed any more
    #[arg(long, required_unless_present = "dry_run")]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(crate) fn run(&self, common: &Common) -> anyhow::Result<ExitCode> {
        let config = common.load()?.config;
        match self {
            Self::List(args) => args.run(&config),
            Self::Show(args) => args.run(&config),
            Self::Replay(args) => args.run(&config),
            Self::Discard(args) => args.run(&config),
        }
    }
}

impl ListArgs {
    fn run(&self, config: &Config) -> anyhow::Result<ExitCode> {
        let selection = self.filters.selection(&self.named);
        let list = List { selection, all: self.all, limit: self.limit };
        let listing = list.read(&Cluster::new(config))?;
        print(self.json, &listing, |out| listing.print(out))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl ShowArgs {
    fn run(&self, config: &Config) -> anyhow::Result<ExitCode> {
        let shown = dlq::show(&Cluster::new(config), self.id, self.bytes)?;
        print(self.json, &shown, |out| shown.print(out))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl ReplayArgs {
    fn run(&self, config: &Config) -> anyhow::Result<ExitCode> {
        let selection = self.filters.selection(&self.named);
        let is_asked = selection.is_everything() && !self.yes && !self.dry_run && stdin().is_terminal();
        if is_asked && !confirmed(config)? {
            eprintln!("nothing was done");
            return Ok(ExitCode::FAILURE);
        }
        carry_out(&Task { work: Work::Replay, selection, dry_run: self.dry_run }, config, self.json)
    }
}

/// Asks, where more than one letter would be replayed.
fn confirmed(config: &Config) -> anyhow::Result<bool> {
    let list = List { selection: Selection::default(), all: false, limit: 0 };
    let open = list.read(&Cluster::new(config))?.count;
    if open <= 1 {
        return Ok(true);
    }
    write!(stderr(), "replay all {open} open letters of both topics? [y/N] ")?;
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

impl DiscardArgs {
    fn run(&self, config: &Config) -> anyhow::Result<ExitCode> {
        let selection = self.filters.selection(&self.named);
        if selection.is_everything() {
            eprintln!(
                "penstock: say which letters to discard: readings, storage, ids, or a filter; see --help"
            );
            return Ok(ExitCode::from(USAGE));
        }
        carry_out(&Task { work: Work::Discard, selection, dry_run: self.dry_run }, config, self.json)
    }
}

/// Ctrl-C ends it after the batch that is under way.
fn carry_out(task: &Task, config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    let signals = runtime.block_on(async { shutdown::signals() }).context("cannot take over signals")?;
    let outcome = task.run(config, runtime.handle(), &signals.shutdown)?;
    print(json, &outcome, |out| outcome.print(out))?;
    Ok(if outcome.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
