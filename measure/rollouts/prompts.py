"""The options that give conditions: files of values, and prompts, which the text encoder of the bundle encodes."""

import logging
import os.path
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fewstep.measure.rollouts.conditions_file import (
    ConditionRecords,
    GivenConditions,
    check_records,
    read_arrays,
    read_conditions,
)
from fewstep.measure.rollouts.pictures import picture_axes
from fewstep.measure.rollouts.record_sizes import join_rows
from fewstep.measure.rollouts.seeds import FIRST_SEED, draw_condition, fixed_conditions, random_conditions
from fewstep.plans.errors import UserError
from fewstep.runtime.arrays import Arrays
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.companions import TEXT_ENCODER
from fewstep.runtime.kinds.sizes import fit_lengths
from fewstep.runtime.options import Options

LOG = logging.getLogger("fewstep")
FILE_LIMIT = 16 * 2**20  # maximum bytes of a file of prompts
FORMS = (
    "a photograph of {}",
    "a close-up of {}, shallow depth of field",
    "an oil painting of {}",
    "a pencil drawing of {}",
    "{}, seen from far above",
    "{} at night, in the rain",
    "{}, wide angle, highly detailed",
    "a poster of {} in flat colours",
)
SUBJECTS = (
    "a cat on a windowsill",
    "a street market full of people",
    "a red bicycle against a brick wall",
    "mountains behind a lake",
    "an old man with a white beard",
    "a bowl of fruit",
    "a robot that plays chess",
    "a lighthouse in a storm",
)
OTHER_SUBJECTS = (
    "two dogs on a beach",
    "a steam train on a bridge",
    "a young woman with a green hat",
    "a desert with cactuses",
    "a cup of coffee and a book",
    "a castle on a hill",
    "a whale under the ice",
    "a kitchen with copper pans",
)
CALIBRATION = tuple(form.format(subject) for subject, form in product(SUBJECTS, FORMS))
HELD_OUT = tuple(form.format(subject) for subject, form in product(OTHER_SUBJECTS, FORMS))


@dataclass(frozen=True, kw_only=True)
class ConditionOptions(Options):
    """Conditions of samples.

    conditions: Values of the conditions, .npz or .safetensors, with an array [N, *shape] for each by name, or a folder
        of such files, whose sizes may differ. Judge on others than you calibrate on. Default: random values.
    prompts: A text file of prompts, one per line, for a bundle with a text encoder. Judge on others than you calibrate
        on. Default: prompts that come with fewstep.
    """

    conditions: Path | None = None
    prompts: Path | None = None

    def calibration_conditions(self, bundle: Bundle) -> GivenConditions:
        """Return the conditions to calibrate on, by `given_conditions`."""
        return given_conditions(bundle, self.conditions, self.prompts, CALIBRATION)

    def held_out_conditions(self, bundle: Bundle) -> GivenConditions:
        """Return the conditions for the comparison with float32, by `given_conditions`."""
        return given_conditions(bundle, self.conditions, self.prompts, HELD_OUT)

    def timing_conditions(self, bundle: Bundle) -> ConditionRecords | None:
        """Return a record to time calls with, or None if the conditions of a timing are drawn."""
        if self.conditions is None and bundle.manifest.text is not None:
            prompts = HELD_OUT if self.prompts is None else read_prompts(self.prompts)
            return encode_prompts(bundle, prompts[:1])
        return self.held_out_conditions(bundle).records


def given_conditions(
    bundle: Bundle, conditions: Path | None, prompts: Path | None, shipped: Sequence[str]
) -> GivenConditions:
    """Return the records from a file of conditions and a file of prompts, combined row by row if both are given.

    Without both, a bundle with a text encoder uses the `shipped` prompts, with a warning; other bundles have no
    records. Conditions that neither file sets have their default, or are drawn.
    """
    takes, text = bundle.manifest.conditions, bundle.manifest.text
    if prompts is None and (text is None or conditions is not None):
        if conditions is None:
            return GivenConditions(None, random_conditions(takes), fixed_conditions(takes, None))
        given = read_conditions(conditions, bundle.manifest)
        return GivenConditions(given, fixed=fixed_conditions(takes, given))
    if prompts is None:
        words = "no prompts are given: using %d that come with fewstep; --prompts FILE takes yours"
        LOG.warning(words, len(shipped))
    lines = shipped if prompts is None else read_prompts(prompts)
    records = {} if conditions is None else read_arrays(conditions)
    for name, array in records.items():
        if len(array) != len(lines):
            what = f"{len(lines)} prompts, and {len(array)} rows of {name!r}"
            raise UserError(what, "give the same number of both: row i belongs to prompt i")
    encoded = text.encoded if text else frozenset()
    drawn = [
        condition for condition in takes if condition.default is None and condition.name not in {*records, *encoded}
    ]
    given = encode_prompts(bundle, lines, records)
    fixed = fixed_conditions(takes, given)
    if not encoded <= set(fixed):  # the texts differ, and a mask is equal for those of one length
        fixed = tuple(name for name in fixed if name not in encoded)
    return GivenConditions(given, random_conditions(drawn), fixed, tuple(lines))


