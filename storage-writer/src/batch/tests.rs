use proptest::prelude::*;
use prost::Message;

use penstock_proto::v1::SensorReading;
use penstock_proto::{DeviceId, ReadingView, Reason};

use super::*;
use crate::offsets::Offsets;

const LIMITS: Limits =
    Limits { rows_max: 10, rows_grown_max: 50, bytes_max: 1 << 20, age_max: Duration::from_millis(100) };

struct Fixture {
    batch: Batch,
    epoch: Epoch,
    payload: Vec<u8>,
    start: Instant,
}

impl Fixture {
    fn new(limits: Limits) -> Self {
        let mut offsets = Offsets::default();
        let epoch = offsets.assign(0);
        let payload = SensorReading { timestamp: 1, ..Default::default() }.encode_to_vec();
        Self { batch: Batch::new(limits), epoch, payload, start: Instant::now() }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn push(&mut self, partition: u16, offset: u64, ms: u64) {
        let now = self.at(ms);
        let reading = ReadingView::decode(&self.payload).unwrap();
        let row = Row {
            device: DeviceId::from_bytes([1; 16]),
            reading: &reading,
            received_at_ms: 0,
            kafka_partition: partition,
            kafka_offset: offset,
        };
        self.batch.push(&row, self.epoch, now);
    }

    fn refuse(&mut self, partition: i32, offset: i64, bytes: usize) {
        let refused = Refused {
            key: None,
            payload: vec![0; bytes].into(),
            invalid: Invalid::new(Reason::Undecodable, "x"),
            partition,
            offset,
        };
        let now = self.start;
        self.batch.refuse(refused, self.epoch, now);
    }
}

#[test]
fn an_idle_writer_cuts_at_rows_max_and_a_busy_one_lets_the_batch_grow() {
    let mut f = Fixture::new(LIMITS);
    for offset in 0..10 {
        assert!(!f.batch.is_due(f.at(0), 0));
        f.push(0, offset, 0);
    }
    assert!(f.batch.is_due(f.at(0), 0));
    assert!(!f.batch.is_due(f.at(0), 1));
    for offset in 10..50 {
        assert!(!f.batch.is_full());
        f.push(0, offset, 0);
    }
    assert!(f.batch.is_full());
    assert!(f.batch.is_due(f.at(0), 1));
}

#[test]
fn age_counts_from_the_oldest_record_and_starts_again_after_a_cut() {
    let mut f = Fixture::new(LIMITS);
    assert_eq!(f.batch.age_left(f.at(0)), None);
    f.push(0, 0, 5);
    f.push(0, 1, 90);
    assert_eq!(f.batch.age_left(f.at(45)), Some(Duration::from_millis(60)));
    assert!(!f.batch.is_due(f.at(104), 1));
    assert!(f.batch.is_due(f.at(105), 1));
    f.batch.cut();
    assert!(f.batch.is_empty());
    assert_eq!(f.batch.age_left(f.at(200)), None);
    f.push(0, 2, 300);
    assert!(!f.batch.is_due(f.at(399), 0));
    assert!(f.batch.is_due(f.at(400), 0));
}

#[test]
fn refused_records_count_as_bytes_and_records_and_cover_their_offsets() {
    let mut f = Fixture::new(Limits { bytes_max: 4_000, ..LIMITS });
    f.refuse(7, 70, 3_000);
    assert!(!f.batch.is_full());
    f.refuse(7, 71, 1_000);
    assert!(f.batch.is_full());
    let cut = f.batch.cut();
    assert_eq!((cut.rows, cut.body.len(), cut.refused.len()), (0, 0, 2));
    assert_eq!((cut.ranges[0].partition, cut.ranges[0].first, cut.ranges[0].next), (7, 70, 72));
    assert_eq!(f.batch.bytes(), 0);
}

proptest! {
    /// Every record is in exactly one cut, and a cut covers exactly the offsets of its records.
    #[test]
    fn nothing_is_lost_or_doubled_between_cuts(
        steps in proptest::collection::vec((0..5u16, 0..60u64, 0..4usize, any::<bool>()), 1..300),
    ) {
        let mut f = Fixture::new(LIMITS);
        let mut next = [0u64; 5];
        let mut open = [0usize; 5];
        let (mut ms, mut records) = (0, 0);
        for (partition, pause, in_flight, refuse) in steps {
            ms += pause / 20;
            let at = usize::from(partition);
            if refuse && records % 7 == 0 {
                f.refuse(i32::from(partition), next[at].cast_signed(), 10);
            } else {
                f.push(partition, next[at], ms);
            }
            next[at] += 1;
            open[at] += 1;
            records += 1;
            prop_assert_eq!(f.batch.len(), open.iter().sum::<usize>());
            prop_assert!(f.batch.len() <= LIMITS.rows_grown_max);
            if !f.batch.is_due(f.at(ms), in_flight) {
                continue;
            }
            let cut = f.batch.cut();
            prop_assert_eq!(cut.rows + cut.refused.len(), open.iter().sum::<usize>());
            for range in &cut.ranges {
                let at = usize::try_from(range.partition).unwrap();
                prop_assert_eq!(range.next, next[at].cast_signed());
                prop_assert_eq!(range.next - range.first, i64::try_from(open[at]).unwrap());
                open[at] = 0;
            }
            prop_assert_eq!(open, [0; 5]);
        }
    }
}

#[test]
fn limits_stretch_within_their_bounds() {
    let stretched = LIMITS.stretched(3.0);
    assert_eq!((stretched.rows_max, stretched.age_max), (30, Duration::from_millis(300)));
    assert_eq!(LIMITS.stretched(100.0).rows_max, LIMITS.rows_grown_max);
    assert_eq!(LIMITS.stretched(0.5), LIMITS);
}
