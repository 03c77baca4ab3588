//! Against rumqttc's codec, which has no code in common with ours: what it encodes we read the same, what we encode it
//! reads the same, and no packet is seen before its last byte or changed by what follows it.

use std::num::NonZeroU16;

use bytes::BytesMut;
use penstock_gateway::mqtt::encode::{self, ConnAckProperties};
use penstock_gateway::mqtt::{
    Connect, Packet, PacketId, Publish, QoS, ReasonCode, RetainHandling, Version, Will, decode,
    decode_connect, next_frame,
};
use proptest::prelude::*;
use proptest::sample::select;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;

use crate::generate::{
    WillParts, connect_properties, data, filter, login, packet_id, publish_properties, qos, string, topic,
    user_properties, will, will_properties,
};
use crate::support::{BOTH, accept, frame};

fn theirs_v4(packet: &v4::Packet) -> Vec<u8> {
    let mut out = BytesMut::new();
    packet.write(&mut out, usize::MAX).unwrap();
    out.to_vec()
}

fn theirs_v5(packet: &v5::Packet) -> Vec<u8> {
    let mut out = BytesMut::new();
    packet.write(&mut out, None).unwrap();
    out.to_vec()
}

fn read_v4(bytes: &[u8]) -> v4::Packet {
    v4::Packet::read(&mut BytesMut::from(bytes), usize::MAX).unwrap()
}

fn read_v5(bytes: &[u8]) -> v5::Packet {
    v5::Packet::read(&mut BytesMut::from(bytes), None).unwrap()
}

const fn qos_v4(qos: QoS) -> rumqttc::mqttbytes::QoS {
    match qos {
        QoS::AtMostOnce => rumqttc::mqttbytes::QoS::AtMostOnce,
        QoS::AtLeastOnce => rumqttc::mqttbytes::QoS::AtLeastOnce,
        QoS::ExactlyOnce => rumqttc::mqttbytes::QoS::ExactlyOnce,
    }
}

const fn qos_v5(qos: QoS) -> rumqttc::v5::mqttbytes::QoS {
    match qos {
        QoS::AtMostOnce => rumqttc::v5::mqttbytes::QoS::AtMostOnce,
        QoS::AtLeastOnce => rumqttc::v5::mqttbytes::QoS::AtLeastOnce,
        QoS::ExactlyOnce => rumqttc::v5::mqttbytes::QoS::ExactlyOnce,
    }
}

/// The packet is there with its last byte, not before, and what follows it changes nothing.
fn whole_or_nothing(bytes: &[u8], version: Version) {
    for end in 0..bytes.len() {
        assert_eq!(next_frame(&bytes[..end], bytes.len()).unwrap(), None, "{end} of {}", bytes.len());
    }
    let followed = [bytes, &[0xff, 0xff]].concat();
    let frame = next_frame(&followed, bytes.len()).unwrap().unwrap();
    assert_eq!(frame, next_frame(bytes, bytes.len()).unwrap().unwrap());
    assert!(next_frame(bytes, bytes.len() - 1).is_err());
    let again =
        |bytes: &[u8]| format!("{:?}", decode(&next_frame(bytes, bytes.len()).unwrap().unwrap(), version));
    assert_eq!(again(bytes), again(&followed));
}

fn same_will(ours: Option<Will<'_>>, theirs: Option<&WillParts>) {
    let ours = ours.map(|will| (will.topic.to_owned(), will.payload.to_vec(), will.qos, will.retain));
    assert_eq!(ours.as_ref(), theirs);
}

fn same_login(ours: &Connect<'_>, theirs: Option<&(String, String)>) {
    assert_eq!(ours.username, theirs.map(|(username, _)| &username[..]));
    let password = theirs.map(|(_, password)| password.as_bytes()).filter(|password| !password.is_empty());
    assert_eq!(ours.password, password);
}

