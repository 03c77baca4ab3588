//! What each packet means, by the statements of the standard that the gateway relies on.

use std::num::NonZeroU16;

use penstock_proto::DeviceId;
use penstock_proto::topics::MqttTopic;

use super::*;
use crate::mqtt::{decode, next_frame};

const ME: DeviceId = DeviceId::from_bytes([1; 16]);
const OTHER: DeviceId = DeviceId::from_bytes([2; 16]);
const RECEIVE_MAXIMUM: u16 = 3;

fn session(version: Version) -> Session {
    Session::new(version, ME, RECEIVE_MAXIMUM, 256)
}

fn id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

fn publish(topic: &str, qos: QoS, packet_id: u16) -> Publish<'_> {
    Publish {
        dup: false,
        qos,
        retain: false,
        packet_id: PacketId::new(packet_id),
        topic,
        topic_alias: None,
        payload_is_utf8: false,
        message_expiry_s: None,
        payload: b"reading",
    }
}

fn mine() -> String {
    MqttTopic::Reading(ME).to_string()
}

/// A packet and the bytes that are written at once for it.
fn step<'a>(session: &mut Session, packet: Packet<'a>) -> (Result<Step<'a>, Outcome>, Vec<u8>) {
    let mut out = Vec::new();
    (session.on_packet(packet, &mut out), out)
}

fn submit_ack(session: &mut Session, publish: Publish<'_>) -> Ack {
    match step(session, Packet::Publish(publish)).0.unwrap() {
        Step::Submit { ack, .. } => ack,
        other => panic!("not submitted: {other:?}"),
    }
}

#[test]
fn a_publish_to_ones_own_topic_is_submitted_and_owed_the_ack_of_its_qos() {
    for version in [Version::V311, Version::V5] {
        let mut session = session(version);
        let topic = mine();
        assert_eq!(submit_ack(&mut session, publish(&topic, QoS::AtMostOnce, 0)), Ack::None);
        let qos1 = submit_ack(&mut session, publish(&topic, QoS::AtLeastOnce, 1));
        assert_eq!(qos1, Ack::PubAck(id(1), ReasonCode::Success));
        let qos2 = submit_ack(&mut session, publish(&topic, QoS::ExactlyOnce, 2));
        assert_eq!(qos2, Ack::PubRec(id(2), ReasonCode::Success));
    }
}

#[test]
fn mqtt5_another_devices_topic_is_refused_by_the_ack_and_the_connection_goes_on() {
    let mut session = session(Version::V5);
    let topic = MqttTopic::Reading(OTHER).to_string();
    let (refused, out) = step(&mut session, Packet::Publish(publish(&topic, QoS::AtLeastOnce, 7)));
    assert_eq!(refused, Ok(Step::Answer(Ack::PubAck(id(7), ReasonCode::NotAuthorized))));
    assert!(out.is_empty(), "a refusal keeps its place in the order of acks");
    let (refused, _) = step(&mut session, Packet::Publish(publish(&topic, QoS::AtMostOnce, 0)));
    assert_eq!(refused, Err(Outcome::NotAuthorized), "QoS 0 has no ack to say it with");
}

#[test]
fn mqtt311_another_devices_topic_closes_the_connection() {
    let topic = MqttTopic::Reading(OTHER).to_string();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut session = session(Version::V311);
        let (refused, _) = step(&mut session, Packet::Publish(publish(&topic, qos, 7)));
        assert_eq!(refused, Err(Outcome::NotAuthorized));
    }
}

#[test]
fn mqtt5_3_3_4_9_more_publishes_than_the_receive_maximum_end_the_connection() {
    let mut session = session(Version::V5);
    let topic = mine();
    for n in 1..=RECEIVE_MAXIMUM {
        submit_ack(&mut session, publish(&topic, QoS::AtLeastOnce, n));
    }
    let (one_more, _) = step(&mut session, Packet::Publish(publish(&topic, QoS::AtLeastOnce, 9)));
    assert_eq!(one_more, Err(Outcome::ReceiveMaximumExceeded));
    session.on_ack_written(Ack::PubAck(id(1), ReasonCode::Success));
    submit_ack(&mut session, publish(&topic, QoS::AtLeastOnce, 9));
}

