//! A fleet of virtual devices: composes them, starts them together, stops them, and collects ledger and report.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use penstock_proto::DeviceId;
use rustls::RootCertStore;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::ailment::Ailment;
use crate::clock::Clock;
use crate::device::{Device, Plan, Sample, Shared};
use crate::generator::Generator;
use crate::ledger::{DeviceLedger, Ledger};
use crate::ledger_file::{LedgerFileError, LedgerWriter};
use crate::mqtt::{Endpoint, Qos, Version};
use crate::probe::{self, Probe};
use crate::report::Report;
use crate::source::{Budget, Pace, Source};
use crate::stations::{Station, StationsError, read_stations};
use crate::stats::Stats;
use crate::store::ClickHouseTarget;
use crate::tls::{Identities, TlsError, trust};

/// Handshakes at the same time: more would only wait for each other on a small machine.
const CONNECTING_MAX: usize = 64;
/// Between two looks at the fleet: appended outcomes reach the ledger file at the latest after this long.
const LOOK: Duration = Duration::from_millis(50);

/// What a fleet is to do.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// Host name or IPv4 address of the gateway.
    pub host: String,
    /// Its TLS port.
    pub port: u16,
    /// Authorities that the gateway's certificate is verified against, PEM.
    pub ca_pem: String,
    /// Certificates of the devices.
    pub identities: Identities,
    /// Devices that make up readings, 0 to 100,000.
    pub devices: usize,
    /// Readings per second over all these devices; 0 publishes as fast as they are acknowledged.
    pub rate: f64,
    /// These devices stop after this long.
    pub duration: Option<Duration>,
    /// These devices stop after this many readings together.
    pub count: Option<u64>,
    /// Readings a publish; 1 publishes single readings.
    pub batch: usize,
    /// Share of readings made invalid on purpose, 0 to 1.
    pub invalid_fraction: f64,
    /// Share of readings measured an hour to 60 days before they are sent, 0 to 1.
    pub late_fraction: f64,
    /// Devices with each [ailment](crate::ailment::Ailment), the first of the fleet; 0: all are healthy.
    pub ailing: usize,
    /// A station file to replay besides, as fast as acknowledged.
    pub stations: Option<PathBuf>,
    /// Readings a publish for stations by name; stations that are not here publish single readings.
    pub stations_batch: BTreeMap<String, usize>,
    /// Quality of service.
    pub qos: Qos,
    /// Protocol version.
    pub version: Version,
    /// Publishes in flight for each device at most; the server's Receive Maximum may lower it.
    pub inflight_max: u16,
    /// Readings and, for minted certificates, device ids follow from it.
    pub seed: u64,
    /// Sequence number of each made-up device's first reading.
    pub first_sequence: u64,
    /// File to append outcomes to.
    pub ledger: Option<PathBuf>,
    /// Where to look for readings to measure when they become queryable.
    pub probe: Option<ClickHouseTarget>,
    /// How long all devices may take to connect before publishing begins with those that are.
    pub connect_timeout: Duration,
    /// A publish without an acknowledgement for this long means that the connection is lost.
    pub ack_timeout: Duration,
    /// When there is nothing to do but wait for acknowledgements, and none comes for this long, the run is given up.
    pub drain_timeout: Duration,
}

impl FleetOptions {
    /// Ten devices, one reading a second each, QoS 1, MQTT 5, without an end.
    pub fn new(
        host: impl Into<String>,
        port: u16,
        ca_pem: impl Into<String>,
        identities: Identities,
    ) -> Self {
        Self {
            host: host.into(),
            port,
            ca_pem: ca_pem.into(),
            identities,
            devices: 10,
            rate: 10.0,
            duration: None,
            count: None,
            batch: 1,
            invalid_fraction: 0.0,
            late_fraction: 0.0,
            ailing: 0,
            stations: None,
            stations_batch: BTreeMap::new(),
            qos: Qos::default(),
            version: Version::default(),
            inflight_max: 32,
            seed: 0,
            first_sequence: 1,
            ledger: None,
            probe: None,
            connect_timeout: Duration::from_secs(30),
            ack_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(60),
        }
    }
}

