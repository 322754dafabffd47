"""TensorBoard's event files, as bytes: what a SummaryWriter writes, without one.

A file is records of TFRecord: length, masked CRC-32C of the length, data, masked CRC-32C of the data. The data is a
protobuf message `Event` (tensorboard/compat/proto/event.proto): wall_time = 1, step = 2, file_version = 3, summary = 5
with one value = 1 of tag = 1 and simple_value = 2.
"""

import struct

TAG = "loss"
NAME = "events.out.tfevents.1700000000.host.1.0"


def head() -> bytes:
    """Return the first record of a file."""
    return _record(_double(1, 1.7e9) + _bytes(3, b"brain.Event:2"))


def scalars(first: int, end: int) -> bytes:
    """Return the records of the steps `first` to `end`, excluded: each step's value is a hundredth of it."""
    return b"".join(_scalar(step) for step in range(first, end))


def _scalar(step: int) -> bytes:
    value = _bytes(1, TAG.encode()) + _key(2, 5) + struct.pack("<f", step / 100)
    return _record(_double(1, 1.7e9 + step) + _key(2, 0) + _varint(step) + _bytes(5, _bytes(1, value)))


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked(length)) + data + struct.pack("<I", _masked(data))


def _masked(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _entry(number: int) -> int:
    for _ in range(8):
        number = (number >> 1) ^ (0x82F63B78 if number & 1 else 0)
    return number


_TABLE = [_entry(number) for number in range(256)]


def _key(field: int, kind: int) -> bytes:
    return bytes([field << 3 | kind])


def _double(field: int, value: float) -> bytes:
    return _key(field, 1) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
