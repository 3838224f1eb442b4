"""Records of conditions for the three uses of a fit: its judge sees none that a number was fitted or chosen on."""

import logging
from dataclasses import dataclass
from pathlib import Path

from fewstep.fitting.blocks import BLOCK
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.prompts import CALIBRATION, HELD_OUT, encode_prompts, given_conditions
from fewstep.runtime.bundle.reading import Bundle

LOG = logging.getLogger("fewstep")
USES = 3


@dataclass(frozen=True)
class FitConditions:
    """Records [N, *shape] of each condition for the fit, for its choices and for its judgement. None: values are drawn
    by the seed."""

    fit: ConditionRecords | None
    selection: ConditionRecords | None
    judge: ConditionRecords | None


def fit_conditions(bundle: Bundle, conditions: Path | None, prompts: Path | None) -> FitConditions:
    """Own records in three parts, or the prompts that come with fewstep: calibration's for the fit and its choices, the
    held-out ones for the judgement.

    Fewer own records than a block for each use serve all three, with a warning.
    """
    own = given_conditions(bundle, conditions, prompts, CALIBRATION).records
    if own is None:
        return FitConditions(None, None, None)
    if conditions is None and prompts is None:
        return FitConditions(own, own, encode_prompts(bundle, HELD_OUT))
    count = min(map(len, own.values()), default=0)
    if count < USES * BLOCK:
        LOG.warning(
            "the fit, its choices and its judgement share %d rows of conditions; from %d rows on each has its own",
            count,
            USES * BLOCK,
        )
        return FitConditions(own, own, own)
    return FitConditions(*({name: array[part::USES] for name, array in own.items()} for part in range(USES)))