/// A fleet could not be made, or could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A certificate is missing or refused.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The station file cannot be opened.
    #[error("cannot read {}: {cause}", path.display())]
    StationsFile {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        cause: std::io::Error,
    },
    /// The station file cannot be understood.
    #[error("{}: {cause}", path.display())]
    Stations {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        cause: StationsError,
    },
    /// The ledger file cannot be written.
    #[error(transparent)]
    Ledger(#[from] LedgerFileError),
    /// No device could connect.
    #[error(
        "no device could connect to {gateway} within {} s: {why}; is the gateway running, and does it trust the authority of \
         the devices' certificates?", waited.as_secs()
    )]
    NotConnected {
        /// Host and port.
        gateway: String,
        /// How long was waited.
        waited: Duration,
        /// The latest error.
        why: String,
    },
    /// A device's task panicked: a bug of the load generator.
    #[error("a device's task ended early, which is a bug of the load generator: {0}")]
    Task(tokio::task::JoinError),
}

impl From<tokio::task::JoinError> for FleetError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Task(error)
    }
}

/// A fleet that is ready to run.
pub struct Fleet {
    options: FleetOptions,
    stats: Arc<Stats>,
    roots: Arc<RootCertStore>,
    devices: Vec<DeviceId>,
    stations: Vec<Station>,
    clock: Clock,
}

impl Fleet {
    /// Reads certificates and stations; nothing is connected yet.
    ///
    /// # Errors
    /// [`FleetError`].
    pub fn new(options: FleetOptions) -> Result<Self, FleetError> {
        let roots = trust(&options.ca_pem)?;
        let clock = Clock::start();
        let stations = match &options.stations {
            Some(path) => {
                let file = File::open(path)
                    .map_err(|cause| FleetError::StationsFile { path: path.clone(), cause })?;
                read_stations(file, clock.started_at_ms())
                    .map_err(|cause| FleetError::Stations { path: path.clone(), cause })?
            }
            None => Vec::new(),
        };
        let except: HashSet<_> = stations.iter().map(|station| station.device).collect();
        let devices = options.identities.devices(options.devices, options.seed, &except)?;
        Ok(Self { options, stats: Arc::new(Stats::new()), roots, devices, stations, clock })
    }

    /// The counts of the run, which may be looked at while it goes on.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// Readings that the run will publish, where that is known beforehand.
    pub fn readings_expected(&self) -> Option<u64> {
        let replayed: u64 = self.stations.iter().map(|station| station.readings.len() as u64).sum();
        let made = if self.devices.is_empty() { Some(0) } else { self.options.count };
        Some(replayed + made?)
    }

    /// Publishes until the readings, the duration or `cancel` end it, then waits for outstanding acknowledgements.
    ///
    /// # Errors
    /// [`FleetError`]. Lost connections are no error: they are counted, and what is unacknowledged is in the ledger.
    pub async fn run(self, cancel: CancellationToken) -> Result<(Ledger, Report), FleetError> {
        let stop = cancel.child_token();
        let shared = Arc::new(self.shared()?);
        let (samples, probe) = self.probe();
        let plans = self.plans(&stop, &cancel, samples.as_ref())?;
        let mut tasks = JoinSet::new();
        let wanted = plans.len() as u64;
        for plan in plans {
            tasks.spawn(Device::new(plan, Arc::clone(&shared)).run());
        }
        let probe_stop = CancellationToken::new();
        let probe = probe.map(|probe| tokio::spawn(probe.run(probe_stop.clone())));
        let watch = Watch {
            options: &self.options,
            shared: &shared,
            stop: &stop,
            cancel: &cancel,
            wanted,
            began: Instant::now(),
        };
        let devices = watch.run(&mut tasks).await;
        probe_stop.cancel();
        if let Some(probe) = probe {
            probe.await?;
        }
        let ledger = Ledger { started_at_ms: self.clock.started_at_ms(), devices: devices? };
        if let Some(writer) = &shared.writer {
            writer.flush()?;
        }
        let report = Report::new(&ledger, &self.stats, self.options.qos);
        Ok((ledger, report))
    }

