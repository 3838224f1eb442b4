"""The content of `run.json`, which describes a run in parts (`fewstep bake --parts`)."""

from collections.abc import Mapping

import msgspec

from fewstep.graph.bake.metadata import Baked
from fewstep.plans.spec import Strict

BEFORE, AFTER, DESCRIPTION = "before.onnx", "after.onnx", "run.json"


class StateRow(Strict, frozen=True):
    """One tensor of the state. Its fields are its names: as an output of the part before these steps, as an input and
    an output of the step, and as an input of the part after them."""

    start: str
    input: str
    output: str
    end: str


class RowInput(Strict, frozen=True):
    """An input of a step whose value differs from step to step."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class StepKind(Strict, frozen=True):
    """Consecutive steps with one graph.

    shared: the inputs of the graph that are the same in each step: outputs of `before.onnx`, or inputs of the run.
    rows: for each step, the numbers of each of `row_inputs`, flattened.
    """

    file: str
    state: tuple[StateRow, ...]
    shared: tuple[str, ...]
    row_inputs: tuple[RowInput, ...]
    rows: tuple[tuple[tuple[float, ...], ...], ...]


class PartsFile(Strict, frozen=True):
    """The content of `run.json` in a folder of parts. `holds` describes the run, like the metadata of a baked file.
    `sha256` are the hashes of the other files, in hexadecimal."""

    batch: int
    before: str
    steps: tuple[StepKind, ...]
    after: str
    holds: Baked
    sha256: Mapping[str, str] = msgspec.field(default_factory=dict)  # an older folder has none
