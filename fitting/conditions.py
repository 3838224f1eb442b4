"""Records of conditions for the three uses of a fit. The judgement uses no record that the fit or its choices used."""

import logging
from dataclasses import dataclass
from pathlib import Path

from fewstep.fitting.blocks import BLOCK
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.prompts import CALIBRATION, HELD_OUT, encode_prompts, given_conditions
from fewstep.measure.rollouts.record_sizes import records_of_one_size, sizes_of_conditions
from fewstep.runtime.bundle.reading import Bundle

LOG = logging.getLogger("fewstep")
USES = 3


@dataclass(frozen=True)
class FitConditions:
    """The records of conditions for fitting, for selecting plans, and for judging the result. Each is None if the seeds
    alone determine the conditions."""

    fit: ConditionRecords | None
    selection: ConditionRecords | None
    judge: ConditionRecords | None


def fit_conditions(bundle: Bundle, conditions: Path | None, prompts: Path | None) -> FitConditions:
    """Split the user-supplied records into three parts: for the fit, for selecting plans, and for judging the result.
    Without records, the prompts that come with fewstep are used: the calibration prompts for the first two, and the
    held-out prompts for the third.

    If samples differ in size, only the records of the most frequent size are used, with a warning. If there are fewer
    records than one block for each use, all three uses share them, with a warning. Another warning names conditions
    with random values, or with one value only.
    """
    given = given_conditions(bundle, conditions, prompts, CALIBRATION)
    for note in given.notes:
        LOG.warning("the fit is %s", note)
    records = records_of_one_size(given.records)
    if given.records and records and len(given.sizes_of(bundle.manifest)) > 1:
        count, total = (len(next(iter(arrays.values()))) for arrays in (records, given.records))
        size = ", ".join(f"{name} {size}" for name, size in sizes_of_conditions(bundle.manifest, records).items())
        LOG.warning("the fit needs samples of one size: it uses the %d of %d records of %s", count, total, size)
    if records is None:
        return FitConditions(None, None, None)
    if conditions is None and prompts is None:
        return FitConditions(records, records, encode_prompts(bundle, HELD_OUT))
    count = min(map(len, records.values()), default=0)
    if count < USES * BLOCK:
        LOG.warning(
            "fitting, selecting and judging plans share %d records of conditions; give %d or more to separate them",
            count,
            USES * BLOCK,
        )
        return FitConditions(records, records, records)
    return FitConditions(*({name: array[part::USES] for name, array in records.items()} for part in range(USES)))