    /// Devices that something is wrong with.
    pub fn ailing(&self) -> BTreeMap<DeviceId, Ailment> {
        let each = self.options.ailing;
        let ailing = |(index, device): (usize, &DeviceId)| Some((*device, Ailment::of(index, each)?));
        self.devices.iter().enumerate().filter_map(ailing).collect()
    }

    fn shared(&self) -> Result<Shared, FleetError> {
        let create = |path: &PathBuf| LedgerWriter::create(path, self.clock.started_at_ms());
        Ok(Shared {
            clock: self.clock,
            stats: self.stats(),
            qos: self.options.qos,
            budget: Budget::new(self.options.count),
            go: CancellationToken::new(),
            abandon: CancellationToken::new(),
            connecting: Semaphore::new(CONNECTING_MAX),
            ack_timeout: self.options.ack_timeout,
            writer: self.options.ledger.as_ref().map(create).transpose()?,
            failure: Mutex::new(None),
        })
    }

    fn probe(&self) -> (Option<mpsc::Sender<Sample>>, Option<Probe>) {
        let Some(target) = &self.options.probe else { return (None, None) };
        let (sender, receiver) = mpsc::channel(probe::SAMPLES_QUEUED_MAX);
        (Some(sender), Some(Probe::new(target, receiver, self.stats())))
    }

    fn plans(
        &self,
        stop: &CancellationToken,
        cancel: &CancellationToken,
        samples: Option<&mpsc::Sender<Sample>>,
    ) -> Result<Vec<Plan>, TlsError> {
        let options = &self.options;
        let sampled_every = self.devices.len().div_ceil(probe::DEVICES_MAX).max(1);
        let mut rng = fastrand::Rng::with_seed(options.seed);
        let mut plans = Vec::with_capacity(self.devices.len() + self.stations.len());
        for (index, device) in self.devices.iter().enumerate() {
            let first = options.first_sequence;
            let generator = Generator::new(*device, index, options.seed, first, options.invalid_fraction)
                .with_late(options.late_fraction)
                .with_ailment(Ailment::of(index, options.ailing));
            plans.push(Plan {
                source: Source::Generated(Box::new(generator)),
                first_sequence: first,
                batch: options.batch,
                pace: self.pace(),
                phase: rng.f64(),
                budgeted: true,
                stop: stop.clone(),
                samples: if index % sampled_every == 0 { samples.cloned() } else { None },
                ..self.plan(*device, cancel)?
            });
        }
        for station in &self.stations {
            plans.push(Plan {
                source: Source::Replay(station.readings.clone().into_iter()),
                batch: options.stations_batch.get(&station.name).copied().unwrap_or(1),
                ..self.plan(station.device, cancel)?
            });
        }
        Ok(plans)
    }

    /// The plan of a device that publishes nothing yet.
    fn plan(&self, device: DeviceId, stop: &CancellationToken) -> Result<Plan, TlsError> {
        let options = &self.options;
        let endpoint = Endpoint {
            host: options.host.clone(),
            port: options.port,
            tls: options.identities.client_config(device, Arc::clone(&self.roots))?,
            client_id: device.to_string(),
            version: options.version,
            window: options.inflight_max.clamp(1, u16::MAX / 2),
        };
        Ok(Plan {
            device,
            endpoint,
            source: Source::Replay(Vec::new().into_iter()),
            first_sequence: 0,
            batch: 1,
            pace: Pace::AsAcked,
            phase: 0.0,
            budgeted: false,
            stop: stop.clone(),
            samples: None,
        })
    }

