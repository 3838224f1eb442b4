"""Records of `--conditions`, joined with the conditions of the command line."""

from collections.abc import Mapping
from dataclasses import replace

from fewstep.cli.run.options import RunOptions
from fewstep.measure.rollouts.conditions_file import read_branches
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.prompts import Values


def add_records(
    options: RunOptions, own: Values, manifest: Manifest
) -> tuple[RunOptions, Values, Mapping[str, Values]]:
    """Add the records of --conditions to the conditions of other options. Return the options with the number of samples
    filled in, the conditions, and the conditions of other branches by branch name."""
    if options.conditions is None:
        return options, own, {}
    branches = read_branches(options.conditions, manifest.conditions)
    records: Values = {name: list(array) for name, array in branches.get(COND, {}).items()}
    if twice := sorted(set(records) & set(own)):
        raise UserError(f"condition {twice[0]!r} is given twice: {options.conditions} has it too", "give it once")
    others: dict[str, Values] = {
        branch: {name: list(array) for name, array in each.items()}
        for branch, each in branches.items()
        if branch != COND
    }
    if options.samples is None and not options.prompts:
        rows = next(len(array) for each in branches.values() for array in each.values())  # all have equally many
        options = replace(options, samples=rows)
    return options, {**own, **records}, others
