//! What `/metrics` shows: the metrics that roles register, of this build and of the process itself.
//!
//! Never counts anything by itself: a role owns its typed metrics and updates them.

mod process;

use std::fmt;
use std::ops::{Deref, DerefMut};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::info::Info;

pub use self::process::own_cpu_s;

/// Media type of [`Registry::encode`]: the OpenMetrics text format, which Prometheus reads since 2.5.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A `prometheus_client` registry that already holds `penstock_build_info` and `process_*`.
///
/// It dereferences to the registry within: pass `&mut registry` where a
/// `&mut prometheus_client::registry::Registry` is asked for. Register counters without `_total`: encoding
/// adds it.
#[derive(Debug)]
pub struct Registry(prometheus_client::registry::Registry);

impl Registry {
    /// A registry with the metrics of this build and of the process.
    pub fn new() -> Self {
        let mut registry = prometheus_client::registry::Registry::default();
        let build = Info::new(vec![
            ("version", env!("CARGO_PKG_VERSION")),
            ("commit", option_env!("PENSTOCK_COMMIT").unwrap_or("unknown")),
            ("profile", if cfg!(debug_assertions) { "debug" } else { "release" }),
        ]);
        registry.register("penstock_build", "What this process was built from", build);
        registry.register_collector(Box::new(process::Process));
        Self(registry)
    }

    /// Every metric as text of the type [`CONTENT_TYPE`].
    ///
    /// # Errors
    /// A metric refuses to be written.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0)?;
        Ok(text)
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Registry {
    type Target = prometheus_client::registry::Registry;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Registry {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use prometheus_client::metrics::counter::Counter;

    use super::*;

    fn value(text: &str, name: &str) -> f64 {
        let line = text.lines().find(|line| line.split([' ', '{']).next() == Some(name));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn the_process_and_its_build_are_shown_under_the_standard_names() {
        let text = Registry::new().encode().unwrap();
        assert!(value(&text, "process_cpu_seconds_total") > 0.0);
        assert!(value(&text, "process_resident_memory_bytes") > 65_536.0);
        assert!(value(&text, "process_virtual_memory_bytes") > value(&text, "process_resident_memory_bytes"));
        assert!(value(&text, "process_open_fds") >= 3.0);
        assert!(value(&text, "process_max_fds") >= value(&text, "process_open_fds"));
        assert!(value(&text, "process_threads") >= 1.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - value(&text, "process_start_time_seconds");
        assert!((-2.0..86_400.0).contains(&age), "started {age} s ago");
        assert!(text.contains("penstock_build_info{version=\""), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn roles_register_in_it_as_in_any_registry() {
        let mut registry = Registry::new();
        let readings = Counter::<u64>::default();
        let plain: &mut prometheus_client::registry::Registry = &mut registry;
        plain.register("penstock_gateway_publishes", "Publishes received", readings.clone());
        readings.inc_by(3);
        assert!(registry.encode().unwrap().contains("\npenstock_gateway_publishes_total 3\n"));
    }
}
