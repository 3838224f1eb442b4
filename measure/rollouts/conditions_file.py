"""The records of conditions (observations, vectors, images) in a file, or in the files of a folder.

A file is .npz or .safetensors with one array [N, *shape] per condition, under the condition's name. Row i of all
arrays is one record. An array BRANCH.NAME has a condition's values in another branch of guidance, such as those of a
negative prompt. If shapes follow x's free sizes, such as a text's length, a file gives its samples their size, and the
files of a folder may differ (`record_sizes`). Records may be private: they are used, but never copied into the bundle.
"""

import logging
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs
from numpy.typing import NDArray
from safetensors.numpy import load_file

from fewstep.measure.rollouts.record_sizes import (
    alternate_sizes,
    group_sizes,
    join_records,
    join_rows,
    record_shapes,
    select_records,
    sizes_of_conditions,
)
from fewstep.plans.errors import UserError, first_line
from fewstep.plans.guidance import COND
from fewstep.runtime.bundle import conditions
from fewstep.runtime.bundle.manifest import Body, Condition, Description, Size
from fewstep.runtime.kinds.sizes import apply_sizes, default_sizes, fit_lengths
from fewstep.runtime.tensor_file import check_header

LOG = logging.getLogger("fewstep")
ConditionRecords = Mapping[str, NDArray[Any]]  # [N, *shape] for each condition, by name; [N] arrays if shapes differ
SUFFIXES = (".npz", ".safetensors")
SAMPLES = "x"  # the name of samples in a file for `export --check`
PLACE = "/place"  # an array that is stored with records; no condition has this name
SEPARATOR = "."  # separates branch and condition in the name of an array
SHORT = 8  # characters of the digest of a record
LEAST_SPLIT = 16  # records of which a part judges; with fewer, ranges would lack too many
HELD_OUT_EVERY = 4  # of the records of each size, one of so many judges


