//! The corpus of the fuzz targets: packets as rumqttc's clients send them, readings as prost encodes them.

use bytes::{Bytes, BytesMut};
use penstock_proto::v1::SensorReading;
use prost::Message;
use rumqttc::mqttbytes::{QoS as QoS4, v4};
use rumqttc::v5::mqttbytes::{QoS as QoS5, v5};

use crate::targets::{DEVICE, RECEIVED_AT_MS};

/// The name of a file and what is in it.
pub(crate) type Seed = (&'static str, Vec<u8>);

const TOPIC: &str = "devices/07070707-0707-0707-0707-070707070707/readings";

fn user_properties() -> Vec<(String, String)> {
    vec![("firmware".into(), "1.4.2".into()), ("site".into(), "Zürich".into())]
}

/// Packets after CONNECT, each behind the byte that tells the version.
pub(crate) fn packets() -> Vec<Seed> {
    let mut seeds: Vec<Seed> = packets_v4()
        .into_iter()
        .map(|(name, packet)| {
            let mut out = BytesMut::from(&[0][..]);
            packet.write(&mut out, usize::MAX).unwrap();
            (name, out.to_vec())
        })
        .collect();
    seeds.extend(packets_v5().into_iter().map(|(name, packet)| {
        let mut out = BytesMut::from(&[1][..]);
        packet.write(&mut out, None).unwrap();
        (name, out.to_vec())
    }));
    seeds.extend([
        ("v5_auth", b"\x01\xf0\x0b\x19\x09\x15\x00\x02mm\x16\x00\x01\xff".to_vec()),
        ("v5_publish_alias_only", b"\x01\x30\x07\x00\x00\x03\x23\x00\x02p".to_vec()),
        ("v5_publish_then_pingreq", b"\x01\x32\x07\x00\x01t\x00\x07\x00p\xc0\x00".to_vec()),
        ("v4_pubrel_then_publish", b"\x00\x62\x02\x00\x07\x34\x06\x00\x01t\x00\x08p".to_vec()),
    ]);
    seeds
}

fn packets_v4() -> Vec<(&'static str, v4::Packet)> {
    let publish =
        |qos, pkid| v4::Publish { pkid, ..v4::Publish::new(TOPIC, qos, plain_reading().encode_to_vec()) };
    let filter = |path: &str, qos| v4::SubscribeFilter { path: path.into(), qos };
    let filters = vec![filter("devices/a/commands/#", QoS4::AtLeastOnce), filter("+/x", QoS4::ExactlyOnce)];
    vec![
        ("v4_publish_qos0", v4::Packet::Publish(publish(QoS4::AtMostOnce, 0))),
        ("v4_publish_qos1", v4::Packet::Publish(publish(QoS4::AtLeastOnce, 1))),
        ("v4_publish_qos2", v4::Packet::Publish(publish(QoS4::ExactlyOnce, 65_535))),
        ("v4_puback", v4::Packet::PubAck(v4::PubAck::new(1))),
        ("v4_pubrec", v4::Packet::PubRec(v4::PubRec::new(2))),
        ("v4_pubrel", v4::Packet::PubRel(v4::PubRel::new(3))),
        ("v4_pubcomp", v4::Packet::PubComp(v4::PubComp::new(4))),
        ("v4_subscribe", v4::Packet::Subscribe(v4::Subscribe { pkid: 5, filters })),
        (
            "v4_unsubscribe",
            v4::Packet::Unsubscribe(v4::Unsubscribe { pkid: 6, topics: vec!["a/+".into(), "#".into()] }),
        ),
        ("v4_pingreq", v4::Packet::PingReq),
        ("v4_disconnect", v4::Packet::Disconnect),
    ]
}

fn packets_v5() -> Vec<(&'static str, v5::Packet)> {
    let properties = v5::PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(3600),
        topic_alias: Some(1),
        response_topic: Some("replies/1".into()),
        correlation_data: Some(Bytes::from_static(&[0, 255])),
        user_properties: user_properties(),
        subscription_identifiers: vec![],
        content_type: Some("application/x-protobuf".into()),
    };
    let publish = |qos, pkid, properties| {
        let payload = Bytes::from(plain_reading().encode_to_vec());
        v5::Packet::Publish(v5::Publish { pkid, ..v5::Publish::new(TOPIC, qos, payload, properties) })
    };
    let why =
        Some(v5::PubAckProperties { reason_string: Some("why".into()), user_properties: user_properties() });
    let filter = |path: &str, qos| v5::Filter {
        preserve_retain: true,
        retain_forward_rule: v5::RetainForwardRule::Never,
        ..v5::Filter::new(path, qos)
    };
    let filters =
        vec![filter("devices/a/commands/#", QoS5::AtLeastOnce), filter("$share/g/+", QoS5::ExactlyOnce)];
    let subscribe = v5::SubscribeProperties { id: Some(268_435_455), user_properties: user_properties() };
    let unsubscribe = v5::Unsubscribe {
        pkid: 6,
        filters: vec!["a/+".into(), "$share/g/#".into()],
        properties: Some(v5::UnsubscribeProperties { user_properties: user_properties() }),
    };
    let disconnect = v5::Disconnect {
        reason_code: v5::DisconnectReasonCode::DisconnectWithWillMessage,
        properties: Some(v5::DisconnectProperties {
            session_expiry_interval: Some(60),
            reason_string: Some("bye".into()),
            user_properties: user_properties(),
            server_reference: None,
        }),
    };
    vec![
        ("v5_publish_qos0", publish(QoS5::AtMostOnce, 0, None)),
        ("v5_publish_qos1", publish(QoS5::AtLeastOnce, 1, None)),
        ("v5_publish_qos2_properties", publish(QoS5::ExactlyOnce, 65_535, Some(properties))),
        ("v5_puback", v5::Packet::PubAck(v5::PubAck::new(1, None))),
        ("v5_puback_properties", v5::Packet::PubAck(v5::PubAck::new(1, why))),
        ("v5_pubrec", v5::Packet::PubRec(v5::PubRec::new(2, None))),
        ("v5_pubrel", v5::Packet::PubRel(v5::PubRel::new(3, None))),
        ("v5_pubcomp", v5::Packet::PubComp(v5::PubComp::new(4, None))),
        (
            "v5_subscribe",
            v5::Packet::Subscribe(v5::Subscribe { pkid: 5, filters, properties: Some(subscribe) }),
        ),
        ("v5_unsubscribe", v5::Packet::Unsubscribe(unsubscribe)),
        ("v5_pingreq", v5::Packet::PingReq(v5::PingReq)),
        ("v5_disconnect", v5::Packet::Disconnect(disconnect)),
    ]
}

