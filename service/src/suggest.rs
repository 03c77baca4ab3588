//! "Did you mean …?", for keys and names that are not known. Pure.

/// Nobody types longer keys, and the distance of long texts is dear.
const CHARS_MAX: usize = 128;

/// The candidate that was probably meant by `unknown`, if one is close enough.
///
/// The separators `.`, `_` and `-` count as the same. The right last part in the wrong section is close
/// enough.
pub fn closest<'c>(unknown: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    if unknown.chars().count() > CHARS_MAX {
        return None;
    }
    let wanted = squash(unknown);
    let rank = |candidate: &'c str| {
        let distance = strsim::osa_distance(&wanted, &squash(candidate));
        let allowed = 1 + candidate.len() / 5;
        if distance <= allowed {
            Some((distance, candidate))
        } else {
            (last_part(unknown) == last_part(candidate)).then_some((usize::MAX, candidate))
        }
    };
    candidates.filter_map(rank).min_by_key(|(distance, _)| *distance).map(|(_, candidate)| candidate)
}

fn squash(text: &str) -> String {
    text.to_ascii_lowercase().replace("__", "_").replace(['.', '-'], "_")
}

fn last_part(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, last)| last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 4] =
        ["gateway.listen", "gateway.limits.inflight_max", "gateway.limits.connections_max", "kafka.brokers"];

    #[test]
    fn small_mistakes_are_recognized() {
        let meant = |unknown| closest(unknown, KEYS.into_iter());
        assert_eq!(meant("gateway.listne"), Some("gateway.listen"));
        assert_eq!(meant("gateway.limits.in_flight_max"), Some("gateway.limits.inflight_max"));
        assert_eq!(meant("gateway.limits.inflight-max"), Some("gateway.limits.inflight_max"));
        assert_eq!(meant("gateway.inflight_max"), Some("gateway.limits.inflight_max"));
        assert_eq!(meant("kafka_brokers"), Some("kafka.brokers"));
        assert_eq!(meant("KAFKA.BROKER"), Some("kafka.brokers"));
        assert_eq!(meant("clickhouse.url"), None);
        assert_eq!(meant(&"x".repeat(1 << 20)), None);
    }
}
