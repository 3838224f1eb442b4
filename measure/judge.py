"""Compare bodies with float32: float32 and contenders sample the same held-out seeds, and are compared sample by sample
and as sets.

Work is split into `Question`s, each about a batch of seeds. The process that has the bodies open answers them: this
process, or worker processes. Results are added in the order of the batches, so they do not depend on which process
answers. Only one batch of samples is in memory, unless all samples are requested.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.cost import BATCH
from fewstep.measure.judged_batch import JudgedBatch
from fewstep.measure.judged_run import Contender
from fewstep.measure.rollouts.seeds import APART, SeedBatch
from fewstep.measure.sample_space import judging_of
from fewstep.measure.sampling import FEW, FLOAT, SampledBatch
from fewstep.measure.tally import NOTHING, Judgement, JudgementRequest, Tally, concatenate, concatenate_rows
from fewstep.plans.any_plan import AnyPlan, regroup
from fewstep.plans.errors import UserError
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampling.execute import Array

Ask = Callable[[Iterable[Any]], Iterator[Any]]  # a function that answers `Question`s, in order
Batches = Callable[[range, int], Iterable[SeedBatch]]  # splits seeds, in order, into batches of at most this size


@dataclass(frozen=True)
class Judgements:
    """The result of `judge`: the teacher's samples, the judgement of float32 along the plan of the comparison, and that
    of each contender. `apart` holds the features of float32 samples from other seeds. Fields that were not requested
    are empty."""

    teacher: Array
    reference: Judgement
    bodies: Mapping[str, Judgement]
    apart: NDArray[np.floating]


def judge(
    ask: Ask,
    contenders: Sequence[Contender],
    plan: AnyPlan,
    batches: Batches,
    count: int,
    want: JudgementRequest,
    progress: Progress = SILENT,
    batch: int = BATCH,
) -> Judgements:
    """Judge bodies against float32 along a plan, and against the teacher, on the seeds 0 .. count - 1.

    A contender may use fewer seeds, but at least those whose features are requested, since sets are compared on the
    same seeds. For tokens, one contender must use all seeds (`Judging.covers`). Raises UserError for other numbers of
    seeds.
    """
    teacher_count, seeds = (
        want.teacher_sample_count if want.teacher is not None else 0,
        [contender.seeds for contender in contenders],
    )
    least = max(1, min(count, want.featured))
    judging = judging_of(plan)
    if (
        not judging.covers(count, seeds)
        or teacher_count > count
        or not all(least <= number <= count for number in seeds)
    ):
        what = f"bodies have {seeds} seeds, and the teacher {teacher_count}, but there are {count} in all"
        raise UserError(what, f"give the teacher at most {count} seeds, and each body {least} to {count}")
    sampled, teacher = partial(_sample_bodies, ask, batches, progress), NOTHING
    if want.teacher is not None:
        stage = f"teacher {want.teacher.name}"
        drawn = sampled({FLOAT: want.teacher}, range(teacher_count), FEW, stage)
        teacher = concatenate_rows([samples for _, samples in drawn])
    plans = {FLOAT: plan, **{contender.name: contender.plan or plan for contender in contenders}}
    grouped = {
        FLOAT: plan,
        **{contender.name: regroup(plans[contender.name], contender.groups) for contender in contenders},
    }
    tallies = {name: Tally(want, teacher, along, name == FLOAT) for name, along in grouped.items()}
    parts = [*batches(range(count), judging.batch_size(plan, batch))]
    present = (tuple(contender for contender in contenders if part.seeds[0] < contender.seeds) for part in parts)
    answers = ask(JudgedBatch(plan, bodies, part) for part, bodies in zip(parts, present, strict=True))
    for part, runs in zip(parts, answers, strict=True):
        for name, run in runs.items():
            tallies[name].add(run)
        progress("judging", part.seeds[-1] + 1, count)
    apart = list[NDArray[np.floating]]()
    if want.extract is not None:
        for name, samples in sampled(plans, range(count, want.featured), batch, "samples of sets"):
            tallies[name].add_features(samples)
        for _, samples in sampled({FLOAT: plan}, APART[: want.featured], batch, "other float32 samples"):
            apart.append(want.extract(samples))
    judgements = {name: tally.judgement() for name, tally in tallies.items()}
    return Judgements(teacher, judgements.pop(FLOAT), judgements, concatenate(apart))


def _sample_bodies(
    ask: Ask, batches: Batches, progress: Progress, plans: Mapping[str, AnyPlan], seeds: range, batch: int, stage: str
) -> Iterator[tuple[str, Array]]:
    """Yield (body name, samples) for each body, sampled along its own plan, one batch of seeds at a time."""
    asked = list(product(batches(seeds, batch), plans))
    answers = ask(SampledBatch(name, plans[name], part) for part, name in asked)
    for (part, name), samples in zip(asked, answers, strict=True):
        yield name, samples
        progress(stage, part.seeds[-1] + 1 - seeds.start, len(seeds))
