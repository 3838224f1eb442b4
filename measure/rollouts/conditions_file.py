"""The records of conditions (observations, vectors, images) in a file.

The file is .npz or .safetensors with one array [N, *shape] per condition, under the condition's name. Row i of all
arrays is one record. An array BRANCH.NAME has a condition's values in another branch of guidance, such as those of a
negative prompt. Records may be private: they are used, but never copied into the bundle.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from fewstep.plans.errors import UserError, first_line
from fewstep.plans.guidance import COND
from fewstep.runtime.bundle import conditions
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.tensor_file import check_header

LOG = logging.getLogger("fewstep")
ConditionRecords = Mapping[str, NDArray[Any]]  # [N, *shape] for each condition, by name
SAMPLES = "x"  # the name of samples in a file for `export --check`
SEPARATOR = "."  # separates branch and condition in the name of an array


@dataclass(frozen=True)
class GivenConditions:
    """Conditions of samples: given records, or None if all values are drawn by the seed. `random` names the conditions
    with drawn values that do not represent the user's data (`seeds.random_conditions`), and `fixed` those that have one
    value in all samples (`seeds.fixed_conditions`)."""

    records: ConditionRecords | None
    random: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on the values for which a judgement does not hold."""
        return tuple(f"judged {note}" for note in (random_note(self.random), fixed_note(self.fixed)) if note)


def random_note(names: Sequence[str]) -> str | None:
    """Return "on random values of mask, masked: give --conditions FILE", or None if no condition is random."""
    return f"on random values of {', '.join(names)}: give --conditions FILE" if names else None


def fixed_note(names: Sequence[str]) -> str | None:
    """Return "at one value of class only: give others with --conditions FILE", or None if no condition is fixed."""
    return f"at one value of {', '.join(names)} only: give others with --conditions FILE" if names else None


def read_conditions(path: Path, takes: Sequence[Condition]) -> ConditionRecords:
    """Read the records in a file, and check them against a denoiser's conditions. Raises UserError if they do not
    match, and if the file has values for other branches of guidance, because those branches get null values here."""
    arrays = _leave_out_samples(path, read_arrays(path), takes)
    if names := [name for name in arrays if name not in {each.name for each in takes} and SEPARATOR in name]:
        what = f"{path.name} has {names[0]!r}, the values of a branch of guidance"
        raise UserError(what, "write it without --negative, and give the null value at export: fewstep export --null")
    for each in takes:
        if each.name not in arrays and conditions.is_null_by_default(each):
            LOG.warning("%s has no %s: all samples have its null value, and are not guided by it", path.name, each.name)
    return check_records(path.name, arrays, takes)


def read_branches(path: Path, takes: Sequence[Condition]) -> dict[str, ConditionRecords]:
    """Return the records in a file for each branch of guidance. Arrays of `COND` have no prefix. Conditions may be
    missing.
    Raises UserError for an array that belongs to no condition, or of another shape or type."""
    named, branches = {each.name: each for each in takes}, dict[str, dict[str, NDArray[Any]]]()
    arrays = _leave_out_samples(path, read_arrays(path), takes)
    if not arrays:
        raise UserError(f"{path.name} has no arrays", "give an array [N, *shape] for each condition")
    for name, array in arrays.items():
        branch, _, rest = (COND, "", name) if name in named else name.partition(SEPARATOR)
        if rest not in named:
            has = f"it takes {', '.join(map(repr, named))}" if named else "it takes none"
            raise UserError(f"{path.name} has {name!r}, which is not a condition of this denoiser", has)
        branches.setdefault(branch, {})[rest] = array
    return {branch: check_records(path.name, own, [named[name] for name in own]) for branch, own in branches.items()}


def _leave_out_samples(path: Path, arrays: ConditionRecords, takes: Sequence[Condition]) -> ConditionRecords:
    """Return the arrays without x, which a file for `export --check` or `verify --data` has besides the conditions."""
    if SAMPLES not in arrays or any(each.name == SAMPLES for each in takes):
        return arrays
    LOG.warning("%s has samples, x: only its conditions are used", path.name)
    return {name: array for name, array in arrays.items() if name != SAMPLES}


def array_name(branch: str, condition: str) -> str:
    """Return the name that a file gives the array of a condition's values in a branch other than `COND`."""
    return f"{branch}{SEPARATOR}{condition}"


def read_arrays(path: Path) -> ConditionRecords:
    """Read the arrays of a file. All must have the same number of rows, at least one."""
    arrays = _load(path)
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) == 0:
            raise UserError(f"array {name!r} of {path.name} has no rows", "give one row per sample: [N, *shape]")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UserError(
            f"the arrays of {path.name} have different lengths ({listed})", "give each array the same number of rows"
        )
    return arrays


def check_records(source: str, arrays: ConditionRecords, takes: Sequence[Condition]) -> ConditionRecords:
    """Convert records to the types of a denoiser's conditions. Raises UserError naming the `source` of a mismatch."""
    try:
        return conditions.check(takes, arrays, max(map(len, arrays.values()), default=0))
    except UserError as error:
        raise UserError(f"{source}: {error.what}", error.fix) from error


def distribute_records(records: ConditionRecords, samples: int) -> ConditionRecords:
    """Return a record for each of `samples` samples: evenly spread over the file, or repeated if the file has fewer."""
    count = len(next(iter(records.values()))) if records else samples
    if count < samples:
        LOG.warning("%d rows of conditions for %d samples: the rows are repeated", count, samples)
    chosen = np.arange(samples) % count if count < samples else np.arange(samples) * count // samples
    return {name: array[chosen] for name, array in records.items()}


def digest_records(records: ConditionRecords) -> str:
    """Return the SHA-256 of the names, types, shapes and values of records."""
    known = sha256()
    for name, array in sorted(records.items()):
        known.update(f"{name} {array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return known.hexdigest()


def check_file(path: Path) -> None:
    """Raise UserError unless the path is a file."""
    if path.is_dir():
        raise UserError(f"{path} is a folder", "write its contents into one .npz, as docs/your_model.md does")
    if not path.is_file():
        raise UserError(f"there is no file {path}", "check the path")


def _load(path: Path) -> dict[str, NDArray[Any]]:
    check_file(path)
    fix = "write it with numpy.savez(FILE, NAME=ARRAY) or safetensors.numpy.save_file({NAME: ARRAY}, FILE)"
    if path.suffix not in (".npz", ".safetensors"):
        raise UserError(f"{path.name} is neither .npz nor .safetensors", fix)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:  # a pickle runs code
                return {name: np.asarray(file[name]) for name in file.files}  # members that are not arrays are bytes
        with path.open("rb") as opened:
            check_header(opened.read(8))
        return dict(load_file(path))
    except Exception as error:  # numpy, zipfile and zlib report damage by a dozen unrelated classes of errors
        reason = first_line(error)
        reason = "it holds other objects than arrays" if "pickle" in reason else reason  # numpy explains how to load it
        raise UserError(f"{path.name} cannot be read ({reason})", fix) from error
