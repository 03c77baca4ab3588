-- The rollups are computed from `readings FINAL` by the writers: storage-writer/src/rollups.rs says how. A refresh takes
-- every window (device, minute) that rows of newer Kafka offsets touch and writes it whole, with a version of its own
-- in refreshed_at; of several rows of a window the one with the greatest version stays.
--
-- Sums make hours exact: an hour is the sum of its minutes, and an average is sum / count.
ALTER TABLE {database}.readings_1m {on_cluster}
    ADD COLUMN IF NOT EXISTS temperature_sum Float64 COMMENT 'Degrees Celsius' CODEC(ZSTD(1)) AFTER temperature_count,
    ADD COLUMN IF NOT EXISTS humidity_sum Float64 COMMENT 'Relative humidity in %' CODEC(ZSTD(1)) AFTER humidity_count,
    ADD COLUMN IF NOT EXISTS pressure_sum Float64 COMMENT 'Hectopascal' CODEC(ZSTD(1)) AFTER pressure_count,
    -- Hours are computed from the minutes of the refresh that is going on: they lie in the newest parts.
    ADD INDEX IF NOT EXISTS refreshed_at_range refreshed_at TYPE minmax GRANULARITY 1;

ALTER TABLE {database}.readings_1h {on_cluster}
    ADD COLUMN IF NOT EXISTS temperature_sum Float64 COMMENT 'Degrees Celsius' CODEC(ZSTD(1)) AFTER temperature_count,
    ADD COLUMN IF NOT EXISTS humidity_sum Float64 COMMENT 'Relative humidity in %' CODEC(ZSTD(1)) AFTER humidity_count,
    ADD COLUMN IF NOT EXISTS pressure_sum Float64 COMMENT 'Hectopascal' CODEC(ZSTD(1)) AFTER pressure_count;

-- How far the rollups are. One row a Kafka partition counts: the one with the greatest version.
CREATE TABLE IF NOT EXISTS {database}.rollup_progress {on_cluster}
(
    kafka_partition UInt16 COMMENT 'Partition of the readings topic',
    next_offset UInt64 COMMENT 'Rows of all Kafka offsets below it are in the rollups',
    refreshed_at DateTime64(3, 'UTC') COMMENT 'The greatest version that was given to a refresh of the partition: the time, or one millisecond more than the last'
)
ENGINE = {engine_replacing:refreshed_at}
ORDER BY kafka_partition
COMMENT 'How far the rollups are, by Kafka partition; to have them computed anew, insert next_offset 0 with a refreshed_at of now64(3)';

-- For people: one row a device and minute.
CREATE VIEW IF NOT EXISTS {database}.by_minute {on_cluster}
AS SELECT
    device_id,
    minute,
    readings,
    temperature_count,
    temperature_min,
    if(temperature_count = 0, NULL, temperature_sum / temperature_count) AS temperature_avg,
    temperature_max,
    humidity_count,
    humidity_min,
    if(humidity_count = 0, NULL, humidity_sum / humidity_count) AS humidity_avg,
    humidity_max,
    pressure_count,
    pressure_min,
    if(pressure_count = 0, NULL, pressure_sum / pressure_count) AS pressure_avg,
    pressure_max,
    battery_level_min
FROM {database}.readings_1m FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- For people: one row a device and hour.
CREATE VIEW IF NOT EXISTS {database}.by_hour {on_cluster}
AS SELECT
    device_id,
    hour,
    readings,
    temperature_count,
    temperature_min,
    if(temperature_count = 0, NULL, temperature_sum / temperature_count) AS temperature_avg,
    temperature_max,
    humidity_count,
    humidity_min,
    if(humidity_count = 0, NULL, humidity_sum / humidity_count) AS humidity_avg,
    humidity_max,
    pressure_count,
    pressure_min,
    if(pressure_count = 0, NULL, pressure_sum / pressure_count) AS pressure_avg,
    pressure_max,
    battery_level_min
FROM {database}.readings_1h FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;
