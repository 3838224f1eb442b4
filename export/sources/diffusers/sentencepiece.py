"""A SentencePiece model, `spiece.model`, read from its bytes: pieces with their scores, and how text is normalised.

The file is a protobuf message (sentencepiece_model.proto): pieces in field 1, trainer_spec in 2, normalizer_spec in 3.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
PIECE, TRAINER, NORMALIZER = 1, 2, 3  # fields of the model
TEXT, SCORE = 1, 2  # of a piece
MODEL_TYPE, UNKNOWN_ID = 3, 40  # of the trainer
CHARACTERS = 2  # of the normaliser: its table, compiled
UNIGRAM = 1  # a model type, and the default


@dataclass(frozen=True)
class Pieces:
    """A unigram model: `vocabulary` in the order of ids."""

    vocabulary: tuple[tuple[str, float], ...]
    unknown: int
    characters: bytes  # compiled table of replacements; empty: none


def read_pieces(content: bytes) -> Pieces:
    """The model in a file's bytes. ValueError if it is none, or of another type than unigram."""
    vocabulary: list[tuple[str, float]] = []
    unknown, characters = 0, b""
    for field, value in _fields(content):
        if field == PIECE and isinstance(value, bytes):
            piece = dict(_fields(value))
            vocabulary.append((_text(piece.get(TEXT, b"")), _float(piece.get(SCORE, b"\0\0\0\0"))))
        elif field == TRAINER and isinstance(value, bytes):
            trainer = dict(_fields(value))
            if trainer.get(MODEL_TYPE, UNIGRAM) != UNIGRAM:
                raise ValueError(f"a model of type {trainer[MODEL_TYPE]!r}, not unigram")
            number = trainer.get(UNKNOWN_ID, 0)
            unknown = number if isinstance(number, int) else 0
        elif field == NORMALIZER and isinstance(value, bytes):
            table = dict(_fields(value)).get(CHARACTERS, b"")
            characters = table if isinstance(table, bytes) else b""
    if not 0 <= unknown < len(vocabulary):
        raise ValueError("it has no pieces, or none for what is unknown")
    return Pieces(tuple(vocabulary), unknown, characters)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field: numbers as int, all else as bytes."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == VARINT:
            value, place = _varint(message, place)
            yield tag >> 3, value
            continue
        if kind == BYTES:
            size, place = _varint(message, place)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise ValueError("it is no protobuf message")
        if place + size > len(message):
            raise ValueError("it is cut")
        yield tag >> 3, message[place : place + size]
        place += size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise ValueError("it is cut")
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
    raise ValueError("it is no protobuf message")


def _text(value: int | bytes) -> str:
    if not isinstance(value, bytes):
        raise ValueError("a piece is no text")
    return value.decode()


def _float(value: int | bytes) -> float:
    if not isinstance(value, bytes) or len(value) != 4:
        raise ValueError("a score is no number")
    score: float = struct.unpack("<f", value)[0]
    return score