@dataclass(frozen=True)
class GivenConditions:
    """Conditions of samples: given records, or None if all values are drawn by the seed. `random` names the conditions
    with drawn values that do not represent the user's data (`seeds.random_conditions`), and `fixed` those that have one
    value in all samples (`seeds.fixed_conditions`). `prompts` are the texts that the records encode, one for each;
    empty if they are from a file. `is_held_out` says that a calibration does not use these records. `digest` is that of
    all records that were given to it; "" without any. `calibrated` are the short digests of those that it uses."""

    records: ConditionRecords | None
    random: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    is_held_out: bool = False
    digest: str = ""
    calibrated: tuple[str, ...] = ()

    def distribute(self, samples: int, held_out: int = 0) -> "GivenConditions":
        """Return the records and prompts of `samples` samples (`distribute_records`). `held_out` is the number of given
        records that are left out, since they judge."""
        if self.records is None:
            return self
        places = np.arange(len(self.prompts))
        records = dict(
            distribute_records({**self.records, **({PLACE: places} if self.prompts else {})}, samples, held_out)
        )
        places = records.pop(PLACE, places)
        return replace(self, records=records, prompts=tuple(self.prompts[place] for place in places))

    def split_held_out(self) -> tuple["GivenConditions", "GivenConditions"]:
        """Return the records that calibrate, and those that judge: one of HELD_OUT_EVERY of each size. With fewer than
        LEAST_SPLIT records, both are all records."""
        if self.records is None:
            return self, self
        digests, keys = digest_each(self.records), record_shapes(self.records)
        given = replace(self, digest=digest_records(self.records), calibrated=digests)
        if len(keys) < LEAST_SPLIT:
            return given, given
        held_out, groups = set[int](), defaultdict[Hashable, list[int]](list)
        for place, key in enumerate(keys):
            groups[key].append(place)
        rng = np.random.default_rng(0)  # rows may repeat in a period, such as classes
        for places in groups.values():
            held_out.update(rng.permutation(places)[: len(places) // HELD_OUT_EVERY].tolist())
        own = [place for place in range(len(keys)) if place not in held_out]
        if not held_out:
            return given, given
        given = replace(given, calibrated=tuple(digests[place] for place in own))
        return given._select(own), replace(given._select(sorted(held_out)), is_held_out=True)

    def _select(self, places: Sequence[int]) -> "GivenConditions":
        """Return some of the records, with their prompts."""
        assert self.records is not None, "there are records to choose from"
        prompts = tuple(self.prompts[place] for place in places) if self.prompts else ()
        return replace(self, records=select_records(self.records, places), prompts=prompts)

    def sizes_of(self, takes: Description) -> list[dict[str, int]]:
        """Return the sizes of x that occur in the records, by name; those that no record gives have their default."""
        records = self.records or {}
        first = {shape: place for place, shape in reversed([*enumerate(record_shapes(records))])}
        chosen = [select_records(records, [place]) for place in first.values()]
        return [sizes_of_conditions(takes, record) for record in chosen] or [{}]

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


def read_conditions(path: Path, takes: Description) -> ConditionRecords:
    """Read the records in a file, or in all files of a folder, and check them against a denoiser's conditions. The
    sizes of samples alternate (`record_sizes.alternate`).

    Raises UserError if they do not match, and if a file has values for other branches of guidance, because those
    branches get null values here.
    """
    files = _leave_out_samples(path, read_files(path), takes.conditions)
    names = {condition.name for condition in takes.conditions}
    for file, arrays in files.items():
        if branches := [name for name in arrays if name not in names and SEPARATOR in name]:
            what = f"{file} has {branches[0]!r}, the values of a branch of guidance"
            fix = "write it without --negative, and give the null value at export: fewstep export --null"
            raise UserError(what, fix)
    for condition in takes.conditions:
        without = [file for file, arrays in files.items() if condition.name not in arrays]
        if without and conditions.is_null_by_default(condition):
            where = path.name if len(without) == len(files) else ", ".join(without)
            LOG.warning(
                "%s has no %s: all samples have its null value, and are not guided by it", where, condition.name
            )
    return join_records([_check_sized(file, arrays, takes) for file, arrays in files.items()])


def _check_sized(source: str, arrays: ConditionRecords, takes: Description) -> ConditionRecords:
    """Check the records of a file at the sizes of x that follow from their shapes."""
    sizes, usual = sizes_of_file(source, arrays, takes), default_sizes(takes.x_shape, takes.sizes)
    if takes.space.fixes_shape and {**usual, **sizes} != usual:
        what = f"{source} has values for {sizes}: this bundle samples tokens, and its plans work for one size only"
        raise UserError(what, f"give values for {usual}")
    return check_records(source, arrays, (apply_sizes(takes, sizes) if sizes else takes).conditions)


def sizes_of_file(source: str, arrays: ConditionRecords, takes: Description) -> dict[str, int]:
    """Return the free sizes of x that follow from the shapes of a file's arrays, by name. Raises UserError naming the
    file and the condition if they contradict each other, or are outside their ranges."""
    shapes = {
        condition.name: arrays[condition.name].shape[1:]
        for condition in takes.conditions
        if condition.follows and condition.name in arrays
    }
    try:
        sizes = sizes_of_conditions(takes, arrays)
        if sizes:
            apply_sizes(takes, sizes)
    except UserError as error:
        having = ", ".join(f"condition {name!r} has the shape {list(shape)}" for name, shape in shapes.items())
        raise UserError(f"{source}: {having}: {error.what}", error.fix) from error
    return sizes


def read_branches(
    path: Path, takes: Sequence[Condition], axes: Sequence[Size] = (), of_any_size: bool = False
) -> dict[str, ConditionRecords]:
    """Return the records of a file, or of all files of a folder, for each branch of guidance. Arrays of `COND` have no
    prefix. Conditions may be missing. Among the free sizes `axes`, each branch of each file may have lengths of texts
    of its own. Values may be `of_any_size` if they are cut into windows later.

    Raises UserError for an array that belongs to no condition, or of another shape or type, and if the files of a
    folder have different arrays.
    """
    named, branches = {condition.name: condition for condition in takes}, dict[str, dict[str, NDArray[Any]]]()
    files = _leave_out_samples(path, read_files(path), takes)
    first, arrays = next(iter(files.items()))
    for other in files:
        if files[other].keys() != arrays.keys():
            what = f"{first} and {other} have arrays of different names"
            raise UserError(what, "give every file of the folder the same arrays")
    for name in arrays:
        branch, _, rest = (COND, "", name) if name in named else name.partition(SEPARATOR)
        if rest not in named:
            has = f"it takes {', '.join(map(repr, named))}" if named else "it takes none"
            raise UserError(f"{path.name} has {name!r}, which is not a condition of this denoiser", has)
        given = [(file, {rest: own[name]}) for file, own in files.items()]
        parts = [
            check_records(
                file, own, [_resize(named[rest], own)] if of_any_size else fit_lengths([named[rest]], own, axes)
            )[rest]
            for file, own in given
        ]
        branches.setdefault(branch, {})[rest] = join_rows(parts)
    return {**branches}


def _resize(condition: Condition, own: ConditionRecords) -> Condition:
    """Return a condition with the size of its records, if they have as many axes."""
    shape = own[condition.name].shape[1:]
    return structs.replace(condition, shape=shape) if len(shape) == len(condition.shape) else condition


def list_files(path: Path) -> list[Path]:
    """Return the path of a file, or those of every .npz and .safetensors in a folder, by name. Raises UserError for a
    folder without any."""
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES) if path.is_dir() else [path]
    if not files:
        what = f"the folder {path} has no file of conditions"
        raise UserError(what, "give it .npz or .safetensors files with an array [N, *shape] for each condition")
    return files


def read_files(path: Path) -> dict[str, ConditionRecords]:
    """Read the arrays of `list_files`, by the name of the file. Each file has at least one array."""
    read = {file.name: read_arrays(file) for file in list_files(path)}
    for name, arrays in read.items():
        if not arrays:
            raise UserError(f"{name} has no arrays", "give an array [N, *shape] for each condition")
    return read


def _leave_out_samples(
    path: Path, files: Mapping[str, ConditionRecords], takes: Sequence[Condition]
) -> dict[str, ConditionRecords]:
    """Return the arrays without x, which a file for `export --check` or `verify --data` has besides the conditions."""
    if any(condition.name == SAMPLES for condition in takes) or not any(SAMPLES in arrays for arrays in files.values()):
        return dict(files)
    LOG.warning("%s has samples, x: only its conditions are used", path.name)
    return {file: {name: array for name, array in own.items() if name != SAMPLES} for file, own in files.items()}


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


def distribute_records(records: ConditionRecords, samples: int, held_out: int = 0) -> ConditionRecords:
    """Return a record for each of `samples` samples: evenly spread over the file and over the sizes of its records, or
    repeated if the file has fewer. `held_out` further records judge."""
    count = len(next(iter(records.values()))) if records else samples
    if count < samples:
        said = "%d records of conditions serve %d samples%s: each is used more than once"
        LOG.warning(said, count, samples, f", and {held_out} others judge" if held_out else "")
        return select_records(records, np.arange(samples) % count)
    return alternate_sizes(select_records(group_sizes(records), np.arange(samples) * count // samples))


def digest_records(records: ConditionRecords) -> str:
    """Return the SHA-256 of the names, types, shapes and values of records."""
    known = sha256()
    for name, array in sorted(records.items()):
        for part in array if array.dtype == object else [array]:
            known.update(f"{name} {part.dtype} {part.shape}".encode() + np.ascontiguousarray(part).tobytes())
    return known.hexdigest()


def digest_each(records: ConditionRecords) -> tuple[str, ...]:
    """Return a short digest of each record."""
    count = len(next(iter(records.values()), ()))
    return tuple(digest_records(select_records(records, [place]))[:SHORT] for place in range(count))


def describe_seen_records(bodies: Mapping[str, Body], records: ConditionRecords | None) -> Iterator[str]:
    """Yield a sentence on the bodies that some of the same records calibrated, which judge them too kindly."""
    digests, whole = (digest_each(records), digest_records(records)) if records else ((), "")
    names_of = defaultdict[int, list[str]](list)
    for name, body in bodies.items():
        calibrated = {digest for trial in body.trials for digest in trial.calibrated}
        is_alike = not calibrated and any(trial.given == whole for trial in body.trials)  # of an earlier version
        names_of[len(digests) if is_alike else sum(digest in calibrated for digest in digests)].append(name)
    for count, names in sorted(names_of.items()):
        if count:
            whose, which = "it" if len(names) == 1 else "them", "all" if count == len(digests) else str(count)
            said = f"{', '.join(names)}: {which} of the {len(digests)} records that judge calibrated {whose} too"
            yield f"{said}: give others (--conditions or --prompts)"


def check_file(path: Path) -> None:
    """Raise UserError unless the path is a file."""
    if path.is_dir():
        raise UserError(f"{path} is a folder", "write its contents into one .npz, as docs/your_model.md does")
    if not path.is_file():
        raise UserError(f"there is no file {path}", "check the path")


def _load(path: Path) -> dict[str, NDArray[Any]]:
    check_file(path)
    fix = "write it with numpy.savez(FILE, NAME=ARRAY) or safetensors.numpy.save_file({NAME: ARRAY}, FILE)"
    if path.suffix not in SUFFIXES:
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
