-- What the alerter raised: penstock.v1.DeviceAlert, one row a change of state. An alert's id is derived from rule,
-- device and onset, so that an alert stored twice is one row. Nothing fills this table yet: that comes with alerting.
CREATE TABLE IF NOT EXISTS {database}.alerts {on_cluster}
(
    id String COMMENT 'The same for the firing and the resolved row of an episode' CODEC(ZSTD(1)),
    rule LowCardinality(String) COMMENT 'Name of the rule' CODEC(ZSTD(1)),
    device_id UUID COMMENT 'The device' CODEC(ZSTD(1)),
    severity Enum8('unspecified' = 0, 'info' = 1, 'warning' = 2, 'critical' = 3) COMMENT 'How bad it is' CODEC(ZSTD(1)),
    state Enum8('unspecified' = 0, 'firing' = 1, 'resolved' = 2) COMMENT 'What this row says of the episode' CODEC(ZSTD(1)),
    onset DateTime64(3, 'UTC') COMMENT 'When the episode began, by the device''s clock' CODEC(Delta(8), ZSTD(1)),
    time DateTime64(3, 'UTC') COMMENT 'Timestamp of the reading that caused this row' CODEC(Delta(8), ZSTD(1)),
    window_start DateTime64(3, 'UTC') COMMENT 'Start of the window the rule looked at' CODEC(Delta(8), ZSTD(1)),
    window_end DateTime64(3, 'UTC') COMMENT 'End of the window the rule looked at' CODEC(Delta(8), ZSTD(1)),
    reading_count UInt32 COMMENT 'Readings in the window that met the condition' CODEC(ZSTD(1)),
    value Float64 COMMENT 'Measured value, in the unit of the metric' CODEC(ZSTD(1)),
    threshold Float64 COMMENT 'Threshold of the rule, in the unit of the metric' CODEC(ZSTD(1)),
    text String COMMENT 'For people' CODEC(ZSTD(3)),
    source_partition UInt16 COMMENT 'Partition of the Kafka record that caused it' CODEC(ZSTD(1)),
    source_offset UInt64 COMMENT 'Offset of the Kafka record that caused it' CODEC(ZSTD(1))
)
ENGINE = {engine_replacing:source_offset}
PARTITION BY toYYYYMM(onset)
ORDER BY (device_id, onset, rule, id, state)
TTL onset + INTERVAL 5 YEAR
SETTINGS ttl_only_drop_parts = 1
COMMENT 'One row each time an alert starts firing or is resolved';
