//! Who may do what: a pure decision from identity and topic (G7).

use penstock_proto::DeviceId;
use penstock_proto::topics::MqttTopic;

/// A device asked for something that is not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The topic is none that devices publish to.
    #[error(
        "devices publish to devices/{{device_id}}/readings and devices/{{device_id}}/readings/batch only"
    )]
    UnknownTopic,
    /// The topic belongs to another device.
    #[error("the topic belongs to another device")]
    OtherDevice,
}

/// Whether the device with this identity may publish to this topic, and what the topic then means.
///
/// # Errors
/// [`Denied`] with the reason.
pub fn authorize_publish(identity: DeviceId, topic: &str) -> Result<MqttTopic, Denied> {
    let topic = MqttTopic::parse(topic.as_bytes()).ok_or(Denied::UnknownTopic)?;
    if topic.device() == identity { Ok(topic) } else { Err(Denied::OtherDevice) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: DeviceId = DeviceId::from_bytes([1; 16]);
    const OTHER: DeviceId = DeviceId::from_bytes([2; 16]);

    #[test]
    fn a_device_publishes_readings_and_batches_as_itself() {
        for topic in [MqttTopic::Reading(ME), MqttTopic::Batch(ME)] {
            assert_eq!(authorize_publish(ME, &topic.to_string()), Ok(topic));
        }
    }

    #[test]
    fn another_devices_topic_is_denied() {
        let topic = MqttTopic::Reading(OTHER).to_string();
        assert_eq!(authorize_publish(ME, &topic), Err(Denied::OtherDevice));
    }

    #[test]
    fn every_other_topic_is_denied() {
        for topic in
            [format!("devices/{ME}/status"), format!("devices/{ME}/commands/x"), "$SYS/x".into(), "a".into()]
        {
            assert_eq!(authorize_publish(ME, &topic), Err(Denied::UnknownTopic), "{topic}");
        }
    }
}
