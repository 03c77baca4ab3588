//! SUBSCRIBE and UNSUBSCRIBE (MQTT 5 3.8, 3.10), and the syntax of topic filters (4.7, 4.8.2).
//!
//! Every filter is checked while decoding; afterwards the filters are read again from the packet, so none is stored.

use super::frame::Frame;
use super::primitives::{PacketId, Reader};
use super::properties::{Properties, Property, allow, id};
use super::reason::Violation;
use super::{QoS, Version};

const SUBSCRIBE_PROPERTIES: u64 = allow(&[id::SUBSCRIPTION_ID, id::USER_PROPERTY]);
const UNSUBSCRIBE_PROPERTIES: u64 = allow(&[id::USER_PROPERTY]);
const NO_FILTER: Violation =
    Violation::protocol_error("no topic filter (5: MQTT-3.8.3-2, -3.10.3-2, 3.1.1: MQTT-3.8.3-3, -3.10.3-2)");

/// When retained messages are sent for a subscription (MQTT 5 3.8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RetainHandling {
    /// At every subscribe; the only way of MQTT 3.1.1.
    #[default]
    AtSubscribe,
    /// At a subscribe that makes a new subscription.
    AtNewSubscription,
    /// Never.
    Never,
}

/// What a client wants of one subscription (MQTT 5 3.8.3.1). MQTT 3.1.1 has the QoS only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// The highest QoS it wants messages with.
    pub qos: QoS,
    /// It does not want its own messages. Never set on a shared subscription.
    pub no_local: bool,
    /// It wants the retain flag as it was published.
    pub retain_as_published: bool,
    /// When it wants retained messages.
    pub retain_handling: RetainHandling,
}

impl SubscriptionOptions {
    fn decode(byte: u8, version: Version) -> Result<Self, Violation> {
        let reserved = if version == Version::V5 { 0b1100_0000 } else { 0b1111_1100 };
        if byte & reserved != 0 {
            return Err(Violation::malformed(
                "reserved bits of a subscription are set (5: MQTT-3.8.3-5, 3.1.1: MQTT-3-8.3-4)",
            ));
        }
        let qos = QoS::from_bits(byte).ok_or(match version {
            Version::V5 => Violation::protocol_error("a subscription wants QoS 3 (5: 3.8.3.1)"),
            Version::V311 => Violation::malformed("a subscription wants QoS 3 (3.1.1: MQTT-3-8.3-4)"),
        })?;
        let retain_handling = match byte >> 4 & 0b11 {
            0 => RetainHandling::AtSubscribe,
            1 => RetainHandling::AtNewSubscription,
            2 => RetainHandling::Never,
            _ => return Err(Violation::protocol_error("retain handling is 3 (5: 3.8.3.1)")),
        };
        Ok(Self {
            qos,
            no_local: byte & 0b100 != 0,
            retain_as_published: byte & 0b1000 != 0,
            retain_handling,
        })
    }
}

/// A wish to receive messages. Every filter in it is of valid syntax.
#[derive(Clone, Copy, Debug)]
pub struct Subscribe<'a> {
    /// Goes back in the SUBACK.
    pub packet_id: PacketId,
    /// MQTT 5: goes with every message that the subscriptions cause; 1 to 268,435,455.
    pub subscription_id: Option<u32>,
    /// How many filters there are, at least 1. The SUBACK has one code for each.
    pub filters_len: usize,
    payload: Reader<'a>,
    version: Version,
}

impl<'a> Subscribe<'a> {
    pub(super) fn decode(frame: &Frame<'a>, version: Version) -> Result<Self, Violation> {
        let mut reader = Reader::new(frame.body);
        let packet_id = reader.packet_id()?;
        let mut subscription_id = None;
        if version == Version::V5 {
            let mut properties = Properties::take(&mut reader, SUBSCRIBE_PROPERTIES)?;
            while let Some(property) = properties.next()? {
                if let Property::SubscriptionId(id) = property {
                    subscription_id = Some(id);
                }
            }
        }
        let mut subscribe = Self { packet_id, subscription_id, filters_len: 0, payload: reader, version };
        while !reader.is_empty() {
            read_subscription(&mut reader, version)?;
            subscribe.filters_len += 1;
        }
        if subscribe.filters_len == 0 { Err(NO_FILTER) } else { Ok(subscribe) }
    }