proptest! {
    #[test]
    fn connect_of_mqtt311_reads_the_same(
        keep_alive: u16, client_id in string(), clean_session: bool, will in will(), login in login(),
    ) {
        let connect = v4::Connect {
            keep_alive,
            client_id: client_id.clone(),
            clean_session,
            last_will: will.clone().map(|(topic, message, qos, retain)| {
                v4::LastWill { topic, message: message.into(), qos: qos_v4(qos), retain }
            }),
            login: login.clone().map(|(username, password)| v4::Login { username, password }),
            ..v4::Connect::new("")
        };
        let bytes = theirs_v4(&v4::Packet::Connect(connect));
        whole_or_nothing(&bytes, Version::V311);
        let ours = decode_connect(&frame(&bytes)).unwrap();
        prop_assert_eq!(ours.version, Version::V311);
        prop_assert_eq!((ours.keep_alive_s, ours.clean_start), (keep_alive, clean_session));
        prop_assert_eq!(ours.client_id, client_id);
        same_will(ours.will, will.as_ref());
        same_login(&ours, login.as_ref());
    }

    #[test]
    fn connect_of_mqtt5_reads_the_same(
        keep_alive: u16, client_id in string(), clean_start: bool, will in will(), login in login(),
        properties in proptest::option::of(connect_properties()),
        will_properties in proptest::option::of(will_properties()),
    ) {
        let connect =
            v5::Connect { keep_alive, client_id: client_id.clone(), clean_start, properties: properties.clone() };
        let last_will = will.clone().map(|(topic, message, qos, retain)| {
            v5::LastWill::new(topic, message, qos_v5(qos), retain, will_properties.clone())
        });
        let their_login = login.clone().map(|(username, password)| v5::Login { username, password });
        let bytes = theirs_v5(&v5::Packet::Connect(connect, last_will, their_login));
        whole_or_nothing(&bytes, Version::V5);
        let ours = decode_connect(&frame(&bytes)).unwrap();
        prop_assert_eq!(ours.version, Version::V5);
        prop_assert_eq!((ours.keep_alive_s, ours.clean_start), (keep_alive, clean_start));
        prop_assert_eq!(ours.client_id, client_id);
        same_will(ours.will, will.as_ref());
        same_login(&ours, login.as_ref());
        let said = properties.unwrap_or_default();
        prop_assert_eq!(ours.session_expiry_s, said.session_expiry_interval.unwrap_or(0));
        prop_assert_eq!(ours.receive_maximum, said.receive_maximum.unwrap_or(65_535));
        prop_assert_eq!(ours.packet_bytes_max, said.max_packet_size);
        prop_assert_eq!(ours.topic_alias_maximum, said.topic_alias_max.unwrap_or(0));
        prop_assert_eq!(ours.request_problem_information, said.request_problem_info != Some(0));
        prop_assert_eq!(ours.authentication_method, said.authentication_method.as_deref());
        if let (Some(ours), Some(said)) = (ours.will, will_properties) {
            prop_assert_eq!(ours.delay_s, said.delay_interval.unwrap_or(0));
            prop_assert_eq!(ours.payload_is_utf8, said.payload_format_indicator == Some(1));
            prop_assert_eq!(ours.message_expiry_s, said.message_expiry_interval);
        }
    }

    #[test]
    fn publish_of_mqtt311_reads_the_same_both_ways(
        dup: bool, qos in qos(), retain: bool, topic in topic(), pkid in packet_id(), payload in data(),
    ) {
        let is_acked = qos != QoS::AtMostOnce;
        let theirs = v4::Publish {
            dup: dup && is_acked,
            qos: qos_v4(qos),
            retain,
            topic: topic.clone(),
            pkid: if is_acked { pkid } else { 0 },
            payload: payload.clone().into(),
        };
        let ours = Publish {
            dup: dup && is_acked,
            qos,
            retain,
            packet_id: PacketId::new(pkid).filter(|_| is_acked),
            topic: &topic,
            topic_alias: None,
            payload_is_utf8: false,
            message_expiry_s: None,
            payload: &payload,
        };
        let bytes = theirs_v4(&v4::Packet::Publish(theirs.clone()));
        whole_or_nothing(&bytes, Version::V311);
        prop_assert!(matches!(accept(&bytes, Version::V311), Packet::Publish(publish) if publish == ours));
        let mut out = Vec::new();
        encode::publish(&mut out, Version::V311, &ours).unwrap();
        prop_assert_eq!(&out, &bytes);
        prop_assert_eq!(read_v4(&out), v4::Packet::Publish(theirs));
    }

    #[test]
    fn publish_of_mqtt5_reads_the_same_both_ways(
        dup: bool, qos in qos(), retain: bool, topic in topic(), pkid in packet_id(), payload in data(),
        properties in proptest::option::of(publish_properties()),
    ) {
        let is_acked = qos != QoS::AtMostOnce;
        let said = properties.clone().unwrap_or_default();
        let theirs = v5::Publish {
            dup: dup && is_acked,
            qos: qos_v5(qos),
            retain,
            topic: topic.clone().into(),
            pkid: if is_acked { pkid } else { 0 },
            payload: payload.clone().into(),
            properties,
        };
        let ours = Publish {
            dup: dup && is_acked,
            qos,
            retain,
            packet_id: PacketId::new(pkid).filter(|_| is_acked),
            topic: &topic,
            topic_alias: said.topic_alias.and_then(NonZeroU16::new),
            payload_is_utf8: said.payload_format_indicator == Some(1),
            message_expiry_s: said.message_expiry_interval,
            payload: &payload,
        };
        let bytes = theirs_v5(&v5::Packet::Publish(theirs.clone()));
        whole_or_nothing(&bytes, Version::V5);
        prop_assert!(matches!(accept(&bytes, Version::V5), Packet::Publish(publish) if publish == ours));
        let mut out = Vec::new();
        encode::publish(&mut out, Version::V5, &ours).unwrap();
        let kept = v5::PublishProperties {
            payload_format_indicator: ours.payload_is_utf8.then_some(1),
            message_expiry_interval: said.message_expiry_interval,
            topic_alias: said.topic_alias,
            ..Default::default()
        };
        let kept = Some(kept).filter(|kept| *kept != v5::PublishProperties::default());
        prop_assert_eq!(read_v5(&out), v5::Packet::Publish(v5::Publish { properties: kept, ..theirs }));
    }

    #[test]
    fn subscribe_reads_the_same(
        pkid in packet_id(),
        filters in proptest::collection::vec((filter(), qos(), any::<bool>(), any::<bool>(), 0..3u8), 1..6),
        user_properties in user_properties(),
        id in proptest::option::of(1..268_435_456usize),
    ) {
        let theirs = v4::Subscribe {
            pkid,
            filters: filters
                .iter()
                .map(|(path, qos, ..)| v4::SubscribeFilter { path: path.clone(), qos: qos_v4(*qos) })
                .collect(),
        };
        let bytes = theirs_v4(&v4::Packet::Subscribe(theirs));
        whole_or_nothing(&bytes, Version::V311);
        let Packet::Subscribe(ours) = accept(&bytes, Version::V311) else { panic!() };
        prop_assert_eq!((ours.packet_id.get(), ours.filters_len), (pkid, filters.len()));
        let read: Vec<_> = ours.filters().map(|(filter, options)| (filter.to_owned(), options.qos)).collect();
        let said: Vec<_> = filters.iter().map(|(filter, qos, ..)| (filter.clone(), *qos)).collect();
        prop_assert_eq!(read, said);

        let retain = [
            (v5::RetainForwardRule::OnEverySubscribe, RetainHandling::AtSubscribe),
            (v5::RetainForwardRule::OnNewSubscribe, RetainHandling::AtNewSubscription),
            (v5::RetainForwardRule::Never, RetainHandling::Never),
        ];
        let their_filters = filters.iter().map(|(path, qos, no_local, as_published, handling)| v5::Filter {
            path: path.clone(),
            qos: qos_v5(*qos),
            nolocal: *no_local,
            preserve_retain: *as_published,
            retain_forward_rule: retain[usize::from(*handling)].0.clone(),
        });
        let properties = Some(v5::SubscribeProperties { id, user_properties });
        let theirs = v5::Subscribe { pkid, filters: their_filters.collect(), properties };
        let bytes = theirs_v5(&v5::Packet::Subscribe(theirs));
        whole_or_nothing(&bytes, Version::V5);
        let Packet::Subscribe(ours) = accept(&bytes, Version::V5) else { panic!() };
        prop_assert_eq!(ours.subscription_id.map(|id| id as usize), id);
        prop_assert_eq!((ours.packet_id.get(), ours.filters_len), (pkid, filters.len()));
        for ((path, options), said) in ours.filters().zip(&filters) {
            prop_assert_eq!((path, options.qos), (&said.0[..], said.1));
            prop_assert_eq!((options.no_local, options.retain_as_published), (said.2, said.3));
            prop_assert_eq!(options.retain_handling, retain[usize::from(said.4)].1);
        }
    }

    #[test]
    fn unsubscribe_reads_the_same(
        pkid in packet_id(),
        filters in proptest::collection::vec(filter(), 1..6),
        user_properties in user_properties(),
    ) {
        let properties = Some(v5::UnsubscribeProperties { user_properties });
        let theirs_5 = v5::Unsubscribe { pkid, filters: filters.clone(), properties };
        let theirs_4 = v4::Unsubscribe { pkid, topics: filters.clone() };
        let packets = [
            (theirs_v4(&v4::Packet::Unsubscribe(theirs_4)), Version::V311),
            (theirs_v5(&v5::Packet::Unsubscribe(theirs_5)), Version::V5),
        ];
        for (bytes, version) in &packets {
            whole_or_nothing(bytes, *version);
            let Packet::Unsubscribe(ours) = accept(bytes, *version) else { panic!() };
            prop_assert_eq!((ours.packet_id.get(), ours.filters_len), (pkid, filters.len()));
            prop_assert!(ours.filters().eq(filters.iter().map(String::as_str)));
        }
    }

    #[test]
    fn acks_read_the_same_both_ways(pkid in packet_id(), version in select(&BOTH), which in 0..4usize) {
        type Write = fn(&mut Vec<u8>, Version, PacketId, ReasonCode);
        let id = PacketId::new(pkid).unwrap();
        let write: [Write; 4] = [encode::puback, encode::pubrec, encode::pubrel, encode::pubcomp];
        let mut out = Vec::new();
        write[which](&mut out, version, id, ReasonCode::Success);
        let theirs = match version {
            Version::V311 => theirs_v4(&[
                v4::Packet::PubAck(v4::PubAck { pkid }),
                v4::Packet::PubRec(v4::PubRec { pkid }),
                v4::Packet::PubRel(v4::PubRel { pkid }),
                v4::Packet::PubComp(v4::PubComp { pkid }),
            ][which]),
            Version::V5 => theirs_v5(&[
                v5::Packet::PubAck(v5::PubAck::new(pkid, None)),
                v5::Packet::PubRec(v5::PubRec::new(pkid, None)),
                v5::Packet::PubRel(v5::PubRel::new(pkid, None)),
                v5::Packet::PubComp(v5::PubComp::new(pkid, None)),
            ][which]),
        };
        prop_assert_eq!(&out, &theirs);
        whole_or_nothing(&theirs, version);
        let read = match accept(&theirs, version) {
            Packet::PubAck { packet_id, reason } => (0, packet_id, reason),
            Packet::PubRec { packet_id, reason } => (1, packet_id, reason),
            Packet::PubRel { packet_id, reason } => (2, packet_id, reason),
            Packet::PubComp { packet_id, reason } => (3, packet_id, reason),
            other => panic!("{other:?}"),
        };
        prop_assert_eq!(read, (which, id, ReasonCode::Success));
    }

    #[test]
    fn acks_of_mqtt5_with_a_reason_read_the_same_both_ways(
        pkid in packet_id(), reason_string in proptest::option::of(string()), user_properties in user_properties(),
    ) {
        let id = PacketId::new(pkid).unwrap();
        let refused = v5::PubAck { reason: v5::PubAckReason::PayloadFormatInvalid, ..v5::PubAck::new(pkid, None) };
        let mut out = Vec::new();
        encode::puback(&mut out, Version::V5, id, ReasonCode::PayloadFormatInvalid);
        prop_assert_eq!(read_v5(&out), v5::Packet::PubAck(refused.clone()));
        let unknown = v5::PubComp {
            reason: v5::PubCompReason::PacketIdentifierNotFound,
            ..v5::PubComp::new(pkid, None)
        };
        let mut out = Vec::new();
        encode::pubcomp(&mut out, Version::V5, id, ReasonCode::PacketIdentifierNotFound);
        prop_assert_eq!(read_v5(&out), v5::Packet::PubComp(unknown));

        let properties = Some(v5::PubAckProperties { reason_string, user_properties });
        let bytes = theirs_v5(&v5::Packet::PubAck(v5::PubAck { properties, ..refused }));
        whole_or_nothing(&bytes, Version::V5);
        let Packet::PubAck { packet_id, reason } = accept(&bytes, Version::V5) else { panic!() };
        prop_assert_eq!((packet_id, reason), (id, ReasonCode::PayloadFormatInvalid));
    }

    #[test]
    fn disconnect_of_mqtt5_reads_the_same_both_ways(
        code in select(&[0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99]),
        expiry_s: u32, reason_string in proptest::option::of(string()),
        user_properties in user_properties(), why in proptest::option::of(string()),
    ) {
        let reason_code = v5::DisconnectReasonCode::try_from(code).unwrap();
        // The expiry is always there: rumqttc loses the reason of a DISCONNECT whose body has two bytes.
        let properties = v5::DisconnectProperties {
            session_expiry_interval: Some(expiry_s),
            reason_string,
            user_properties,
            server_reference: None,
        };
        let theirs = v5::Disconnect { reason_code, properties: Some(properties) };
        let bytes = theirs_v5(&v5::Packet::Disconnect(theirs));
        whole_or_nothing(&bytes, Version::V5);
        let Packet::Disconnect { reason, session_expiry_s } = accept(&bytes, Version::V5) else { panic!() };
        prop_assert_eq!((reason.code(), session_expiry_s), (code, Some(expiry_s)));

        let mut out = Vec::new();
        encode::disconnect(&mut out, Version::V5, reason, why.as_deref());
        let properties = why.map(|why| v5::DisconnectProperties {
            session_expiry_interval: None,
            reason_string: Some(why),
            user_properties: vec![],
            server_reference: None,
        });
        prop_assert_eq!(read_v5(&out), v5::Packet::Disconnect(v5::Disconnect { reason_code, properties }));
    }

    #[test]
    fn connack_of_mqtt5_is_read_as_it_was_meant(
        session_present: bool, session_expiry_s: Option<u32>, receive_maximum in packet_id(), maximum_qos in qos(),
        available: [bool; 4], packet_bytes_max in proptest::option::of(1..=u32::MAX),
        client_id in proptest::option::of(string()), topic_alias_maximum: u16,
        why in proptest::option::of(string()), server_keep_alive_s: Option<u16>,
    ) {
        let ours = ConnAckProperties {
            session_expiry_s,
            receive_maximum,
            maximum_qos,
            retain_available: available[0],
            packet_bytes_max,
            assigned_client_id: client_id.as_deref(),
            topic_alias_maximum,
            reason_string: why.as_deref(),
            wildcard_available: available[1],
            subscription_id_available: available[2],
            shared_available: available[3],
            server_keep_alive_s,
        };
        let mut out = Vec::new();
        encode::connack(&mut out, Version::V5, session_present, ReasonCode::Success, &ours);
        let v5::Packet::ConnAck(theirs) = read_v5(&out) else { panic!() };
        prop_assert_eq!((theirs.session_present, theirs.code), (session_present, v5::ConnectReturnCode::Success));
        let Some(theirs) = theirs.properties else {
            prop_assert_eq!(ours, ConnAckProperties::default());
            return Ok(());
        };
        prop_assert_eq!(theirs.session_expiry_interval, session_expiry_s);
        prop_assert_eq!(theirs.receive_max.unwrap_or(65_535), receive_maximum);
        prop_assert_eq!(theirs.max_qos.unwrap_or(2), maximum_qos.code());
        prop_assert_eq!(theirs.max_packet_size, packet_bytes_max);
        prop_assert_eq!(theirs.assigned_client_identifier, client_id);
        prop_assert_eq!(theirs.topic_alias_max.unwrap_or(0), topic_alias_maximum);
        prop_assert_eq!(theirs.reason_string, why);
        prop_assert_eq!(theirs.server_keep_alive, server_keep_alive_s);
        let theirs = [
            theirs.retain_available,
            theirs.wildcard_subscription_available,
            theirs.subscription_identifiers_available,
            theirs.shared_subscription_available,
        ];
        prop_assert_eq!(theirs.map(|available| available.is_none_or(|available| available == 1)), available);
    }

    #[test]
    fn suback_and_unsuback_are_read_as_they_were_meant(pkid in packet_id(), refused: bool) {
        let id = PacketId::new(pkid).unwrap();
        let codes = [0, 1, 2, if refused { 0x87 } else { 0 }];
        let granted = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
        let write = |version| {
            let (mut suback, mut unsuback) = (Vec::new(), Vec::new());
            encode::suback(&mut suback, version, id, &codes);
            encode::unsuback(&mut unsuback, version, id, &[0, if refused { 0x87 } else { 0x11 }]);
            (suback, unsuback)
        };
        let (suback, unsuback) = write(Version::V311);
        use v4::SubscribeReasonCode as Code4;
        let mut return_codes: Vec<_> = granted.iter().map(|qos| Code4::Success(qos_v4(*qos))).collect();
        return_codes.push(if refused { Code4::Failure } else { Code4::Success(qos_v4(QoS::AtMostOnce)) });
        prop_assert_eq!(read_v4(&suback), v4::Packet::SubAck(v4::SubAck { pkid, return_codes }));
        prop_assert_eq!(read_v4(&unsuback), v4::Packet::UnsubAck(v4::UnsubAck { pkid }));

        let (suback, unsuback) = write(Version::V5);
        use v5::SubscribeReasonCode as Code5;
        let mut return_codes: Vec<_> = granted.iter().map(|qos| Code5::Success(qos_v5(*qos))).collect();
        return_codes.push(if refused { Code5::NotAuthorized } else { Code5::Success(qos_v5(QoS::AtMostOnce)) });
        let theirs = v5::SubAck { pkid, return_codes, properties: None };
        prop_assert_eq!(read_v5(&suback), v5::Packet::SubAck(theirs));
        use v5::UnsubAckReason as Reason;
        let last = if refused { Reason::NotAuthorized } else { Reason::NoSubscriptionExisted };
        let theirs = v5::UnsubAck { pkid, reasons: vec![Reason::Success, last], properties: None };
        prop_assert_eq!(read_v5(&unsuback), v5::Packet::UnsubAck(theirs));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), first: u8) {
        let body = [&[first][..], &crate::support::varint(bytes.len()), &bytes].concat();
        for buffer in [&bytes, &body] {
            if let Ok(Some(frame)) = next_frame(buffer, 1 << 20) {
                let _ = decode_connect(&frame);
                for version in BOTH {
                    let _ = decode(&frame, version);
                }
            }
        }
    }
}

