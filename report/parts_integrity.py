"""Verify a folder of `fewstep bake --parts`: the hashes in run.json, each graph, and the first step on this machine."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort

from fewstep.graph.bake.example_inputs import example_inputs
from fewstep.graph.bake.parts.parts_file import DESCRIPTION, PartsFile
from fewstep.graph.bake.seal_check import BAKE_AGAIN
from fewstep.graph.graph import BATCH
from fewstep.plans.errors import UserError, first_line
from fewstep.report.integrity import Damage
from fewstep.runtime.backends.checks import path_text
from fewstep.runtime.bundle.reading import file_sha256

Tensors = Mapping[str, np.ndarray[Any, Any]]


class PartsIntegrity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The result of checking a folder of parts, written by `fewstep bake --parts`.

    files: the number of files whose hash is the one in run.json. graphs: the number of graphs that were loaded. notes:
        what could not be checked.
    """

    folder: str
    files: int
    graphs: int
    damages: tuple[Damage, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        return not self.damages


def verify_parts(folder: Path, runs: bool = True) -> PartsIntegrity:
    """Check a folder of parts. Raises UserError if its run.json cannot be read."""
    parts = _read(folder)
    named = [parts.before, *(kind.file for kind in parts.steps), parts.after]
    damages = [Damage(text, BAKE_AGAIN) for text in _find_damage(folder, named, parts.sha256)]
    notes = () if parts.sha256 else (f"{DESCRIPTION} has no hashes: an older version baked the folder",)
    if damages or not runs:
        return PartsIntegrity(str(folder), len(parts.sha256), 0, tuple(damages), notes)
    try:
        _run_first_step(folder, parts)
    except UserError as error:
        damages.append(Damage(error.what, error.fix))
    except (LookupError, TypeError, ValueError) as error:  # a tensor, a step or a number that the graphs do not have
        what = f"{folder / DESCRIPTION} does not fit the graphs: {type(error).__name__}: {first_line(error)}"
        damages.append(Damage(what, BAKE_AGAIN))
    return PartsIntegrity(str(folder), len(parts.sha256), len(named), tuple(damages), notes)


def _read(folder: Path) -> PartsFile:
    try:
        return msgspec.json.decode((folder / DESCRIPTION).read_bytes(), type=PartsFile)
    except (OSError, msgspec.DecodeError) as error:
        what = f"{folder / DESCRIPTION} does not describe parts of `fewstep bake --parts`: {first_line(error)}"
        raise UserError(what, BAKE_AGAIN) from None


def _find_damage(folder: Path, named: list[str], hashes: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each file that is missing, or that changed since the folder was written."""
    for name in dict.fromkeys([*named, *hashes]):
        file = folder / name
        if name != file.name:
            yield f"{DESCRIPTION} names {name!r}, which is not a file of {folder}"
        elif not file.is_file():
            yield f"{file} is missing"
        elif hashes and file_sha256(file) != hashes.get(name):
            yield f"{file} changed since it was baked: its SHA-256 is not the one in {DESCRIPTION}"


def _run_first_step(folder: Path, parts: PartsFile) -> None:
    """Open all graphs, and run the first step. Raises UserError if that fails, or if the state is not finite."""
    values = {**example_inputs(parts.holds, {BATCH: parts.batch})}
    values |= _run(folder / parts.before, values)
    kind = parts.steps[0]
    state = {row.input: values[row.start] for row in kind.state}
    with np.errstate(over="ignore"):  # an infinite number is found below
        numbers = {
            port.name: np.array(flat, port.dtype).reshape(port.shape)
            for port, flat in zip(kind.row_inputs, kind.rows[0], strict=True)
        }
    made = _run(folder / kind.file, {**values, **state, **numbers})
    for name in dict.fromkeys([*(step.file for step in parts.steps[1:]), parts.after]):
        _open(folder / name)
    for row in kind.state:
        if not np.isfinite(made[row.output]).all():
            raise UserError(f"the first step of {folder} returns NaN or infinity", BAKE_AGAIN)


def _run(file: Path, values: Tensors) -> dict[str, np.ndarray[Any, Any]]:
    session = _open(file)
    names = [port.name for port in session.get_outputs()]
    try:
        results = session.run(names, {port.name: values[port.name] for port in session.get_inputs()})
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        raise UserError(f"onnxruntime {ort.__version__} cannot run {file}: {first_line(error)}", BAKE_AGAIN) from error
    return dict(zip(names, map(np.asarray, results), strict=True))


def _open(file: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # log fatal errors only, since failures are raised
    options.intra_op_num_threads = 1
    try:
        return ort.InferenceSession(path_text(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(f"onnxruntime {ort.__version__} cannot load {file}: {first_line(error)}", BAKE_AGAIN) from error