#[test]
fn mqtt5_4_9_a_qos_2_publish_is_in_flight_until_its_pubcomp() {
    let mut session = session(Version::V5);
    let topic = mine();
    for n in 1..=RECEIVE_MAXIMUM {
        let ack = submit_ack(&mut session, publish(&topic, QoS::ExactlyOnce, n));
        session.on_ack_written(ack);
    }
    let (one_more, _) = step(&mut session, Packet::Publish(publish(&topic, QoS::AtLeastOnce, 9)));
    assert_eq!(one_more, Err(Outcome::ReceiveMaximumExceeded), "PUBREC does not end a QoS 2 publish");
    let pubrel = Packet::PubRel { packet_id: id(1), reason: ReasonCode::Success };
    let (done, out) = step(&mut session, pubrel);
    assert_eq!(done, Ok(Step::Done));
    assert_eq!(out, [0x70, 2, 0, 1], "PUBCOMP");
    submit_ack(&mut session, publish(&topic, QoS::AtLeastOnce, 9));
}

#[test]
fn mqtt5_4_3_3_10_a_resent_qos_2_publish_is_not_submitted_twice() {
    for version in [Version::V311, Version::V5] {
        let mut session = session(version);
        let topic = mine();
        let ack = submit_ack(&mut session, publish(&topic, QoS::ExactlyOnce, 5));
        session.on_ack_written(ack);
        let again = Publish { dup: true, ..publish(&topic, QoS::ExactlyOnce, 5) };
        let (answer, _) = step(&mut session, Packet::Publish(again));
        assert_eq!(answer, Ok(Step::Answer(Ack::PubRec(id(5), ReasonCode::Success))));
        let (reused, _) = step(&mut session, Packet::Publish(publish(&topic, QoS::ExactlyOnce, 5)));
        assert_eq!(reused, Err(Outcome::Violation(ReasonCode::PacketIdentifierInUse)));
    }
}

#[test]
fn mqtt5_4_3_3_a_refused_qos_2_publish_needs_no_pubrel() {
    let mut session = session(Version::V5);
    let topic = mine();
    submit_ack(&mut session, publish(&topic, QoS::ExactlyOnce, 5));
    session.on_ack_written(Ack::PubRec(id(5), ReasonCode::PayloadFormatInvalid));
    let ack = submit_ack(&mut session, publish(&topic, QoS::ExactlyOnce, 5));
    assert_eq!(ack, Ack::PubRec(id(5), ReasonCode::Success), "the identifier is free again");
}

#[test]
fn mqtt5_3_6_2_1_a_pubrel_for_an_unknown_identifier_is_answered_with_not_found() {
    let pubrel = Packet::PubRel { packet_id: id(8), reason: ReasonCode::Success };
    let (done, out) = step(&mut session(Version::V5), pubrel);
    assert_eq!(done, Ok(Step::Done));
    assert_eq!(out[..5], [0x70, 3, 0, 8, 0x92]);
    let pubrel = Packet::PubRel { packet_id: id(8), reason: ReasonCode::Success };
    let (_, out) = step(&mut session(Version::V311), pubrel);
    assert_eq!(out, [0x70, 2, 0, 8], "3.1.1 has no word for it (MQTT-4.3.3-2)");
}

#[test]
fn a_withdrawn_publish_is_seen_again_as_new() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut session = session(Version::V5);
        let topic = mine();
        for _ in 0..10 {
            let ack = submit_ack(&mut session, publish(&topic, qos, 5));
            session.withdraw(ack);
        }
    }
}

