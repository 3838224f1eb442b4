"""`fewstep bake --parts`: write a run as files for a program that runs the steps itself, such as a page with WebGPU.

A folder receives `before.onnx`, one `step-N.onnx` for each kind of step, `after.onnx`, and `run.json` with the order
and the numbers of the steps. All shapes are fixed. A program can thus keep the state on its device, show the sample
after each step, and stop between two steps.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from fewstep.graph.bake.bake import assemble_run
from fewstep.graph.bake.example_inputs import example_inputs
from fewstep.graph.bake.metadata import Baked, BakedPort
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.bake.parts.parts_file import AFTER, BEFORE, DESCRIPTION, PartsFile, RowInput, StateRow, StepKind
from fewstep.graph.bake.parts.split_run import SplitRun, split_run
from fewstep.graph.bake.parts.step_rows import NumberedSteps, lift_step_numbers
from fewstep.graph.bake.resolve_run import Planned, resolve_run
from fewstep.graph.files import io
from fewstep.graph.graph import BATCH, Array, Graph, Value
from fewstep.graph.session import open_session
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import file_sha256
from fewstep.runtime.interrupts import check_interrupted
from fewstep.runtime.kinds.sizes import default_sizes


def write_parts(options: BakeOptions, planned: Planned | None = None) -> tuple[Baked, tuple[Path, ...]]:
    """Write the folder `options.output`; return the run's description and the files. Raises UserError for a run without
    a repeated step, or one that cannot be written."""
    planned = planned or resolve_run(options)
    bundle, _, plan = planned
    if options.batch is not None and options.batch < 1:
        raise UserError(f"--batch is {options.batch}", "give the number of samples of a run, such as --batch 1")
    batch = options.batch or 1
    run, holds = assemble_run(replace(options, batch=None), planned)
    parts = split_run(run)
    sizes = {BATCH: batch, **default_sizes(plan.shape or bundle.manifest.x_shape, bundle.manifest.sizes), **run.sizes}
    before = _fix(parts.before, sizes)
    numbered = _number_steps(parts, before, example_inputs(holds, sizes))
    after = _fix(parts.after, sizes)
    kinds = tuple(_describe_kind(parts, index, each) for index, each in enumerate(numbered))
    holds = _fix_ports(holds, sizes)
    described = PartsFile(batch, BEFORE, kinds, AFTER, holds)
    graphs = {
        BEFORE: before,
        **{kind.file: each.graph for kind, each in zip(kinds, numbered, strict=True)},
        AFTER: after,
    }
    return holds, _write_folder(options.output, graphs, described)


def _fix_ports(holds: Baked, sizes: Mapping[str, int]) -> Baked:
    """Return the description with these sizes of its inputs and outputs."""

    def fix(port: BakedPort) -> BakedPort:
        shape = tuple(sizes.get(size, size) if isinstance(size, str) else size for size in port.shape)
        return msgspec.structs.replace(port, shape=shape)

    inputs, carried = tuple(map(fix, holds.inputs)), tuple(map(fix, holds.carried))
    return msgspec.structs.replace(holds, inputs=inputs, carried=carried, output=fix(holds.output))


def _fix(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    """Return the graph with these sizes of its inputs."""

    def fix(value: Value) -> Value:
        return replace(
            value, shape=tuple(sizes.get(size, size) if isinstance(size, str) else size for size in value.shape)
        )

    return replace(graph, inputs=tuple(map(fix, graph.inputs)), described=())


def _number_steps(parts: SplitRun, before: Graph, inputs: Mapping[str, Array]) -> tuple[NumberedSteps, ...]:
    """Return the graphs of the steps with all shapes fixed. The shapes are those that follow from these inputs of the
    run and from the outputs of `before`, the graph that runs before the first step."""
    values = {**inputs, **open_session(before)(inputs)}
    start, numbered = parts.start, []
    for steps in parts.steps:
        values |= {name: values[source] for name, source in zip(steps.state, start, strict=True)}
        inner = {value.name: values[value.name] for value in steps.graph.inputs if value.name != steps.number}
        numbered.append(lift_step_numbers(steps, inner))
        values |= {name: values[source] for name, source in zip(steps.after, steps.state, strict=True)}
        start = steps.after
    return tuple(numbered)


def _describe_kind(parts: SplitRun, index: int, numbered: NumberedSteps) -> StepKind:
    steps = parts.steps[index]
    start = parts.start if index == 0 else parts.steps[index - 1].after
    state = tuple(StateRow(*names) for names in zip(start, steps.state, steps.nexts, steps.after, strict=True))
    first = numbered.rows[0]
    read = {value.name for value in numbered.graph.inputs}
    return StepKind(
        file=f"step-{index}.onnx",
        state=state,
        shared=tuple(name for name in steps.constant_inputs if name in read),
        row_inputs=tuple(RowInput(name, str(array.dtype), array.shape) for name, array in first.items()),
        rows=tuple(tuple(_flat(row[name]) for name in first) for row in numbered.rows),
    )


def _flat(array: Array) -> tuple[float, ...]:
    values: Sequence[float] = array.reshape(-1).tolist()
    return tuple(values)


def _write_folder(folder: Path, graphs: Mapping[str, Graph], described: PartsFile) -> tuple[Path, ...]:
    """Write the files; `run.json` last, so that a folder with it is complete."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=".fewstep-bake-") as scratch:
            written = [file for name, graph in graphs.items() for file in io.save(graph, Path(scratch) / name)]
            description = Path(scratch) / DESCRIPTION
            hashes = {file.name: file_sha256(file) for file in written}
            description.write_bytes(msgspec.json.encode(msgspec.structs.replace(described, sha256=hashes)))
            check_interrupted()
            (folder / DESCRIPTION).unlink(missing_ok=True)
            for file in (*written, description):
                os.replace(file, folder / file.name)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error})",
            "check the permissions and the space left, or give another path",
        ) from None
    return tuple(folder / file.name for file in (*written, description))
