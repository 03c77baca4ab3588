use proptest::prelude::*;
use prost::Message;

use penstock_proto::v1::SensorReading;

use super::*;

fn block(readings: &[SensorReading]) -> Vec<u8> {
    let mut rows = Rows::default();
    for (offset, reading) in readings.iter().enumerate() {
        let bytes = reading.encode_to_vec();
        let view = ReadingView::decode(&bytes).unwrap();
        rows.push(&Row {
            device: DeviceId::from_bytes(std::array::from_fn(|i| u8::try_from(i).unwrap())),
            reading: &view,
            received_at_ms: 7,
            kafka_partition: 0x0102,
            kafka_offset: offset as u64,
        });
    }
    let mut out = Vec::new();
    rows.encode(&mut out);
    out
}

/// What follows the header of the column `index` in a block, up to the header of the next.
fn column(block: &[u8], index: usize) -> &[u8] {
    let header = |index: usize| {
        let (name, kind) = COLUMNS[index];
        let mut header = Vec::new();
        put_string(&mut header, name);
        put_string(&mut header, kind);
        header
    };
    let find = |needle: &[u8]| block.windows(needle.len()).position(|window| window == needle).unwrap();
    let start = find(&header(index)) + header(index).len();
    let end = if index + 1 < COLUMNS.len() { find(&header(index + 1)) } else { block.len() };
    &block[start..end]
}

#[test]
fn a_block_begins_with_its_columns_and_rows() {
    let block = block(&vec![SensorReading::default(); 300]);
    assert_eq!(&block[..3], &[11, 0xac, 0x02]);
}

#[test]
fn a_uuid_is_two_little_endian_halves() {
    let block = block(&[SensorReading::default()]);
    assert_eq!(column(&block, 0), [7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8]);
}

#[test]
fn missing_measurements_are_null_and_present_ones_are_not() {
    let present = SensorReading { temperature: Some(1.0), battery_level: Some(200), ..Default::default() };
    let block = block(&[present, SensorReading::default()]);
    let [a, b, c, d] = 1f32.to_le_bytes();
    assert_eq!(column(&block, 3), [0, 1, a, b, c, d, 0, 0, 0, 0]);
    assert_eq!(column(&block, 6), [0, 1, 200, 0]);
}

#[test]
fn the_ends_of_maps_add_up_over_the_rows() {
    let one = SensorReading { metrics: [("a".to_owned(), 1.0)].into(), ..Default::default() };
    let block = block(&[one.clone(), SensorReading::default(), one]);
    let mut expected = Vec::new();
    for end in [1u64, 1, 2] {
        expected.extend_from_slice(&end.to_le_bytes());
    }
    expected.extend_from_slice(&[1, b'a', 1, b'a']);
    expected.extend_from_slice(&1f64.to_le_bytes());
    expected.extend_from_slice(&1f64.to_le_bytes());
    assert_eq!(column(&block, 7), expected);
}

/// A reading whose wire bytes hold these metrics in this order, repeated names included.
fn wire_with_metrics(metrics: &[(&str, f64)]) -> Vec<u8> {
    let one = |(name, value): &(&str, f64)| {
        SensorReading { metrics: [((*name).to_owned(), *value)].into(), ..Default::default() }.encode_to_vec()
    };
    metrics.iter().flat_map(one).collect()
}

fn metrics_of(wire: &[u8]) -> (u64, Vec<u8>, Vec<u8>) {
    let mut metrics = Metrics::default();
    metrics.push(&ReadingView::decode(wire).unwrap());
    (metrics.entries, metrics.names, metrics.values)
}

#[test]
fn of_a_repeated_name_the_last_value_counts() {
    let (entries, names, values) = metrics_of(&wire_with_metrics(&[("a", 1.0), ("b", 2.0), ("a", 3.0)]));
    assert_eq!((entries, &names[..]), (2, &[1, b'a', 1, b'b'][..]));
    assert_eq!(values, [3f64.to_le_bytes(), 2f64.to_le_bytes()].concat());
}

#[test]
fn many_repeated_names_are_one_entry_each() {
    let names: Vec<String> = (0..40).map(|i| format!("m{}", i % 20)).collect();
    let entries: Vec<(&str, f64)> =
        names.iter().zip(0..).map(|(name, i)| (name.as_str(), f64::from(i))).collect();
    let (count, _, values) = metrics_of(&wire_with_metrics(&entries));
    assert_eq!(count, 20);
    let sum: f64 = values.chunks(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).sum();
    assert_eq!(sum, f64::from((20..40).sum::<i32>()));
}

proptest! {
    #[test]
    fn the_size_is_known_without_encoding(
        metrics in proptest::collection::vec(proptest::collection::btree_map(".{0,12}", any::<f64>(), 0..20), 0..20),
    ) {
        let mut rows = Rows::default();
        let mut header = Vec::new();
        rows.encode(&mut header);
        for metrics in metrics {
            let bytes = SensorReading { metrics: metrics.into_iter().collect(), ..Default::default() }.encode_to_vec();
            let view = ReadingView::decode(&bytes).unwrap();
            let device = DeviceId::from_bytes([1; 16]);
            rows.push(&Row { device, reading: &view, received_at_ms: 0, kafka_partition: 0, kafka_offset: 0 });
        }
        let mut out = Vec::new();
        rows.encode(&mut out);
        prop_assert_eq!(out.len(), header.len() + rows.bytes());
        rows.clear();
        let mut again = Vec::new();
        rows.encode(&mut again);
        prop_assert_eq!(again, header);
    }
}
