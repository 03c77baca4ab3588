CREATE TABLE {database}.kafka
(
    timestamp Int64,
    temperature Nullable(Float32),
    humidity Nullable(Float32),
    pressure Nullable(Float32),
    battery_level Nullable(Int32),
    sequence UInt64,
    metrics Map(String, Float64)
)
ENGINE = Kafka
SETTINGS kafka_broker_list = '{broker}', kafka_topic_list = '{topic}', kafka_group_name = '{database}', kafka_format = 'ProtobufSingle',
    format_schema_source = 'string', format_schema_message_name = 'SensorReading', format_schema = '
syntax = "proto3";
message SensorReading {
  bytes device_id = 1;
  int64 timestamp = 2;
  optional float temperature = 3;
  optional float humidity = 4;
  optional float pressure = 5;
  optional int32 battery_level = 6;
  uint64 sequence = 7;
  map<string, double> metrics = 8;
}', {settings}
