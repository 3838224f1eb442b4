"""A SentencePiece model, `spiece.model`, read from its bytes: pieces with their scores, and how text is normalised.

The file is a protobuf message (sentencepiece_model.proto): pieces in field 1, trainer_spec in 2, normalizer_spec in 3.
"""

import struct
from dataclasses import dataclass

from fewstep.runtime.bundle.protobuf import Value, fields, last_values

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
    for field, _, value in fields(content):
        if field == PIECE and isinstance(value, bytes):
            piece = last_values(value)
            vocabulary.append((_text(piece.get(TEXT, b"")), _float(piece.get(SCORE, b"\0\0\0\0"))))
        elif field == TRAINER and isinstance(value, bytes):
            trainer = last_values(value)
            if trainer.get(MODEL_TYPE, UNIGRAM) != UNIGRAM:
                raise ValueError(f"a model of type {trainer[MODEL_TYPE]!r}, not unigram")
            number = trainer.get(UNKNOWN_ID, 0)
            unknown = number if isinstance(number, int) else 0
        elif field == NORMALIZER and isinstance(value, bytes):
            table = last_values(value).get(CHARACTERS, b"")
            characters = table if isinstance(table, bytes) else b""
    if not 0 <= unknown < len(vocabulary):
        raise ValueError("it has no pieces, or none for what is unknown")
    return Pieces(tuple(vocabulary), unknown, characters)


def _text(value: Value) -> str:
    if not isinstance(value, bytes):
        raise ValueError("a piece is no text")
    return value.decode()


def _float(value: Value) -> float:
    if not isinstance(value, bytes) or len(value) != 4:
        raise ValueError("a score is no number")
    score: float = struct.unpack("<f", value)[0]
    return score
