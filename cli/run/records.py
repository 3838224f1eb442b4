"""Rows of files of conditions: those of `--condition`, and records of `--conditions`, joined with the others."""

from collections.abc import Mapping
from dataclasses import replace

from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.tiles import refuse_long
from fewstep.measure.rollouts.conditions_file import read_branches, read_files, sizes_of_file
from fewstep.measure.rollouts.record_sizes import sizes_of_conditions
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.prompts import Values


def names_of_files(options: RunOptions) -> list[str]:
    """Return the conditions that --condition reads from files."""
    return list(dict.fromkeys(text.partition("=")[0] for text in options.condition if "=@" in text))


def count_rows(options: RunOptions, own: Values) -> RunOptions:
    """Return the options with as many samples as a name of --condition has values, or as the longest of its files has
    rows, unless --samples, prompts or --conditions decide."""
    rows = max(map(len, own.values()), default=0)
    if not rows or options.samples is not None or options.prompts or options.conditions is not None:
        return options
    return replace(options, samples=rows)


def sizes_of_records(options: RunOptions, manifest: Manifest) -> dict[str, int]:
    """Return the sizes of x that follow from the records of --conditions; none if --size gives them, or there are no
    records. Lengths of texts are left out, since each sample may have another. Raises UserError if the files of a
    folder give several sizes."""
    of_x = {size.name for size in manifest.sizes if size.axis is not None}
    if options.conditions is None or options.size or options.tiles is not None or not of_x:
        return {}
    read = read_files(options.conditions)
    for file, arrays in read.items():
        refuse_long(sizes_of_conditions(manifest, arrays), manifest, f"{file}: ")
    files = [
        (file, {name: size for name, size in sizes_of_file(file, arrays, manifest).items() if name in of_x})
        for file, arrays in read.items()
    ]
    (first, sizes), *others = files
    for file, other in others:
        if other != sizes:
            given = " and ".join(f"{name} gives {_describe(each)}" for name, each in ((first, sizes), (file, other)))
            raise UserError(f"{given}, but one run writes samples of one size", "run each file by itself")
    return sizes


def _describe(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items()) or "no size"


def add_records(
    options: RunOptions, own: Values, manifest: Manifest
) -> tuple[RunOptions, Values, Mapping[str, Values]]:
    """Add the records of --conditions to the conditions of other options. Return the options with the number of samples
    filled in, the conditions, and the conditions of other branches by branch name."""
    if options.conditions is None:
        return options, own, {}
    is_tiled = options.tiles is not None  # each window takes its part of a value
    branches = read_branches(options.conditions, manifest.conditions, manifest.sizes, of_any_size=is_tiled)
    records: Values = {name: list(array) for name, array in branches.get(COND, {}).items()}
    if twice := sorted(set(records) & set(own)):
        raise UserError(f"condition {twice[0]!r} is given twice: {options.conditions} has it too", "give it once")
    others: dict[str, Values] = {
        branch: {name: list(array) for name, array in each.items()}
        for branch, each in branches.items()
        if branch != COND
    }
    if options.samples is None and not options.prompts:
        rows = next(len(array) for branch in branches.values() for array in branch.values())  # all have equally many
        options = replace(options, samples=rows)
    return options, {**own, **records}, others
