-- The latest reading of each device. The version is (timestamp, sequence), so that late readings and readings that
-- are sent or inserted again change nothing, in whatever order they arrive.
CREATE TABLE IF NOT EXISTS {database}.readings_latest {on_cluster}
(
    device_id UUID COMMENT 'The device',
    timestamp DateTime64(3, 'UTC') COMMENT 'When the device measured, by its own clock',
    sequence UInt64 COMMENT 'The device''s own count',
    temperature Nullable(Float32) COMMENT 'Degrees Celsius',
    humidity Nullable(Float32) COMMENT 'Relative humidity in %',
    pressure Nullable(Float32) COMMENT 'Hectopascal',
    battery_level Nullable(UInt8) COMMENT 'Charge in %',
    metrics Map(String, Float64) COMMENT 'Further measurements by name',
    received_at DateTime64(3, 'UTC') COMMENT 'When the gateway received it',
    version UInt128 MATERIALIZED bitOr(bitShiftLeft(toUInt128(toUnixTimestamp64Milli(timestamp)), 64), toUInt128(sequence))
        COMMENT 'timestamp in milliseconds, then sequence: the greatest stays'
)
ENGINE = {engine_replacing:version}
ORDER BY device_id
TTL timestamp + INTERVAL 5 YEAR
COMMENT 'Feeds the view latest; holds some older readings of a device until they are merged away';

-- Of each inserted block only the latest reading of a device goes on. Measured on blocks of 80,000 readings of 1,000
-- devices, CPU of an insert: 41 ms without this view, 51 ms with it, 69 ms if it passed every row on, 91 ms by argMax.
CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.readings_latest_feed {on_cluster}
TO {database}.readings_latest
AS SELECT device_id, timestamp, sequence, temperature, humidity, pressure, battery_level, metrics, received_at
FROM {database}.readings
ORDER BY device_id, timestamp DESC, sequence DESC
LIMIT 1 BY device_id;

-- For people: one row a device.
CREATE VIEW IF NOT EXISTS {database}.latest {on_cluster}
AS SELECT *
FROM {database}.readings_latest FINAL;