    /// The filters and their options, in the order of the packet.
    pub fn filters(&self) -> impl Iterator<Item = (&'a str, SubscriptionOptions)> + use<'a> {
        let (mut reader, version) = (self.payload, self.version);
        // `decode` has read all of it once: an error here is the end of the payload.
        std::iter::from_fn(move || read_subscription(&mut reader, version).ok())
    }
}

fn read_subscription<'a>(
    reader: &mut Reader<'a>,
    version: Version,
) -> Result<(&'a str, SubscriptionOptions), Violation> {
    let filter = reader.text()?;
    check_filter(filter, version)?;
    let options = SubscriptionOptions::decode(reader.u8()?, version)?;
    if options.no_local && version == Version::V5 && shared_filter(filter).is_some() {
        return Err(Violation::protocol_error("no local on a shared subscription (5: MQTT-3.8.3-4)"));
    }
    Ok((filter, options))
}

/// The end of a wish to receive messages. Every filter in it is of valid syntax.
#[derive(Clone, Copy, Debug)]
pub struct Unsubscribe<'a> {
    /// Goes back in the UNSUBACK.
    pub packet_id: PacketId,
    /// How many filters there are, at least 1. The UNSUBACK of MQTT 5 has one code for each.
    pub filters_len: usize,
    payload: Reader<'a>,
    version: Version,
}

impl<'a> Unsubscribe<'a> {
    pub(super) fn decode(frame: &Frame<'a>, version: Version) -> Result<Self, Violation> {
        let mut reader = Reader::new(frame.body);
        let packet_id = reader.packet_id()?;
        if version == Version::V5 {
            Properties::take(&mut reader, UNSUBSCRIBE_PROPERTIES)?.skip()?;
        }
        let mut unsubscribe = Self { packet_id, filters_len: 0, payload: reader, version };
        while !reader.is_empty() {
            read_filter(&mut reader, version)?;
            unsubscribe.filters_len += 1;
        }
        if unsubscribe.filters_len == 0 { Err(NO_FILTER) } else { Ok(unsubscribe) }
    }

    /// The filters, in the order of the packet.
    pub fn filters(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let (mut reader, version) = (self.payload, self.version);
        // `decode` has read all of it once: an error here is the end of the payload.
        std::iter::from_fn(move || read_filter(&mut reader, version).ok())
    }
}

fn read_filter<'a>(reader: &mut Reader<'a>, version: Version) -> Result<&'a str, Violation> {
    let filter = reader.text()?;
    check_filter(filter, version)?;
    Ok(filter)
}

/// The filter inside the shared subscription `$share/{name}/{filter}` of MQTT 5, `None` for a filter that is not
/// shared. In MQTT 3.1.1 such a filter has no special meaning.
pub fn shared_filter(filter: &str) -> Option<&str> {
    filter.strip_prefix("$share/")?.split_once('/').map(|(_, filter)| filter)
}

fn check_filter(filter: &str, version: Version) -> Result<(), Violation> {
    match filter.strip_prefix("$share/").filter(|_| version == Version::V5) {
        Some(shared) => check_shared(shared),
        None => check_levels(filter),
    }
}

fn check_shared(shared: &str) -> Result<(), Violation> {
    let (name, filter) = shared.split_once('/').ok_or(Violation::topic_filter(
        "a shared subscription has no topic filter after its name (5: MQTT-4.8.2-2)",
    ))?;
    if name.is_empty() {
        return Err(Violation::topic_filter("a shared subscription has no name (5: MQTT-4.8.2-1)"));
    }
    if name.contains(['+', '#']) {
        return Err(Violation::topic_filter(
            "the name of a shared subscription has wildcards (5: MQTT-4.8.2-2)",
        ));
    }
    check_levels(filter)
}

fn check_levels(filter: &str) -> Result<(), Violation> {
    if filter.is_empty() {
        return Err(Violation::topic_filter(
            "a topic filter is empty (5: MQTT-4.7.3-1, 3.1.1: MQTT-4.7.3-1)",
        ));
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Err(Violation::topic_filter(
                "# is not the last level by itself (5: MQTT-4.7.1-1, 3.1.1: MQTT-4.7.1-2)",
            ));
        }
        if level.contains('+') && level != "+" {
            return Err(Violation::topic_filter(
                "+ is not a level by itself (5: MQTT-4.7.1-2, 3.1.1: MQTT-4.7.1-3)",
            ));
        }
    }
    Ok(())
}
