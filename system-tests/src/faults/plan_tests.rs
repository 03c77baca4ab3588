use super::*;
use crate::{alert_chaos, chaos};

fn options(seed: u64, faults: usize) -> PlanOptions {
    PlanOptions { seed, faults, round_of: 12, window_ms: 12_000, stop_ms_max: 60_000 }
}

fn faults<K: Kind>(seed: u64, count: usize) -> Vec<Fault<K>> {
    plan(&options(seed, count)).into_iter().flat_map(|round| round.faults).collect()
}

/// Every test is one of the plans of each suite.
macro_rules! of_each_suite {
    ($($test:ident)*) => {$(
        #[test]
        fn $test() {
            properties::$test::<chaos::kind::Kind>();
            properties::$test::<alert_chaos::kind::Kind>();
        }
    )*};
}

of_each_suite! {
    the_same_seed_gives_the_same_plan_and_another_gives_another
    a_plan_has_as_many_faults_as_asked_for_in_rounds_of_the_size_asked_for
    one_of_each_kind_comes_first
    the_group_keeps_its_size_and_faults_meet_only_members_that_run
    faults_of_a_round_overlap_unless_they_have_the_same_target
}

mod properties {
    use super::*;

    pub(super) fn the_same_seed_gives_the_same_plan_and_another_gives_another<K: Kind>() {
        assert_eq!(plan::<K>(&options(7, 100)), plan(&options(7, 100)));
        assert_ne!(plan::<K>(&options(7, 100)), plan(&options(8, 100)));
    }

    pub(super) fn a_plan_has_as_many_faults_as_asked_for_in_rounds_of_the_size_asked_for<K: Kind>() {
        let rounds = plan::<K>(&options(1, 100));
        let sizes: Vec<_> = rounds.iter().map(|round| round.faults.len()).collect();
        assert_eq!(sizes, [12, 12, 12, 12, 12, 12, 12, 12, 4]);
        assert!(faults::<K>(1, 100).iter().map(|fault| fault.number).eq(1..=100));
    }

    pub(super) fn one_of_each_kind_comes_first<K: Kind>() {
        let kinds = K::all();
        for seed in 0..200 {
            let planned: BTreeSet<K> = faults(seed, kinds.len()).iter().map(|fault| fault.kind).collect();
            assert_eq!(planned.len(), kinds.len(), "seed {seed}: {planned:?}");
        }
    }

    pub(super) fn the_group_keeps_its_size_and_faults_meet_only_members_that_run<K: Kind>() {
        for seed in 0..50 {
            let mut group: BTreeSet<usize> = (0..K::MEMBERS_AT_FIRST).collect();
            for fault in faults::<K>(seed, 200) {
                if fault.kind == K::JOIN {
                    assert!(group.insert(fault.member), "{fault}");
                } else if fault.kind == K::LEAVE {
                    assert!(group.remove(&fault.member), "{fault}");
                } else if fault.kind.is_of_a_member() {
                    assert!(group.contains(&fault.member), "{fault}");
                }
                assert!((K::MEMBERS_MIN..=K::MEMBERS_MAX).contains(&group.len()), "{fault}");
            }
        }
    }

    pub(super) fn faults_of_a_round_overlap_unless_they_have_the_same_target<K: Kind>() {
        let mut overlaps = 0;
        for round in plan::<K>(&options(3, 400)) {
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
}
