use super::*;

fn options(seed: u64, faults: usize) -> PlanOptions {
    PlanOptions { seed, faults, round_of: 12, window_ms: 12_000, stop_ms_max: 60_000 }
}

fn faults(seed: u64, count: usize) -> Vec<Fault> {
    plan(&options(seed, count)).into_iter().flat_map(|round| round.faults).collect()
}

#[test]
fn the_same_seed_gives_the_same_plan_and_another_gives_another() {
    assert_eq!(plan(&options(7, 100)), plan(&options(7, 100)));
    assert_ne!(plan(&options(7, 100)), plan(&options(8, 100)));
}

#[test]
fn a_plan_has_as_many_faults_as_asked_for_in_rounds_of_the_size_asked_for() {
    let rounds = plan(&options(1, 100));
    let sizes: Vec<_> = rounds.iter().map(|round| round.faults.len()).collect();
    assert_eq!(sizes, [12, 12, 12, 12, 12, 12, 12, 12, 4]);
    assert!(faults(1, 100).iter().map(|fault| fault.number).eq(1..=100));
}

#[test]
fn one_of_each_kind_comes_first() {
    let kinds = Kind::all();
    for seed in 0..200 {
        let planned: BTreeSet<Kind> = faults(seed, kinds.len()).iter().map(|fault| fault.kind).collect();
        assert_eq!(planned.len(), kinds.len(), "seed {seed}");
    }
}

#[test]
fn the_group_has_two_to_four_writers_and_faults_meet_only_those_that_run() {
    for seed in 0..50 {
        let mut group: BTreeSet<usize> = (0..WRITERS_AT_FIRST).collect();
        for round in plan(&options(seed, 200)) {
            for fault in round.faults {
                match fault.kind {
                    Kind::Join => assert!(group.insert(fault.writer), "{fault}"),
                    Kind::Leave => assert!(group.remove(&fault.writer), "{fault}"),
                    Kind::Kill(Role::Writer) | Kind::Stop(Role::Writer) | Kind::Restart(Role::Writer) => {
                        assert!(group.contains(&fault.writer), "{fault}");
                    }
                    kind if kind.is_of_a_writer() => assert!(group.contains(&fault.writer), "{fault}"),
                    _ => {}
                }
                assert!((WRITERS_MIN..=WRITERS_MAX).contains(&group.len()), "{fault}");
            }
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
fn stops_are_mostly_short_and_those_of_writers_often_outlast_their_session() {
    let stops: Vec<_> =
        faults(1, 20_000).into_iter().filter(|fault| matches!(fault.kind, Kind::Stop(_))).collect();
    let share = |few: usize, all: usize| few * 100 / all;
    assert!(stops.iter().all(|stop| (1_000..=60_000).contains(&stop.hold_ms)));
    let long = stops.iter().filter(|stop| stop.hold_ms > USUAL_MS).count();
    assert!((3..12).contains(&share(long, stops.len())), "{long} of {}", stops.len());
    let writers: Vec<_> = stops.iter().filter(|stop| stop.kind == Kind::Stop(Role::Writer)).collect();
    let past = writers.iter().filter(|stop| stop.hold_ms >= PAST_SESSION_MS).count();
    assert!(share(past, writers.len()) >= 50, "{past} of {}", writers.len());
    let short = PlanOptions { stop_ms_max: 9_000, ..options(1, 500) };
    let longest = plan(&short)
        .iter()
        .flat_map(|round| &round.faults)
        .filter(|fault| matches!(fault.kind, Kind::Stop(_)) && fault.hold_ms > 9_000)
        .count();
    assert_eq!(longest, 0);
}
