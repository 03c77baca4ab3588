use super::*;

fn options(seed: u64, faults: usize) -> PlanOptions {
    PlanOptions { seed, faults, round_of: 10, window_ms: 12_000, stop_ms_max: 20_000 }
}

fn faults(seed: u64, count: usize) -> Vec<Fault> {
    plan(&options(seed, count)).into_iter().flat_map(|round| round.faults).collect()
}

#[test]
fn the_same_seed_gives_the_same_plan_and_another_gives_another() {
    assert_eq!(plan(&options(7, 100)), plan(&options(7, 100)));
    assert_ne!(plan(&options(7, 100)), plan(&options(8, 100)));
    assert!(faults(1, 95).iter().map(|fault| fault.number).eq(1..=95));
}

#[test]
fn one_of_each_kind_comes_first() {
    for seed in 0..200 {
        let planned: BTreeSet<Kind> = faults(seed, Kind::ALL.len()).iter().map(|fault| fault.kind).collect();
        assert_eq!(planned.len(), Kind::ALL.len(), "seed {seed}: {planned:?}");
    }
}

#[test]
fn the_group_has_two_or_three_alerters_and_faults_meet_only_those_that_run() {
    for seed in 0..50 {
        let mut group: BTreeSet<usize> = (0..ALERTERS_MIN).collect();
        for fault in faults(seed, 200) {
            match fault.kind {
                Kind::Join => assert!(group.insert(fault.alerter), "{fault}"),
                Kind::Leave => assert!(group.remove(&fault.alerter), "{fault}"),
                kind if kind.is_of_an_alerter() => assert!(group.contains(&fault.alerter), "{fault}"),
                _ => {}
            }
            assert!((ALERTERS_MIN..=ALERTERS_MAX).contains(&group.len()), "{fault}");
        }
    }
}

#[test]
fn faults_of_a_round_overlap_unless_they_have_the_same_target() {
    let mut overlaps = 0;
    for round in plan(&options(3, 400)) {
        for (index, fault) in round.faults.iter().enumerate() {
            let end = fault.start_ms + fault.hold_ms;
            for later in &round.faults[index + 1..] {
                assert!(later.start_ms >= fault.start_ms);
                if later.target() == fault.target() {
                    assert!(later.start_ms >= end + RECOVERY_MS, "{fault}, {later}");
                } else {
                    overlaps += usize::from(later.start_ms < end);
                }
            }
        }
    }
    assert!(overlaps > 400, "{overlaps}");
}

#[test]
fn half_of_the_stops_outlast_the_session_and_no_stop_of_kafka_outlasts_what_the_oracle_allows() {
    let all = faults(1, 10_000);
    let stops: Vec<_> = all.iter().filter(|fault| fault.kind == Kind::StopAlerter).collect();
    let past = stops.iter().filter(|stop| stop.hold_ms >= PAST_SESSION_MS).count();
    assert!((40..60).contains(&(past * 100 / stops.len())), "{past} of {}", stops.len());
    assert!(stops.iter().all(|stop| (1_000..20_000).contains(&stop.hold_ms)));
    let kafka = all.iter().filter(|fault| fault.kind == Kind::StopKafka);
    assert!(kafka.map(|fault| fault.hold_ms).max() < Some(KAFKA_STOP_MS_MAX));
    let alerters = all.iter().filter(|fault| matches!(fault.target(), Target::Alerter(_))).count();
    assert!(alerters * 100 / all.len() >= 40, "{alerters}");
}
