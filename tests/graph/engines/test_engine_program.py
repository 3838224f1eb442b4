"""Reading the types of convolutions from an engine's program text."""

from fewstep.graph.engines.engine_program import convolutions

PROGRAM = b"""\x00\x01binary
  tensor={ alignment=128 dims={ 1 32 14 14 } mem_prop=0 name="a.1" offset=0 strides={ 6272 1 448 32 } type=int8 }
  tensor={ alignment=128 dims={ 32 32 3 3 } name="w" offset=9 strides={ 288 1 96 32 } type=int8 }
  tensor={ alignment=128 dims={ 1 32 14 14 } name="out" offset=0 strides={ 6272 1 448 32 } type=float }
  tensor={ alignment=128 dims={ 1 3 14 14 } name="x" offset=0 strides={ 588 196 14 1 } type=half }
  sub_tensor={ base="a.1" const_offset=0 dims={ 1 16 14 14 } name="part^deref" offset=0 strides={ 1 1 1 1 } type=int8 }
  corrltn={ name="node_first" output={"a.1" } input={"x" "w" } stream=0 }
  corrltn={ name="node_inner" output={"out" } input={"a.1" "w" } scratchspace={"s" } stream=0 }
  corrltn={ name="node_last" output={"y" } input={"out" "w" } stream=0 }
  corrltn={ name="node_part" output={"z" } input={"part^deref" "w" } stream=0 }
  corrltn={ name="node_other" output={"y" } input={"nowhere" "w" } stream=0 }
\xff\xfe"""


def test_each_convolution_is_known_by_what_it_reads() -> None:
    assert convolutions(PROGRAM) == {
        "node_first": "float16",
        "node_inner": "int8",
        "node_last": "float32",
        "node_part": "int8",
        "node_other": "unknown",
    }


def test_an_engine_without_program_text_says_nothing() -> None:
    assert convolutions(b"\x00" * 100) == {}
