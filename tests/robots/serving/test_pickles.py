"""Pickles of LeRobot, read and written without running what they name."""

import os
import pickle
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fewstep.plans.errors import UserError
from fewstep.robots.serving.pickles import Made, Name, read_pickle, write_timed_actions

ARRAYS = [
    np.arange(6, dtype=np.uint8).reshape(2, 3),
    np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    np.arange(3, dtype=">i2"),
    np.array([True, False]),
    np.zeros((0, 4)),
    np.array(2.5),
]


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{list(array.shape)}")
def test_arrays_are_read_as_numpy_pickles_them(array: np.ndarray, protocol: int) -> None:
    (read,) = read_pickle(pickle.dumps([array], protocol))
    assert np.array_equal(read, array) and read.dtype == array.dtype and read.shape == array.shape


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_plain_values_are_read(protocol: int) -> None:
    values = {"a": [1, -2, 2**40, 1.5, None, True, False, "é"], "b": (1, (2, 3), (1, 2, 3, 4), ()), "c": b"xy", "d": {}}
    values["again"] = values["a"]
    assert read_pickle(pickle.dumps(values, protocol)) == values
    number = read_pickle(pickle.dumps(np.float32(0.1), protocol))
    assert number == np.float32(0.1) and number.dtype == np.float32


def test_what_a_pickle_names_is_not_called() -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return os.system, ("echo attacked",)

    read = read_pickle(pickle.dumps(Attack()))
    assert read == Made(Name("posix", "system"), ("echo attacked",))


def double(times: int) -> bytes:
    value: list[Any] = []
    for _ in range(times):
        value = [value, value]
    return pickle.dumps(value)


def circle() -> bytes:
    value: list[Any] = []
    value.append(value)
    return pickle.dumps(value)


TEXT, NUMBER = b"X\x00\x00\x01\x00" + b"x" * 2**16, b"\x8a\xff" + b"\x7f" * 255
TWICE = b")\x94" + b"".join(b"h%ch%c\x86\x94" % (level, level) for level in range(60))  # the last has 2^60 leaves
MANY = b"(" + b"h\x00" * 45_000 + b"t"  # of what comes first


def array(shape: bytes, dtype: bytes = b"X\x02\x00\x00\x00f4") -> bytes:
    """Return the opcodes of an empty array with such a shape and type."""
    return (
        b"cnumpy._core.numeric\n_frombuffer\n(C\x00cnumpy\ndtype\n" + dtype + b"\x85R" + shape + b"X\x01\x00\x00\x00CtR"
    )


@pytest.mark.parametrize(
    ("content", "line"),
    [
        pytest.param(TWICE + array(b"h\x3c"), "an array has the shape", id="a shape of 2^60 leaves"),
        pytest.param(TWICE + array(b"K\x00\x85", b"h\x3c"), "has the type a tuple", id="a type of 2^60 leaves"),
        pytest.param(TWICE + b"}h\x3cK\x01s", "a key that is not text", id="a key of 2^60 leaves"),
        pytest.param(NUMBER + b"\x94" + array(MANY), "at most 32 axes", id="a shape of 45000 long numbers"),
        pytest.param(NUMBER + b"\x94" + array(b"h\x00\x85"), "more than 64 bits", id="a size of 2040 bits"),
        pytest.param(array(b")", b"X\xc0\xd4\x01\x00" + b"f4," * 40_000), "a text of more", id="a type of 40000 parts"),
        pytest.param(
            array(b")", b"X\x00\xc0\x00\x00" + b"f4," * 16_384), "has the type 'f4", id="a type of 16384 parts"
        ),
        pytest.param(TEXT + b"\x94" + array(b")", MANY), "has the type a tuple", id="a type of 45000 texts"),
        pytest.param(TEXT[:3] + b"\x02" + TEXT[4:] + b"x" * 2**16, "a text of more", id="a long text"),
        pytest.param(b"}(" + b"K\x01N" * 2 + b"u", "a key that is not text", id="numbers as keys"),
    ],
)
def test_small_pickles_that_would_become_large_are_refused(content: bytes, line: str) -> None:
    with pytest.raises(UserError, match=line) as failure:
        read_pickle(b"\x80\x04" + content + b".")
    assert len(str(failure.value)) < 250


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x80\x04", id="no end"),
        pytest.param(b"\x80\x04.", id="nothing made"),
        pytest.param(b"\x80\x04h\x07.", id="an unknown memo"),
        pytest.param(b"\x80\x04]K\x01s.", id="an item of a list"),
        pytest.param(b"\x80\x04K\x01K\x02R.", id="a number is called"),
        pytest.param(b"\x80\x04K\x01K\x02b.", id="the state of a number"),
        pytest.param(b"\x80\x04t.", id="no mark"),
        pytest.param(b"\x80\x04(K\x01\x86.", id="a mark is taken"),
        pytest.param(b"\x80\x04X\xff\xff\xff\x7fab.", id="longer than it is"),
        pytest.param(b"\x80\x04}]K\x01s.", id="a list as key"),
        pytest.param(b"(lp0\n.", id="protocol 0"),
        pytest.param(b"\x80\x04cos\nsystem\n\x94cbuiltins\ngetattr\n\x93.", id="names are no text"),
        pytest.param(b"\x80\x05\x97.", id="a buffer beside it"),
        pytest.param(b"\x80\x02P1\n.", id="a persistent id"),
        pytest.param(double(40), id="doubled 40 times"),
        pytest.param(circle(), id="a circle"),
        pytest.param(pickle.dumps(list(range(200_000))), id="too many opcodes"),
        pytest.param(pickle.dumps(np.array([{}], object)), id="objects"),
        pytest.param(pickle.dumps(np.zeros(2, "f4,i4")), id="records"),
        pytest.param(pickle.dumps(np.array(["a"])), id="texts"),
        pytest.param(pickle.dumps(np.zeros(3)).replace(b"K\x03\x85", b"K\x09\x85"), id="another shape"),
        pytest.param(pickle.dumps(np.random.default_rng(0)), id="another object of numpy"),
    ],
)
def test_other_pickles_are_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(UserError, match="not a pickle that can be read.*; send what LeRobot's robot client sends"):
        read_pickle(content)


def test_torn_pickles_are_refused() -> None:
    content = pickle.dumps({"a": np.arange(4.0), "b": ["x", 1.5]})
    for length in range(len(content)):
        with pytest.raises(UserError):
            read_pickle(content[:length])


@dataclass
class TimedAction:
    timestamp: float
    timestep: int
    action: Any


def test_written_actions_are_unpickled_by_python(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, attribute, value in (("torch", "tensor", tuple), ("of_lerobot", "TimedAction", TimedAction)):
        module = ModuleType(name)
        setattr(module, attribute, value)
        monkeypatch.setitem(sys.modules, name, module)
    actions = np.array([[0.1, -2.0], [3e-9, 1e9]], np.float32)
    read = pickle.loads(write_timed_actions(actions, "of_lerobot", 12.25, 300, 0.05))
    assert [(action.timestamp, action.timestep) for action in read] == [(12.25, 300), (12.3, 301)]
    assert np.array_equal(np.array([action.action for action in read], np.float32), actions)