#[test]
fn packets_without_a_body_are_the_same() {
    let mut out = Vec::new();
    encode::pingresp(&mut out);
    assert_eq!(read_v4(&out), v4::Packet::PingResp);
    assert_eq!(read_v5(&out), v5::Packet::PingResp(v5::PingResp));
    assert!(matches!(accept(&theirs_v4(&v4::Packet::PingReq), Version::V311), Packet::PingReq));
    assert!(matches!(accept(&theirs_v5(&v5::Packet::PingReq(v5::PingReq)), Version::V5), Packet::PingReq));
    let bytes = theirs_v4(&v4::Packet::Disconnect);
    assert!(matches!(accept(&bytes, Version::V311), Packet::Disconnect { reason: ReasonCode::Success, .. }));
    let normal = v5::Disconnect::new(v5::DisconnectReasonCode::NormalDisconnection);
    let bytes = theirs_v5(&v5::Packet::Disconnect(normal));
    assert!(matches!(accept(&bytes, Version::V5), Packet::Disconnect { reason: ReasonCode::Success, .. }));
}

#[test]
fn connack_of_mqtt311_is_read_as_it_was_meant() {
    use v4::ConnectReturnCode as Code;
    let codes = [
        (ReasonCode::Success, Code::Success),
        (ReasonCode::UnsupportedProtocolVersion, Code::RefusedProtocolVersion),
        (ReasonCode::ClientIdentifierNotValid, Code::BadClientId),
        (ReasonCode::ServerUnavailable, Code::ServiceUnavailable),
        (ReasonCode::BadUserNameOrPassword, Code::BadUserNamePassword),
        (ReasonCode::NotAuthorized, Code::NotAuthorized),
    ];
    for (reason, code) in codes {
        let mut out = Vec::new();
        encode::connack(&mut out, Version::V311, true, reason, &ConnAckProperties::default());
        let session_present = reason == ReasonCode::Success;
        assert_eq!(read_v4(&out), v4::Packet::ConnAck(v4::ConnAck { session_present, code }));
    }
}
