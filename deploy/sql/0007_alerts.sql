-- What the alert stage says, for people to ask about: penstock.v1.DeviceAlert, one row a record of the alert topics.
-- The writer stores a record once or more: what makes two rows the same alert is the sorting key, and everything in it
-- is derived from rule, device and readings. Query the views, which show each once whatever has been merged so far.
--
-- The rows are few and cannot be computed again once Kafka has deleted the records: each insert waits for the disk.
CREATE TABLE IF NOT EXISTS {database}.alerts_stored {on_cluster}
(
    id UUID COMMENT 'The same for all rows of an episode' CODEC(ZSTD(1)),
    rule LowCardinality(String) COMMENT 'Name of the rule' CODEC(ZSTD(1)),
    device_id UUID COMMENT 'The device' CODEC(ZSTD(1)),
    severity Enum8('unspecified' = 0, 'info' = 1, 'warning' = 2, 'critical' = 3) COMMENT 'How bad it is' CODEC(ZSTD(1)),
    state Enum8('firing' = 1, 'resolved' = 2) COMMENT 'What this row says of the episode' CODEC(ZSTD(1)),
    repeat UInt32 COMMENT '0 in the first row of an episode, then 1, 2 and so on in its repetitions' CODEC(ZSTD(1)),
    reason LowCardinality(String) COMMENT 'Why, where it is not the readings alone: flapping, rule-removed, rule-changed' CODEC(ZSTD(1)),
    onset DateTime64(3, 'UTC') COMMENT 'When the episode began, by the device''s clock' CODEC(Delta(8), ZSTD(1)),
    time DateTime64(3, 'UTC') COMMENT 'Timestamp of the reading that caused this row' CODEC(Delta(8), ZSTD(1)),
    raised_at DateTime64(3, 'UTC') COMMENT 'When it was raised: the timestamp of the alert''s Kafka record' CODEC(Delta(8), ZSTD(1)),
    window_start DateTime64(3, 'UTC') COMMENT 'Start of the window the rule looked at' CODEC(Delta(8), ZSTD(1)),
    window_end DateTime64(3, 'UTC') COMMENT 'End of the window the rule looked at' CODEC(Delta(8), ZSTD(1)),
    reading_count UInt32 COMMENT 'Readings in the window that met the condition' CODEC(ZSTD(1)),
    value Float64 COMMENT 'Measured value, in the unit of the metric; may be NaN or infinite' CODEC(ZSTD(1)),
    threshold Float64 COMMENT 'Threshold of the rule, in the unit of the metric' CODEC(ZSTD(1)),
    text String COMMENT 'For people' CODEC(ZSTD(3)),
    source_partition Int32 COMMENT 'Partition of the reading that caused it' CODEC(ZSTD(1)),
    source_offset Int64 COMMENT 'Offset of the reading that caused it' CODEC(ZSTD(1)),
    kafka_topic LowCardinality(String) COMMENT 'Topic of the alert''s own Kafka record' CODEC(ZSTD(1)),
    kafka_partition UInt16 COMMENT 'Partition of the alert''s own Kafka record' CODEC(ZSTD(1)),
    kafka_offset UInt64 COMMENT 'Offset of the alert''s own Kafka record' CODEC(ZSTD(1)),
    INDEX raised_at_range raised_at TYPE minmax GRANULARITY 1
)
ENGINE = {engine_replacing:raised_at}
PARTITION BY toYYYYMM(onset)
ORDER BY (device_id, onset, rule, id, state, repeat)
TTL onset + INTERVAL 5 YEAR
SETTINGS ttl_only_drop_parts = 1, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Feeds the views alerts and alert_episodes; a row may be there twice until it is merged';

-- Migration 4 made `alerts` a table, which no build has ever filled and whose key knows no repetitions. Rows that
-- somebody else has put there are not thrown away: then this migration does not go on.
SELECT throwIf(
    sum(total_rows) > 0,
    'the table {database}.alerts holds rows that Penstock has not written; rename it, then migrate again'
)
FROM system.tables
WHERE database = '{database}' AND name = 'alerts' AND engine LIKE '%MergeTree';

-- Each alert once. Conditions on device_id and onset reach the key: this costs no more than the table.
CREATE OR REPLACE VIEW {database}.alerts {on_cluster}
AS SELECT *
FROM {database}.alerts_stored FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- One row an episode. It is grouped by the columns of the key as they are, so that conditions on them reach the table's.
CREATE OR REPLACE VIEW {database}.alert_episodes {on_cluster}
AS SELECT
    device_id,
    onset,
    rule,
    id,
    argMin(said.severity, said.raised_at) AS severity,
    max(said.state) AS state,
    minOrNullIf(said.time, said.state = 'firing') AS fired,
    maxOrNullIf(said.time, said.state = 'resolved') AS resolved,
    dateDiff('millisecond', onset, resolved) / 1000 AS duration_s,
    argMaxOrNullIf(said.value, if(isFinite(said.value), abs(said.value - said.threshold), -1), said.state = 'firing') AS peak_value,
    argMin(said.threshold, said.raised_at) AS threshold,
    max(said.repeat) AS repeats,
    min(said.raised_at) AS raised_at,
    argMaxIf(said.reason, said.raised_at, said.state = 'resolved') AS resolved_reason,
    argMin(said.text, (said.state, said.repeat)) AS text
FROM {database}.alerts_stored AS said FINAL
GROUP BY device_id, onset, rule, id
SETTINGS do_not_merge_across_partitions_select_final = 1;
