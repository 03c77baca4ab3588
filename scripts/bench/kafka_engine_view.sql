-- The key is the device: 16 bytes, which lie in a UUID as two halves, each turned round.
CREATE MATERIALIZED VIEW {database}.from_kafka TO {database}.readings
AS SELECT
    reinterpretAsUUID(concat(reverse(substring(_key, 1, 8)), reverse(substring(_key, 9, 8)))) AS device_id,
    fromUnixTimestamp64Milli(timestamp, 'UTC') AS timestamp,
    sequence,
    temperature,
    humidity,
    pressure,
    CAST(battery_level, 'Nullable(UInt8)') AS battery_level,
    metrics,
    assumeNotNull(_timestamp_ms) AS received_at,
    CAST(_partition, 'UInt16') AS kafka_partition,
    _offset AS kafka_offset
FROM {database}.kafka
