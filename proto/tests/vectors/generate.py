#!/usr/bin/env python3
"""Writes the test vectors in this folder with Google's Python protobuf, an implementation that shares no code with ours.

    python3 -m venv venv && venv/bin/pip install grpcio-tools && venv/bin/python generate.py

Each vector is NAME.bin, and vectors.json says what every one of them means. The files are committed; run this only to
add a vector. Running it again writes the same bytes.
"""
import json
import math
import pathlib
import sys
import tempfile

from grpc_tools import protoc

HERE = pathlib.Path(__file__).resolve().parent
PROTO = HERE.parent.parent / "proto"
DEVICE = bytes.fromhex("0a1b2c3d000040008000" "0123456789ab")
NOW_MS = 1_790_000_000_000


def compile_protos(out):
    include = pathlib.Path(protoc.__file__).parent / "_proto"
    for root, files in ((PROTO, ["penstock/v1/readings.proto", "penstock/v1/alerts.proto"]), (HERE, ["old_fleet.proto"])):
        args = ["protoc", f"-I{root}", f"-I{include}", f"--python_out={out}", *files]
        if protoc.main(args) != 0:
            sys.exit(f"protoc failed for {files}")
    sys.path.insert(0, out)


def number(value):
    """JSON has no NaN and no infinities."""
    if value is None or math.isfinite(value):
        return value
    return str(value)


def reading_json(message):
    present = lambda name: number(getattr(message, name)) if message.HasField(name) else None
    return {
        "device_id": message.device_id.hex(),
        "timestamp": message.timestamp,
        "temperature": present("temperature"),
        "humidity": present("humidity"),
        "pressure": present("pressure"),
        "battery_level": present("battery_level"),
        "sequence": str(getattr(message, "sequence", 0)),
        "metrics": {k: number(v) for k, v in sorted(getattr(message, "metrics", {}).items())},
    }


def main():
    with tempfile.TemporaryDirectory() as out:
        compile_protos(out)
        import old_fleet_pb2 as old
        from google.protobuf import json_format
        from penstock.v1 import alerts_pb2 as alerts
        from penstock.v1 import readings_pb2 as v1

        readings = {
            "full": v1.SensorReading(
                device_id=DEVICE, timestamp=NOW_MS, temperature=21.5, humidity=40.25, pressure=1013.25,
                battery_level=87, sequence=42, metrics={"wind_speed_m_s": 4.63, "precipitation_mm": 0.0}),
            "empty": v1.SensorReading(),
            "zeroes_are_present": v1.SensorReading(
                timestamp=NOW_MS, temperature=0.0, humidity=0.0, pressure=0.0, battery_level=0),
            "negative": v1.SensorReading(device_id=DEVICE, timestamp=-1, temperature=-40.0, battery_level=-1),
            "extremes": v1.SensorReading(
                timestamp=2**63 - 1, sequence=2**64 - 1, battery_level=-(2**31), temperature=3.4028234663852886e38),
            "not_finite": v1.SensorReading(
                timestamp=NOW_MS, temperature=math.nan, humidity=math.inf, pressure=-math.inf, metrics={"x": math.inf}),
            "names_of_metrics": v1.SensorReading(timestamp=NOW_MS, metrics={"": 1.0, "größe": 2.5, "温度": -3.0}),
            "old_fleet": old.SensorReading(
                device_id=DEVICE, timestamp=NOW_MS, temperature=19.75, humidity=55.5, pressure=998.5, battery_level=12),
            "old_fleet_sparse": old.SensorReading(device_id=DEVICE, timestamp=NOW_MS, battery_level=100),
        }
        batch = v1.ReadingBatch(readings=[readings["full"], readings["zeroes_are_present"], readings["empty"]])
        alert = alerts.DeviceAlert(
            id="3c0f", rule="SUSTAINED_HIGH_TEMPERATURE", device_id="0a1b2c3d-0000-4000-8000-0123456789ab",
            severity=alerts.ALERT_SEVERITY_CRITICAL, state=alerts.ALERT_STATE_FIRING, onset=NOW_MS - 300_000, time=NOW_MS,
            window_start=NOW_MS - 300_000, window_end=NOW_MS, reading_count=5, value=81.5, threshold=80.0,
            text="5 readings over 80 °C in 5 minutes", source_partition=17, source_offset=2**40)

        manifest = {"readings": {}, "batch": {"file": "batch.bin", "readings": ["full", "zeroes_are_present", "empty"]},
                    "alert": {"file": "alert.bin", "json": json_format.MessageToDict(alert)}}
        for name, message in readings.items():
            (HERE / f"{name}.bin").write_bytes(message.SerializeToString(deterministic=True))
            manifest["readings"][name] = reading_json(message)
        (HERE / "batch.bin").write_bytes(batch.SerializeToString(deterministic=True))
        (HERE / "alert.bin").write_bytes(alert.SerializeToString(deterministic=True))
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        (HERE / "vectors.json").write_text(text + "\n", encoding="utf-8")


main()
