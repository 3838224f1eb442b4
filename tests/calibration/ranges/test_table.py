"""The ranges table as a file."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from fewstep.calibration.ranges.read_table import decode, load
from fewstep.calibration.ranges.table import ChannelRanges, Range, Ranges, RangesTable
from fewstep.plans.errors import UserError
from tests.refusals import refuses

RANGES = Ranges(Range(-1.0, 2.0), (Range(-0.3, 0.1), Range(-1.0, 2.0)), 2.0, (0.3, 1.9))
TABLE = RangesTable("ab" * 32, "dpmpp_2m:8", (0.1,), "mse", {"conv.output": RANGES, "x": RANGES})

OWN = Ranges(Range(-1.5, 2.5), (Range(-0.5, 0.25), Range(-1.5, 2.5)), 2.5, (0.5, 2.5))
CHANNELS = replace(
    TABLE,
    method="channels",
    tensors={"a": replace(RANGES, by_channel=ChannelRanges((1.5, 0.3, 1 / 64), OWN)), "x": RANGES},
)


def test_tables_survive_the_file(tmp_path: Path) -> None:
    for each in (TABLE, CHANNELS):
        (tmp_path / "ranges.safetensors").write_bytes(each.encode())
        assert load(tmp_path / "ranges.safetensors") == each
    arrays = load_tensors(CHANNELS.encode())
    assert arrays.keys() == {"a", "factors(a)", "by_channel(a)", "x"}
    assert arrays["factors(a)"].tolist() == [1.5, 0.3, 1 / 64]
    assert arrays["by_channel(a)"].tolist() == [[-1.5, 2.5, 2.5], [-0.5, 0.25, 0.5], [-1.5, 2.5, 2.5]]
    assert CHANNELS.encode() == replace(CHANNELS, tensors=dict(reversed(CHANNELS.tensors.items()))).encode()


def test_a_file_of_schema_1_is_read_still() -> None:
    old = TABLE.encode().replace(b'schema\\":2', b'schema\\":1')
    assert old != TABLE.encode() and decode(old) == TABLE


def test_each_tensor_is_an_array_of_low_high_amax() -> None:
    rows = load_tensors(TABLE.encode())["x"]
    assert rows.tolist() == [[-1.0, 2.0, 2.0], [-0.3, 0.1, 0.3], [-1.0, 2.0, 1.9]]


def test_an_unmeasured_tensor_is_named() -> None:
    with pytest.raises(UserError, match="no tensor 'elsewhere'"):
        TABLE["elsewhere"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"mse", b"mxe", "Invalid enum value"),
        (b'schema\\":2', b'schema\\":7', "schema 7, this fewstep reads 1 and 2"),
        (b"[0.1]", b"[   ]", "not float64 .2, 3."),
        (b"fewstep.ranges", b"fewstep_ranges", "not a ranges table"),
    ],
)
def test_an_edited_header_is_refused(old: bytes, new: bytes, reason: str) -> None:
    data = TABLE.encode()
    assert old in data
    with pytest.raises(ValueError, match=reason):
        decode(data.replace(old, new))


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_truncated_file_is_one_line_with_its_name(tmp_path: Path, size: int) -> None:
    (tmp_path / "ranges.safetensors").write_bytes(TABLE.encode()[:size])
    with refuses(("ranges.safetensors", "damaged"), "fewstep calibrate"):
        load(tmp_path / "ranges.safetensors")


def test_a_header_of_very_many_tensors_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ValueError, match="its header has 5000000 bytes, more than the limit of 4194304"):
        decode((5_000_000).to_bytes(8, "little") + b"{")


def test_a_missing_file_and_a_foreign_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        load(tmp_path / "ranges.safetensors")
    with pytest.raises(ValueError, match="not a ranges table"):
        decode(save_tensors({"x": np.zeros(3)}))


@pytest.mark.parametrize(
    "bad", [Range(0.1, 2.0), Range(-1.0, float("nan")), Range(0.0, 0.0), Range(-1.0, float("inf"))]
)
def test_a_range_without_zero_or_width_is_refused(bad: Range) -> None:
    with pytest.raises(ValueError, match="tensor 'x'"):
        decode(replace(TABLE, tensors={"x": replace(RANGES, pooled=bad)}).encode())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"factors(a)": None}, "tensor 'a' lacks per-channel factors or per-channel ranges"),
        ({"by_channel(a)": None}, "tensor 'a' lacks per-channel factors or per-channel ranges"),
        ({"factors(a)": np.ones(3, np.float32)}, "tensor 'a' lacks per-channel factors or per-channel ranges"),
        ({"factors(a)": np.ones((3, 1))}, "tensor 'a' lacks per-channel factors or per-channel ranges"),
        ({"factors(a)": np.array([1.0, 0.0])}, "tensor 'a' has a per-channel factor that is not positive"),
        ({"factors(a)": np.array([1.0, -0.5])}, "tensor 'a' has a per-channel factor that is not positive"),
        ({"factors(a)": np.array([1.0])}, "tensor 'a' has a per-channel factor that is not positive"),
        ({"factors(a)": np.array([1.0, np.nan])}, "tensor 'a' has a per-channel factor that is not positive"),
        ({"factors(a)": np.array([1.0, np.inf])}, "tensor 'a' has a per-channel factor that is not positive"),
        ({"by_channel(a)": np.zeros((3, 3))}, "tensor 'by_channel.a.'"),
        ({"by_channel(a)": np.array([[-1.0, 1.0, 1.0]])}, "'by_channel.a.' is float64 .1, 3., not float64 .3, 3."),
        ({"a": None}, "tensor 'factors.a.' is float64 .3., not float64 .3, 3."),
    ],
)
def test_damaged_scales_of_channels_are_refused(changes: dict[str, np.ndarray | None], reason: str) -> None:
    data = CHANNELS.encode()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    arrays = {name: array for name, array in {**load_tensors(data), **changes}.items() if array is not None}
    with pytest.raises(ValueError, match=reason):
        decode(save_tensors(arrays, metadata=header))


def test_a_table_of_a_previous_method_still_opens() -> None:
    previous = replace(TABLE, method="entropy")
    assert decode(previous.encode()) == previous
