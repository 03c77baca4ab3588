//! Devices that do everything right, beside one that does not.

use penstock_proto::{DeviceId, topics};
use prost::Message;

use crate::chain::Chain;
use crate::device::{Device, Version};
use crate::reading::reading;

/// A well-behaved device of each MQTT version, each on one connection from beginning to end.
#[derive(Debug)]
pub struct Bystanders {
    devices: [(Device, String); 2],
    published: u16,
}

impl Bystanders {
    /// Connects both.
    pub fn connect(chain: &Chain) -> Self {
        let devices = [(0xb3, Version::V311), (0xb5, Version::V5)].map(|(id, version)| {
            let id = DeviceId::from_bytes([id; 16]);
            (Device::connect(chain, id, version), topics::readings_topic(id))
        });
        let mut this = Self { devices, published: 0 };
        this.publish();
        this
    }

    /// Each publishes a reading on its connection, with QoS 1.
    ///
    /// # Panics
    /// Where one is not acknowledged.
    pub fn publish(&mut self) {
        self.published += 1;
        for (device, topic) in &mut self.devices {
            let payload = reading(u64::from(self.published)).encode_to_vec();
            assert_eq!(device.publish_acked(topic, self.published, &payload), 0, "PUBACK of a bystander");
        }
    }

    /// How many readings both have published together.
    pub fn published(&self) -> usize {
        usize::from(self.published) * self.devices.len()
    }
}