def encode_prompts(
    bundle: Bundle, prompts: Sequence[str], records: ConditionRecords = MappingProxyType({})
) -> ConditionRecords:
    """Return a record for each prompt. Conditions set by neither prompts nor `records` have their default, or are
    drawn."""
    from fewstep.runtime.text import open_text_encoder  # few denoisers have text

    text, parts = open_text_encoder(bundle), list[Arrays]()
    rows = range(len(prompts))
    for group in [rows[row : row + 1] for row in rows] if text.has_lengths else [rows]:
        place = slice(group.start, group.stop)
        own = _draw_missing(bundle, {name: array[place] for name, array in records.items()}, group, text.reads)
        read = {name: own[name] for name in text.reads}
        parts.append(_complete_records(bundle, {**own, **text.encode(prompts[place], conditions=read)}, group))
    return {name: join_rows([part[name] for part in parts]) for name in parts[0]}


def _complete_records(bundle: Bundle, values: dict[str, Any], rows: Sequence[int]) -> Arrays:
    """Return records with the conditions that `values` lacks, drawn for the numbers of these rows unless they have a
    default."""
    takes = bundle.manifest.conditions
    values = _draw_missing(bundle, values, rows, [condition.name for condition in takes if condition.default is None])
    return check_records("the prompts", values, fit_lengths(takes, values, bundle.manifest.sizes))


def _draw_missing(bundle: Bundle, values: dict[str, Any], rows: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """Return values with those of the conditions `names` that they lack, drawn for the numbers of these rows."""
    takes, axes = bundle.manifest.conditions, picture_axes(bundle.manifest)
    drawn = {
        condition.name: np.stack([draw_condition(condition, number, FIRST_SEED + row, axes) for row in rows])
        for number, condition in enumerate(takes)
        if condition.name in names and condition.name not in values
    }
    return {**values, **drawn}


def records_of_body(
    bundle: Bundle, body: str, records: ConditionRecords | None, prompts: Sequence[str]
) -> ConditionRecords | None:
    """Return the records of `prompts` as a body runs with them: encoded by its own text encoder, if it has one."""
    from fewstep.runtime.prompts import encode_rows
    from fewstep.runtime.text import open_text_encoder

    if records is None or not prompts or TEXT_ENCODER not in bundle.body(body).replaces:
        return records
    text = open_text_encoder(bundle.with_graphs_of(body))
    encoded = encode_rows(text, prompts, text.encode, {name: [*records[name]] for name in text.reads})
    return {**records, **{name: join_rows([row[None] for row in rows]) for name, rows in encoded.items()}}


def expand_prompts(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the prompts of a command: "@FILE" stands for the lines of a file. Raises UserError for a file that cannot
    be read, and for a prompt that is the name of a file."""
    prompts: list[str] = []
    for text in texts:
        if text.startswith("@") and not os.path.isfile(text[1:]):
            raise UserError(f"there is no file {text[1:]}", "check it, or begin a prompt with a space before its @")
        if text.startswith("@"):
            prompts += read_prompts(Path(text[1:]))
        elif text.endswith(".txt") and os.path.isfile(text):
            raise UserError(f"prompt {text!r} is the name of a file", f"give @{text} for its lines")
        else:
            prompts.append(text)
    return tuple(prompts)


def read_prompts(path: Path) -> list[str]:
    """Return the prompts of a file, one per line; empty lines are skipped."""
    fix = "write one prompt per line, in UTF-8"
    if not path.is_file():
        raise UserError(f"there is no file {path}", "check the path after --prompts")
    if path.stat().st_size > FILE_LIMIT:
        raise UserError(f"{path.name} is larger than {FILE_LIMIT} bytes", fix)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name} cannot be read ({error})", fix) from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"{path.name} has no prompt", fix)
    return prompts