#[test]
fn mqtt5_3_3_2_3_4_a_topic_alias_stands_for_its_topic() {
    let mut session = session(Version::V5);
    let topic = mine();
    let alias = NonZeroU16::new(TOPIC_ALIAS_MAX);
    let unset = Publish { topic_alias: alias, ..publish("", QoS::AtMostOnce, 0) };
    assert_eq!(
        step(&mut session, Packet::Publish(unset)).0,
        Err(Outcome::Violation(ReasonCode::ProtocolError)),
        "an alias that was never set"
    );
    submit_ack(&mut session, Publish { topic_alias: alias, ..publish(&topic, QoS::AtMostOnce, 0) });
    let (by_alias, _) = step(
        &mut session,
        Packet::Publish(Publish { topic_alias: alias, ..publish("", QoS::AtMostOnce, 0) }),
    );
    assert!(matches!(by_alias, Ok(Step::Submit { topic: MqttTopic::Reading(ME), .. })));
}

#[test]
fn mqtt5_3_3_2_3_4_an_alias_above_the_maximum_ends_the_connection() {
    let topic = mine();
    let beyond =
        Publish { topic_alias: NonZeroU16::new(TOPIC_ALIAS_MAX + 1), ..publish(&topic, QoS::AtMostOnce, 0) };
    let (refused, _) = step(&mut session(Version::V5), Packet::Publish(beyond));
    assert_eq!(refused, Err(Outcome::Violation(ReasonCode::TopicAliasInvalid)));
}

#[test]
fn an_alias_does_not_smuggle_in_another_devices_topic() {
    let mut session = session(Version::V5);
    let topic = MqttTopic::Reading(OTHER).to_string();
    let alias = NonZeroU16::new(1);
    let set = Publish { topic_alias: alias, ..publish(&topic, QoS::AtLeastOnce, 1) };
    assert!(matches!(step(&mut session, Packet::Publish(set)).0, Ok(Step::Answer(_))));
    let followed = Publish { topic_alias: alias, ..publish("", QoS::AtLeastOnce, 2) };
    let (refused, _) = step(&mut session, Packet::Publish(followed));
    assert_eq!(refused, Ok(Step::Answer(Ack::PubAck(id(2), ReasonCode::NotAuthorized))));
}

#[test]
fn a_topic_longer_than_the_limit_ends_the_connection() {
    let topic = "x".repeat(257);
    let (refused, _) = step(&mut session(Version::V5), Packet::Publish(publish(&topic, QoS::AtMostOnce, 0)));
    assert_eq!(refused, Err(Outcome::TopicTooLong));
}

#[test]
fn every_subscription_is_refused_in_its_suback() {
    // SUBSCRIBE to "a" and "b/#"; MQTT 5 has a property length of 0 behind the packet identifier.
    let v311 = [0x82, 12, 0, 9, 0, 1, b'a', 0, 0, 3, b'b', b'/', b'#', 1];
    let v5 = [0x82, 13, 0, 9, 0, 0, 1, b'a', 0, 0, 3, b'b', b'/', b'#', 1];
    for (version, bytes, expected) in [
        (Version::V311, &v311[..], &[0x90, 4, 0, 9, 0x80, 0x80][..]),
        (Version::V5, &v5[..], &[0x90, 5, 0, 9, 0, 0x87, 0x87][..]),
    ] {
        let frame = next_frame(bytes, 1000).unwrap().unwrap();
        let (done, out) = step(&mut session(version), decode(&frame, version).unwrap());
        assert_eq!(done, Ok(Step::Done));
        assert_eq!(out, expected);
    }
}

#[test]
fn mqtt_3_12_4_a_pingreq_is_answered() {
    let (done, out) = step(&mut session(Version::V311), Packet::PingReq);
    assert_eq!(done, Ok(Step::Done));
    assert_eq!(out, [0xd0, 0]);
}

#[test]
fn acks_for_what_was_never_sent_and_auth_are_protocol_errors() {
    let reason = ReasonCode::Success;
    for packet in [
        Packet::PubAck { packet_id: id(1), reason },
        Packet::PubRec { packet_id: id(1), reason },
        Packet::PubComp { packet_id: id(1), reason },
        Packet::Auth { reason },
    ] {
        let (refused, _) = step(&mut session(Version::V5), packet);
        assert_eq!(refused, Err(Outcome::Violation(ReasonCode::ProtocolError)));
    }
}
