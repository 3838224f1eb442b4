"""Read and write messages of protobuf, the format of ONNX files, without a package for it."""

import mmap
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
WIDTH = {FIXED64: 8, FIXED32: 4}

Content = mmap.mmap | bytes


def spans(data: Content, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, start, end) for each field of a message; the last two delimit its content.
    Raises ValueError if the bytes are not a message."""
    place = start
    while place < end:
        tag, place = read_varint(data, place, end)
        kind = tag & 7
        if kind == VARINT:
            size = read_varint(data, place, end)[1] - place
        elif kind == BYTES:
            size, place = read_varint(data, place, end)
        elif kind in WIDTH:
            size = WIDTH[kind]
        else:
            raise ValueError(f"it has a field of type {kind}")
        if size > end - place:
            raise ValueError("it is truncated")
        yield tag >> 3, kind, place, place + size
        place += size


def read_varint(data: Content, place: int, end: int) -> tuple[int, int]:
    """Decode a number in base 128, least significant digit first. Returns it and the index after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= end:
            raise ValueError("it is truncated")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("it has a number of more than 64 bits")


def encode_varint(value: int) -> bytes:
    """Encode a number of at least 0 in base 128."""
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*digits, value))


def encode_number(field: int, value: int) -> bytes:
    """Encode a field that is a number of at least 0."""
    return encode_varint(field << 3 | VARINT) + encode_varint(value)


def encode_content(field: int, *parts: bytes | str) -> bytes:
    """Encode a field that is a message, text or bytes, from its consecutive parts."""
    content = [part.encode(errors="surrogateescape") if isinstance(part, str) else part for part in parts]
    return b"".join((encode_varint(field << 3 | BYTES), encode_varint(sum(map(len, content))), *content))
