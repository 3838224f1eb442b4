"""The fields of a protobuf message: each a number, a kind and a value, one after the other."""

import mmap
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # kinds
WIDTH = {FIXED64: 8, FIXED32: 4}
Value = int | bytes


def spans(data: mmap.mmap | bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, kind, start, end) of each field's content. ValueError if there is no message."""
    place = start
    while place < end:
        tag, place = varint(data, place, end)
        kind = tag & 7
        if kind == VARINT:
            size = varint(data, place, end)[1] - place
        elif kind == BYTES:
            size, place = varint(data, place, end)
        elif kind in WIDTH:
            size = WIDTH[kind]
        else:
            raise ValueError(f"it has a field of type {kind}")
        if size > end - place:
            raise ValueError("it is cut off")
        yield tag >> 3, kind, place, place + size
        place += size


def fields(message: bytes) -> Iterator[tuple[int, int, Value]]:
    """(number, kind, value) of each field: numbers as int, all else as bytes. ValueError if it is no message."""
    for number, kind, start, end in spans(message, 0, len(message)):
        yield number, kind, varint(message, start, end)[0] if kind == VARINT else message[start:end]


def last_values(message: bytes) -> dict[int, Value]:
    """The last value of each field."""
    return {number: value for number, _, value in fields(message)}


def varint(data: mmap.mmap | bytes, place: int, end: int) -> tuple[int, int]:
    """A number in base 128, least significant first, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= end:
            raise ValueError("it is cut off")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("it has a number of more than 64 bits")
