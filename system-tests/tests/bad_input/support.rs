//! A gateway with two well-behaved devices on it, beside which a test does something bad.

use std::time::Duration;

use penstock_proto::DeviceId;
use penstock_system_tests::{Bystanders, Chain, Device, Penstock, Version, until};

/// How long a counter may lag behind what a device sees.
const COUNTED_WITHIN: Duration = Duration::from_secs(10);

/// The device that does the bad thing.
pub(crate) const BAD: DeviceId = DeviceId::from_bytes([0xba; 16]);

pub(crate) const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

/// A gateway, and the devices that must not notice anything.
pub(crate) struct Scene {
    pub(crate) chain: Chain,
    pub(crate) gateway: Penstock,
    pub(crate) bystanders: Bystanders,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::on(Chain::shared())
    }

    pub(crate) fn on(chain: Chain) -> Self {
        let gateway = chain.gateway();
        let bystanders = Bystanders::connect(&chain);
        Self { chain, gateway, bystanders }
    }

    /// A device that is connected and has done nothing bad yet.
    pub(crate) fn device(&self, version: Version) -> Device {
        Device::connect(&self.chain, BAD, version)
    }

    /// Does something bad, and sees `times` more connections end with this outcome and the bystanders unharmed. What is
    /// returned stays open until both are seen.
    pub(crate) fn ends<T>(&mut self, outcome: &str, times: u64, bad: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.gateway.ended(outcome);
        self.bystanders.publish();
        let kept = bad(self);
        self.bystanders.publish();
        until(&format!("{times} more of {outcome}"), COUNTED_WITHIN, || {
            self.gateway.ended(outcome) == before + times
        });
        self.bystanders.publish();
        kept
    }

    /// A connected device says this; the connection must end with this outcome, and with this code in DISCONNECT where
    /// the version has one.
    pub(crate) fn breaks(&mut self, version: Version, what: &str, bytes: &[u8], outcome: &str, code: u8) {
        self.ends(outcome, 1, |scene| {
            let mut device = scene.device(version);
            device.send(bytes);
            scene.bystanders.publish();
            let expected = (version == Version::V5).then_some(code);
            assert_eq!(device.disconnect_reason(), expected, "{what}, {version:?}");
        });
    }
}