/// First packets.
pub(crate) fn connects() -> Vec<Seed> {
    let v4 = |connect: v4::Connect| {
        let mut out = BytesMut::new();
        connect.write(&mut out).unwrap();
        out.to_vec()
    };
    let v5 = |properties, will, login| {
        let mut out = BytesMut::new();
        let connect = v5::Connect { keep_alive: 60, client_id: "id".into(), clean_start: true, properties };
        connect.write(&will, &login, &mut out).unwrap();
        out.to_vec()
    };
    let properties = v5::ConnectProperties {
        session_expiry_interval: Some(3600),
        receive_maximum: Some(20),
        max_packet_size: Some(65_536),
        topic_alias_max: Some(10),
        request_response_info: Some(1),
        request_problem_info: Some(0),
        user_properties: user_properties(),
        authentication_method: Some("SCRAM-SHA-256".into()),
        authentication_data: Some(Bytes::from_static(&[0, 255])),
    };
    let will_properties = v5::LastWillProperties {
        delay_interval: Some(5),
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(60),
        content_type: Some("text/plain".into()),
        response_topic: Some("replies/1".into()),
        correlation_data: Some(Bytes::from_static(&[1])),
        user_properties: user_properties(),
    };
    let will = v5::LastWill::new("devices/a/status", "gone", QoS5::AtLeastOnce, true, Some(will_properties));
    let last_will = v4::LastWill::new("devices/a/status", "gone", QoS4::AtLeastOnce, true);
    let login = v4::Login::new("user", "pass");
    vec![
        ("v4_plain", v4(v4::Connect::new("id"))),
        (
            "v4_all",
            v4(v4::Connect { last_will: Some(last_will), login: Some(login), ..v4::Connect::new("id") }),
        ),
        ("v4_old_session", v4(v4::Connect { clean_session: false, ..v4::Connect::new("id") })),
        ("v5_plain", v5(None, None, None)),
        ("v5_properties", v5(Some(properties.clone()), None, None)),
        ("v5_all", v5(Some(properties), Some(will), Some(v5::Login::new("user", "pass")))),
        ("v5_password_only", b"\x10\x13\x00\x04MQTT\x05\x42\x00\x3c\x00\x00\x02id\x00\x02pw".to_vec()),
    ]
}

fn plain_reading() -> SensorReading {
    SensorReading {
        timestamp: RECEIVED_AT_MS,
        temperature: Some(21.5),
        humidity: Some(55.0),
        pressure: Some(1013.2),
        battery_level: Some(87),
        sequence: 42,
        ..Default::default()
    }
}

/// Encoded readings.
pub(crate) fn readings() -> Vec<Seed> {
    let metrics = [("wind_speed".to_owned(), 4.2), ("μ".to_owned(), -1e300)].into();
    let full = SensorReading { device_id: DEVICE.as_bytes().to_vec(), metrics, ..plain_reading() };
    let bare = SensorReading { timestamp: RECEIVED_AT_MS, ..Default::default() };
    // A field that a later version of the contract may have, and a repeated scalar.
    let unknown = [&full.encode_to_vec()[..], &[0x7a, 3, 9, 9, 9, 0x38, 43]].concat();
    vec![
        ("plain", plain_reading().encode_to_vec()),
        ("full", full.encode_to_vec()),
        ("bare", bare.encode_to_vec()),
        ("unknown_and_repeated", unknown),
    ]
}
