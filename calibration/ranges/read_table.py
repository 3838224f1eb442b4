"""Reading of a ranges file, as `table.py` writes it. A file that is damaged or invalid is refused."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from math import isfinite
from pathlib import Path

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from fewstep.calibration.ranges import table
from fewstep.calibration.ranges.table import Array, ChannelRanges, Range, Ranges, RangesTable, by_channel_of, factors_of
from fewstep.plans.errors import UserError
from fewstep.runtime.tensor_file import check_header

READ = (1, table.SCHEMA)  # schema 1 has no ranges by channel


def load(path: Path) -> RangesTable:
    """Load and validate a ranges table. Raises UserError if the file is missing, damaged or inconsistent."""
    try:
        return decode(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"ranges table {path.name} is missing", table.RECALIBRATE) from None
    except ValueError as error:
        raise UserError(f"ranges table {path.name} is damaged: {error}", table.RECALIBRATE) from None


def decode(data: bytes) -> RangesTable:
    """Decode a ranges table. Raises ValueError if the bytes are damaged or inconsistent."""
    arrays, header = _parse_file(data)
    if header.schema not in READ:
        raise ValueError(f"schema {header.schema}, this fewstep reads {' and '.join(map(str, READ))}")
    if not all(isfinite(edge) for edge in header.groups) or any(a >= b for a, b in pairwise(header.groups)):
        raise ValueError("its group edges do not increase")
    groups = len(header.groups) + 1
    by_channel = {of(name) for name in arrays for of in (factors_of, by_channel_of)}
    tensors = {name: _read_ranges(name, arrays, groups) for name in arrays if name not in by_channel}
    return RangesTable(header.graph_sha256, header.plan, header.groups, header.method, tensors, header.unseen)


def _parse_file(data: bytes) -> tuple[Mapping[str, Array], table.Header]:
    """Return the arrays in a file's content, and the header from its metadata. (The Python API of safetensors reads
    metadata only from files.) Raises UserError for damaged content."""
    check_header(data)
    try:
        arrays = load_tensors(data)  # checks lengths, offsets and overlaps, so the header can be trusted below
        size = int.from_bytes(data[:8], "little")
        metadata = msgspec.json.decode(data[8 : 8 + size], type=dict[str, msgspec.Raw])["__metadata__"]
        text = msgspec.json.decode(metadata, type=dict[str, str])[table.HEADER]
        return arrays, msgspec.json.decode(text, type=table.Header)
    except (SafetensorError, msgspec.DecodeError) as error:
        raise ValueError(str(error)) from None
    except KeyError:
        raise ValueError("not a ranges table") from None


def _read_ranges(name: str, arrays: Mapping[str, Array], groups: int) -> Ranges:
    """Return the ranges of a tensor, with its per-channel ranges if the file has any."""
    ranges = _to_ranges(name, arrays[name], groups)
    factors, rows = arrays.get(factors_of(name)), arrays.get(by_channel_of(name))
    if factors is None and rows is None:
        return ranges
    if factors is None or rows is None or factors.dtype != np.float64 or factors.ndim != 1:
        raise ValueError(f"tensor {name!r} lacks per-channel factors or per-channel ranges")
    if len(factors) < 2 or not (np.isfinite(factors) & (factors > 0)).all():
        raise ValueError(f"tensor {name!r} has a per-channel factor that is not positive and finite")
    by_channel = ChannelRanges(tuple(factors.tolist()), _to_ranges(by_channel_of(name), rows, groups))
    return replace(ranges, by_channel=by_channel)


def _to_ranges(name: str, rows: Array, groups: int) -> Ranges:
    if rows.dtype != np.float64 or rows.shape != (1 + groups, 3):
        raise ValueError(f"tensor {name!r} is {rows.dtype} {list(rows.shape)}, not float64 [{1 + groups}, 3]")
    low, high, amax = rows.T
    if not np.isfinite(rows).all() or not ((low <= 0) & (high >= 0) & (low < high) & (amax > 0)).all():
        raise ValueError(f"tensor {name!r} has a range that is empty or does not contain zero")
    ends = [Range(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    return Ranges(ends[0], tuple(ends[1:]), float(amax[0]), tuple(amax[1:].tolist()))