    #[allow(clippy::cast_precision_loss, reason = "device and batch counts are far below 2^52")]
    fn pace(&self) -> Pace {
        let publishes_per_s =
            self.options.rate / self.options.batch.max(1) as f64 / self.devices.len().max(1) as f64;
        match Duration::try_from_secs_f64(publishes_per_s.recip()) {
            Ok(interval) if publishes_per_s > 0.0 => Pace::Every { interval, next: Instant::now() },
            _ => Pace::AsAcked,
        }
    }
}

/// Looks after a fleet while it runs.
struct Watch<'f> {
    options: &'f FleetOptions,
    shared: &'f Shared,
    stop: &'f CancellationToken,
    cancel: &'f CancellationToken,
    wanted: u64,
    began: Instant,
}

/// What the watch has seen so far.
struct Seen {
    publishing_since: Option<Instant>,
    settled: u64,
    progress_at: Instant,
}

impl Watch<'_> {
    async fn run(&self, tasks: &mut JoinSet<DeviceLedger>) -> Result<Vec<DeviceLedger>, FleetError> {
        let mut devices = Vec::new();
        let mut seen = Seen { publishing_since: None, settled: 0, progress_at: Instant::now() };
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                device = tasks.join_next() => match device {
                    Some(device) => devices.push(device?),
                    None => break,
                },
                _ = look.tick() => self.look(&mut seen, Instant::now())?,
            }
        }
        if let Some(failure) = self.shared.failure.lock().take() {
            return Err(failure.into());
        }
        devices.sort_unstable_by_key(|device: &DeviceLedger| device.device);
        Ok(devices)
    }

    fn look(&self, seen: &mut Seen, now: Instant) -> Result<(), FleetError> {
        if seen.publishing_since.is_none() && self.may_begin(now)? {
            seen.publishing_since = Some(now);
            seen.progress_at = now;
            self.shared.go.cancel();
        }
        let publishing = seen.publishing_since.map(|since| now - since);
        if publishing.zip(self.options.duration).is_some_and(|(elapsed, duration)| elapsed >= duration) {
            self.stop.cancel();
        }
        if publishing.is_some() && self.is_stuck(seen, now) {
            tracing::warn!(after = ?self.options.drain_timeout, "no acknowledgement any more; the run is given up");
            self.shared.abandon.cancel();
        }
        if let Some(writer) = &self.shared.writer {
            writer.flush()?;
        }
        Ok(())
    }

    /// Whether the run can only wait for acknowledgements, and none has come for too long.
    fn is_stuck(&self, seen: &mut Seen, now: Instant) -> bool {
        let stats = &self.shared.stats;
        let settled = stats.acked.get() + stats.dead_letters.get() + stats.refused.get();
        let waiting = stats.published.get() > settled || stats.connected.get() == 0;
        if settled != seen.settled || !waiting {
            seen.settled = settled;
            seen.progress_at = now;
        }
        // Before its duration is over, a run sits out every fault.
        let may_give_up = self.stop.is_cancelled() || self.options.duration.is_none();
        may_give_up && now - seen.progress_at >= self.options.drain_timeout
    }

    /// Whether publishing may begin: all are connected, or those that are not have had their time.
    fn may_begin(&self, now: Instant) -> Result<bool, FleetError> {
        let connected = self.shared.stats.ever_connected.get();
        if connected == self.wanted || self.cancel.is_cancelled() {
            return Ok(true);
        }
        let waited = now - self.began;
        if waited < self.options.connect_timeout {
            return Ok(false);
        }
        if connected > 0 {
            tracing::warn!(
                connected,
                wanted = self.wanted,
                "not every device could connect; publishing begins"
            );
            return Ok(true);
        }
        let why = self.shared.stats.last_error().unwrap_or_else(|| "no answer".to_owned());
        let gateway = format!("{}:{}", self.options.host, self.options.port);
        Err(FleetError::NotConnected { gateway, waited, why })
    }
}
