-- Readings of a device by minute and by hour. Nothing fills these tables yet: that comes with exactly-once storage,
-- which computes the windows touched since the last refresh anew from readings_unique. An incremental materialized
-- view would count a reading that is sent or inserted twice two times, so there is none.
-- A window is always written whole; of several rows for a window the one computed last stays.
CREATE TABLE IF NOT EXISTS {database}.readings_1m {on_cluster}
(
    device_id UUID COMMENT 'The device' CODEC(ZSTD(1)),
    minute DateTime('UTC') COMMENT 'Start of the minute' CODEC(DoubleDelta, ZSTD(1)),
    readings UInt32 COMMENT 'Distinct readings in the minute' CODEC(ZSTD(1)),
    temperature_count UInt32 COMMENT 'Readings with a temperature' CODEC(ZSTD(1)),
    temperature_min Nullable(Float32) COMMENT 'Degrees Celsius' CODEC(Delta(4), ZSTD(1)),
    temperature_avg Nullable(Float32) COMMENT 'Degrees Celsius' CODEC(Delta(4), ZSTD(1)),
    temperature_max Nullable(Float32) COMMENT 'Degrees Celsius' CODEC(Delta(4), ZSTD(1)),
    humidity_count UInt32 COMMENT 'Readings with a humidity' CODEC(ZSTD(1)),
    humidity_min Nullable(Float32) COMMENT 'Relative humidity in %' CODEC(Delta(4), ZSTD(1)),
    humidity_avg Nullable(Float32) COMMENT 'Relative humidity in %' CODEC(Delta(4), ZSTD(1)),
    humidity_max Nullable(Float32) COMMENT 'Relative humidity in %' CODEC(Delta(4), ZSTD(1)),
    pressure_count UInt32 COMMENT 'Readings with a pressure' CODEC(ZSTD(1)),
    pressure_min Nullable(Float32) COMMENT 'Hectopascal' CODEC(Delta(4), ZSTD(1)),
    pressure_avg Nullable(Float32) COMMENT 'Hectopascal' CODEC(Delta(4), ZSTD(1)),
    pressure_max Nullable(Float32) COMMENT 'Hectopascal' CODEC(Delta(4), ZSTD(1)),
    battery_level_min Nullable(UInt8) COMMENT 'Charge in %' CODEC(ZSTD(1)),
    refreshed_at DateTime64(3, 'UTC') COMMENT 'When this row was computed: the last one stays' CODEC(DoubleDelta, ZSTD(1))
)
ENGINE = {engine_replacing:refreshed_at}
PARTITION BY toYYYYMM(minute)
ORDER BY (device_id, minute)
TTL minute + INTERVAL 5 YEAR
SETTINGS ttl_only_drop_parts = 1
COMMENT 'Readings of a device by minute';

CREATE TABLE IF NOT EXISTS {database}.readings_1h {on_cluster}
(
    device_id UUID COMMENT 'The device' CODEC(ZSTD(1)),
    hour DateTime('UTC') COMMENT 'Start of the hour' CODEC(DoubleDelta, ZSTD(1)),
    readings UInt32 COMMENT 'Distinct readings in the hour' CODEC(ZSTD(1)),
    temperature_count UInt32 COMMENT 'Readings with a temperature' CODEC(ZSTD(1)),
    temperature_min Nullable(Float32) COMMENT 'Degrees Celsius' CODEC(Delta(4), ZSTD(1)),
    temperature_avg Nullable(Float32) COMMENT 'Degrees Celsius' CODEC(Delta(4), ZSTD(1)),
    temperature_max Nullable(Float32) COMMENT 'Degrees Celsius' CODEC(Delta(4), ZSTD(1)),
    humidity_count UInt32 COMMENT 'Readings with a humidity' CODEC(ZSTD(1)),
    humidity_min Nullable(Float32) COMMENT 'Relative humidity in %' CODEC(Delta(4), ZSTD(1)),
    humidity_avg Nullable(Float32) COMMENT 'Relative humidity in %' CODEC(Delta(4), ZSTD(1)),
    humidity_max Nullable(Float32) COMMENT 'Relative humidity in %' CODEC(Delta(4), ZSTD(1)),
    pressure_count UInt32 COMMENT 'Readings with a pressure' CODEC(ZSTD(1)),
    pressure_min Nullable(Float32) COMMENT 'Hectopascal' CODEC(Delta(4), ZSTD(1)),
    pressure_avg Nullable(Float32) COMMENT 'Hectopascal' CODEC(Delta(4), ZSTD(1)),
    pressure_max Nullable(Float32) COMMENT 'Hectopascal' CODEC(Delta(4), ZSTD(1)),
    battery_level_min Nullable(UInt8) COMMENT 'Charge in %' CODEC(ZSTD(1)),
    refreshed_at DateTime64(3, 'UTC') COMMENT 'When this row was computed: the last one stays' CODEC(DoubleDelta, ZSTD(1))
)
ENGINE = {engine_replacing:refreshed_at}
PARTITION BY toYear(hour)
ORDER BY (device_id, hour)
TTL hour + INTERVAL 20 YEAR
SETTINGS ttl_only_drop_parts = 1
COMMENT 'Readings of a device by hour';
