"""Read from a TensorRT-RTX engine which types its convolutions multiply, without a GPU.

An engine inspector needs a loaded engine, and loading needs a GPU. But an engine that its device compiles carries its
program as text: one line per tensor, with its type, and one per convolution ("corrltn", from correlation) with the
names of its inputs. The text is no documented format (read in tensorrt-rtx 1.7). Without it the answer is empty, which
means unknown, not none.
"""

import re

TENSOR = re.compile(rb'\b(?:sub_)?tensor=\{[^\n]*? name="([^"\n]+)"[^\n]*? type=(\w+) \}')
CONVOLUTION = re.compile(rb'\bcorrltn=\{ name="([^"\n]+)" output=\{[^}\n]*\} input=\{ ?"([^"\n]+)"')
TYPES = {"half": "float16", "float": "float32"}  # other types have the same names here


def convolutions(engine: bytes) -> dict[str, str]:
    """The type of the activation that each convolution of an engine reads: "int8", "float16", "float32"."""
    types = {name: kind.decode() for name, kind in TENSOR.findall(engine)}
    kinds = {name.decode(): types.get(source, "unknown") for name, source in CONVOLUTION.findall(engine)}
    return {name: TYPES.get(kind, kind) for name, kind in kinds.items()}
