//! What follows from the readings must agree with them: rollups and the latest reading of each device. Each query gives a
//! line for each difference.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use clickhouse::Client;

/// Differences that are asked for.
const SHOWN_MAX: usize = 20;
/// Rollups are computed now and then: they agree within this time.
const ROLLUPS: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(500);
const MEASURES: [&str; 3] = ["temperature", "humidity", "pressure"];

/// A rollup: table, column of its window, and the window of a timestamp.
const TABLES: [(&str, &str, &str); 2] = [
    ("readings_1m", "minute", "toStartOfMinute(timestamp)"),
    ("readings_1h", "hour", "toStartOfHour(timestamp)"),
];

/// Windows that are not what distinct readings make them: counts, least and greatest values must be equal, averages
/// nearly, because they are stored in single precision.
fn rollup_query(table: &str, window: &str, window_of: &str) -> String {
    let mut stored = "toUInt64(readings)".to_owned();
    let mut computed = "toUInt64(count())".to_owned();
    let (mut averages, mut recomputed, mut near) = (String::new(), String::new(), String::new());
    for measure in MEASURES {
        let _ = write!(stored, ", toUInt64({measure}_count), {measure}_min, {measure}_max");
        let _ = write!(computed, ", toUInt64(count({measure})), min({measure}), max({measure})");
        let _ = write!(averages, ", toFloat64(ifNull({measure}_avg, 0)) AS {measure}_stored");
        let _ = write!(recomputed, ", ifNull(avg(toFloat64({measure})), 0) AS {measure}_computed");
        let _ = write!(
            near,
            " OR abs({measure}_stored - {measure}_computed) > 0.0001 * greatest(1, abs({measure}_computed))"
        );
    }
    format!(
        "SELECT concat('{table} ', toString(device), ' ', toString(start), ': stored (', exact_stored, '), from readings (', \
         exact_computed, ')') FROM (\
         SELECT device_id AS device, {window} AS start, toString(({stored}, battery_level_min)) AS exact_stored{averages} \
         FROM {table} FINAL) AS l FULL OUTER JOIN (\
         SELECT device_id AS device, {window_of} AS start, toString(({computed}, min(battery_level))) AS exact_computed\
         {recomputed} FROM readings_unique GROUP BY device, start) AS r USING (device, start) \
         WHERE exact_stored != exact_computed{near} ORDER BY 1 LIMIT {SHOWN_MAX}"
    )
}

const LATEST: &str = "SELECT concat('latest of ', toString(device), ': ', in_latest, ', from readings ', in_readings) FROM (\
    SELECT device_id AS device, \
    toString((timestamp, sequence, temperature, humidity, pressure, battery_level)) AS in_latest FROM latest) AS l \
    FULL OUTER JOIN (SELECT device_id AS device, toString(argMax((timestamp, sequence, temperature, humidity, pressure, \
    battery_level), (timestamp, sequence))) AS in_readings FROM readings GROUP BY device) AS r USING device \
    WHERE in_latest != in_readings ORDER BY 1 LIMIT 20";

async fn ask(client: &Client, query: &str) -> Vec<String> {
    client.query(query).fetch_all::<String>().await.unwrap()
}

/// Devices whose latest reading in `latest` is not the latest in `readings`.
///
/// # Panics
/// Where ClickHouse does not answer.
pub async fn latest(client: &Client) -> Vec<String> {
    ask(client, LATEST).await
}

/// Windows of the rollups that are not what distinct readings make them, now.
///
/// # Panics
/// Where ClickHouse does not answer.
pub async fn rollups_now(client: &Client) -> Vec<String> {
    let mut differences = Vec::new();
    for (table, window, window_of) in TABLES {
        differences.extend(ask(client, &rollup_query(table, window, window_of)).await);
    }
    differences
}

/// The same, when they have had the time to be right.
///
/// # Panics
/// Where ClickHouse does not answer.
pub async fn rollups(client: &Client) -> Vec<String> {
    let began = Instant::now();
    loop {
        let differences = rollups_now(client).await;
        if differences.is_empty() || began.elapsed() >= ROLLUPS {
            return differences;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
