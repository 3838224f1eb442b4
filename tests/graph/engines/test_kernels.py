"""The kernels in the program text of an engine: types, bytes, MACs."""

import pytest

from fewstep.graph.engines.kernels import kernels_of
from fewstep.graph.engines.time_bound import DEVICES, LAUNCH, Device, lower_bound

PROGRAM = b"""\x00\x01binary
  inputs={ "x.1" }
  accelerators={sm86 }
  tensor={ dims={ "batch.1" 32 14 14 } mem_prop=0 name="x.1" offset=0 strides={ 6272 1 448 32 } type=int8 }
  tensor={ dims={ 32 32 3 3 } name="w" offset=9 strides={ 288 1 96 32 } type=int8 }
  tensor={ dims={ "batch.1" 32 14 14 } name="out" offset=0 strides={ 6272 1 448 32 } type=half }
  tensor={ dims={ "rows.1" 32 } name="flat" offset=0 type=half }
  tensor={ dims={ 32 64 } name="v" offset=0 type=half }
  tensor={ dims={ "rows.1" 64 } name="y" offset=0 type=float }
  tensor={ dims={ 1 } mem_prop=100 name="batch.1" offset=0 type=int64 }
  tensor={ dims={ 1 } mem_prop=100 name="{Node[a]}_shape" offset=0 type=int64 }
  tensor={ dims={ 1 } mem_prop=100 name="rows.1" offset=0 type=int64 }
  sub_tensor={ base="y" const_offset=0 dims={ "rows.1" 16 } mem_prop=0 name="part^deref" strides={ 1 1 } type=float }
  corrltn={ name="conv" output={"out" } input={"x.1" "w" } scratchspace={"s" } stream=0 }
  signal={ name="event" stream=0 event=1 layers="" }
  function={ name=__myl_Resh fqn=f args={ "out" "flat" } input_args={ "out" "rows.1" "out" } output_args={ "flat" } }
  runtime_fusion={ name=__myl_FcAdd input_args={ "flat" "v" } output_args={ "y" } binary=0 }
  runtime_function={ name=__myl_Slic input_args={ "y" } output_args={ "part^deref" } }
  memset={ name="init" output={"__s^196i64" }  src="196i64" stream=0 }
  tensor={ dims={ 1 } mem_prop=100 name="__s^196i64" offset=0 type=int64 }
  mul={ name="m" output={"product" } input={"{Node[a]}_shape" "__s^196i64" } stream=0 layers="" }
  tensor={ dims={ 1 } mem_prop=100 name="product" offset=0 type=int64 }
  copy={ name="c1" output={"batch.1" } input={"{Node[a]}_shape" } stream=0 speculate={ }}
  copy={ name="c2" output={"rows.1" } input={"product" } stream=0 speculate={ }}
  accelerators={*}
  inputs={ "a" "v" }
  tensor={ dims={ 392 32 } name="a" type=half }
  tensor={ dims={ 32 64 } name="v" type=half }
  tensor={ dims={ 392 64 } name="b" type=half }
  fully_connected={ name="fc" output={"b" } input={"a" "v" } stream=0 }
  accelerators={*}
  inputs={ "a" }
  tensor={ dims={ 392 64 } name="a" type=float }
\xff\xfe"""
SHAPES = {"x": (2, 32, 14, 14)}


def test_kernels_have_types_bytes_and_macs() -> None:
    """Dimensions that follow the batch are computed as on the host, and nothing of the host is a kernel. An input
    that a kernel lists twice, as the second does, is read once.
    """
    read = kernels_of(PROGRAM, SHAPES)
    assert read is not None
    pixels = 2 * 14 * 14
    assert [(each.kind, each.reads[:1], each.writes, each.bytes, each.macs) for each in read.each] == [
        ("corrltn", ("int8",), ("float16",), pixels * 32 * 3 + 32 * 32 * 9, pixels * 32 * 32 * 9),
        ("function", ("float16",), ("float16",), pixels * 32 * 4, 0),
        ("fully_connected", ("float16",), ("float32",), pixels * (64 + 256) + 32 * 64 * 2, pixels * 32 * 64),
        ("runtime_function", ("float32",), ("float32",), pixels * (64 + 16) * 4, 0),
    ]
    assert read.macs == {"int8": pixels * 32 * 32 * 9, "float16": pixels * 32 * 64}
    assert read.outputs == {"float16": 1, "float32": 1}
    assert [(convolution.name, convolution.multiplies) for convolution in read.convolutions] == [("conv", "int8")]
    assert read.bytes == sum(each.bytes or 0 for each in read.each)


def test_bytes_are_unknown_where_a_size_is() -> None:
    """An engine for a range of batches has no bytes without a batch, but it has kernels."""
    read = kernels_of(PROGRAM)
    assert read is not None and len(read.each) == 4
    assert read.bytes is None and read.each[0].macs == 0
    assert lower_bound(read, DEVICES[0]) is None


@pytest.mark.parametrize("engine", [b"", b"\x00" * 100, b"  inputs={ }\n  accelerators={sm86 }\n"])
def test_an_engine_without_program_text_says_nothing(engine: bytes) -> None:
    assert kernels_of(engine) is None


def test_a_bound_is_the_longer_of_bytes_and_macs_and_a_launch_each() -> None:
    read = kernels_of(PROGRAM, SHAPES)
    assert read is not None and read.bytes is not None
    slow_memory = Device("", "sm86", bandwidth=1e6, int8=1e15, float16=1e15)
    assert lower_bound(read, slow_memory) == pytest.approx(read.bytes / 1e6 + 4 * LAUNCH)
    slow_product = Device("", "sm86", bandwidth=1e18, int8=2e6, float16=1e6)
    seconds = 2 * read.macs["int8"] / 2e6 + 2 * read.macs["float16"] / 1e6
    assert lower_bound(read, slow_product) == pytest.approx(seconds + 4 * LAUNCH)
