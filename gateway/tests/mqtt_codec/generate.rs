//! What the differential tests are fed with: values that every implementation must take.

use bytes::Bytes;
use penstock_gateway::mqtt::QoS;
use proptest::prelude::*;
use proptest::sample::select;
use rumqttc::v5::mqttbytes::v5;

pub(crate) fn qos() -> impl Strategy<Value = QoS> {
    select(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

/// A string as MQTT takes it.
pub(crate) fn string() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9/]{0,20}", "[^\\x00]{0,40}"]
}

pub(crate) fn topic() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9/]{1,60}", "[^\\x00+#]{1,40}"]
}

pub(crate) fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof!["[^\\x00/+#$]{0,8}", Just("+".to_owned())];
    (proptest::collection::vec(level, 0..5), any::<bool>())
        .prop_map(|(mut levels, hash)| {
            levels.extend(hash.then(|| "#".to_owned()));
            levels.join("/")
        })
        .prop_filter("not empty", |filter| !filter.is_empty())
}

pub(crate) fn packet_id() -> impl Strategy<Value = u16> {
    1..=u16::MAX
}

pub(crate) fn user_properties() -> impl Strategy<Value = Vec<(String, String)>> {
    proptest::collection::vec((string(), string()), 0..4)
}

pub(crate) fn data() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..200)
}

prop_compose! {
    pub(crate) fn publish_properties()(
        payload_format_indicator in proptest::option::of(0..=1u8),
        message_expiry_interval: Option<u32>,
        topic_alias in proptest::option::of(packet_id()),
        response_topic in proptest::option::of(topic()),
        correlation_data in proptest::option::of(data()),
        user_properties in user_properties(),
        content_type in proptest::option::of(string()),
    ) -> v5::PublishProperties {
        v5::PublishProperties {
            payload_format_indicator,
            message_expiry_interval,
            topic_alias,
            response_topic,
            correlation_data: correlation_data.map(Bytes::from),
            user_properties,
            subscription_identifiers: vec![],
            content_type,
        }
    }
}

prop_compose! {
    pub(crate) fn connect_properties()(
        session_expiry_interval: Option<u32>,
        receive_maximum in proptest::option::of(packet_id()),
        max_packet_size in proptest::option::of(1..=u32::MAX),
        topic_alias_max: Option<u16>,
        request_response_info in proptest::option::of(0..=1u8),
        request_problem_info in proptest::option::of(0..=1u8),
        user_properties in user_properties(),
        authentication in proptest::option::of((string(), proptest::option::of(data()))),
    ) -> v5::ConnectProperties {
        v5::ConnectProperties {
            session_expiry_interval,
            receive_maximum,
            max_packet_size,
            topic_alias_max,
            request_response_info,
            request_problem_info,
            user_properties,
            authentication_data: authentication.as_ref().and_then(|(_, data)| data.clone()).map(Bytes::from),
            authentication_method: authentication.map(|(method, _)| method),
        }
    }
}

prop_compose! {
    pub(crate) fn will_properties()(
        delay_interval: Option<u32>,
        payload_format_indicator in proptest::option::of(0..=1u8),
        message_expiry_interval: Option<u32>,
        content_type in proptest::option::of(string()),
        response_topic in proptest::option::of(topic()),
        correlation_data in proptest::option::of(data()),
        user_properties in user_properties(),
    ) -> v5::LastWillProperties {
        v5::LastWillProperties {
            delay_interval,
            payload_format_indicator,
            message_expiry_interval,
            content_type,
            response_topic,
            correlation_data: correlation_data.map(Bytes::from),
            user_properties,
        }
    }
}

/// Topic, payload, QoS, retain.
pub(crate) type WillParts = (String, Vec<u8>, QoS, bool);

pub(crate) fn will() -> impl Strategy<Value = Option<WillParts>> {
    proptest::option::of((topic(), data(), qos(), any::<bool>()))
}

/// rumqttc leaves an empty user name or password out.
pub(crate) fn login() -> impl Strategy<Value = Option<(String, String)>> {
    proptest::option::of(("[a-zé]{1,9}", "[a-zé]{0,9}"))
}
