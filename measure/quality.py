"""Measure the quality of bodies, compared with float32 sample by sample and as sets."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from fewstep.measure.bodies import graph_files
from fewstep.measure.body_backends import inference_engine_of
from fewstep.measure.cost import BATCH
from fewstep.measure.judge import Judgements, judge
from fewstep.measure.judged_task import JudgedTask
from fewstep.measure.judges.trial import try_judge
from fewstep.measure.results import Distance, ExtractorFacts, Quality, Results
from fewstep.measure.rollouts.data_distance import TeacherDistance, compare_with_teacher
from fewstep.measure.rollouts.size_quality import qualities_by_size, shapes_of_records
from fewstep.measure.tally import JudgementRequest
from fewstep.measure.workers.job import Workers
from fewstep.runtime.bundle.figures import SizeQuality
from fewstep.runtime.progress import Progress

if TYPE_CHECKING:
    from fewstep.measure.distances.features import Extractor


def measure_quality(
    results: Results, task: JudgedTask, progress: Progress, workers: Workers | None
) -> tuple[Results, Judgements]:
    """Compare each body with float32. Return `results` with the quality of each body filled in, and the judgements from
    which it is computed."""
    if task.judge is not None:
        try_judge(task.judge, task.reference, task.plan, task.records)
    sampling, extractor = task.open_sampling(workers), task.extractor
    teacher = (
        None
        if task.teacher is None
        else task.find_teacher(task.teacher_sample_count, progress, sampling.sample_in_parts)
    )
    extract = None if extractor is None else extractor.extract
    plan = None if teacher is None else teacher.plan
    want = JudgementRequest(
        teacher=plan,
        teacher_sample_count=task.teacher_sample_count,
        extract=extract,
        featured=task.featured,
        samples=task.keeps_samples,
    )
    judgements = judge(sampling.answers, task.contenders, task.plan, task.held_out_batches, task.count, want, progress)
    features, sets = (None, {}) if extractor is None else _measure_distances(task, extractor, judgements, progress)
    results = msgspec.structs.replace(
        results,
        teacher=teacher.plan.name if teacher else None,
        teacher_check=teacher.check if teacher else None,
        teacher_distance=_teacher_distance(results, task, judgements),
        float_against_teacher=judgements.reference.against_teacher,
        features=features,
        qualities=tuple(
            Quality(
                body=contender.name,
                target=task.bodies[contender.name].target,
                computed_by=inference_engine_of(task.bodies[contender.name]),
                against_float=judgement.against_float,
                against_teacher=judgement.against_teacher,
                steps=judgement.steps,
                forced_seeds=contender.forced_seeds,
                tokens=judgement.tokens,
                distances=sets.get(contender.name, ()),
                graphs=graph_files(task.bodies[contender.name]),
                reference=judgement.check,
                judged=task.score(judgement.samples, judgement.reference),
                by_size=_qualities_by_size(task, judgement.against_float.values),
            )
            for contender in task.contenders
            if (judgement := judgements.bodies[contender.name]).against_float is not None
        ),
    )
    return results, judgements


def _qualities_by_size(task: JudgedTask, values: Sequence[float]) -> tuple[SizeQuality, ...]:
    """Return the quality of the first seeds at each size that their records give them. `values` are the PSNR in dB."""
    manifest = task.bundle.manifest
    if task.records is None or not (shapes := shapes_of_records(task.records, manifest)) - {manifest.x_shape}:
        return ()
    batches = task.held_out_batches(range(len(values)), BATCH)
    of_seeds = [batch.x_shape for batch in batches for _ in batch.seeds]
    return qualities_by_size(manifest, of_seeds, range(len(values)), values, shapes)


def _teacher_distance(results: Results, task: JudgedTask, judgements: Judgements) -> TeacherDistance | None:
    """Return the distances of the teacher's samples and of float32's from the data. None if samples of these conditions
    differ from the data without a fault, and without samples or statistics of the data."""
    moments = task.reference.bundle.manifest.data_moments
    judged, teacher = judgements.reference.samples, judgements.teacher
    is_other = bool(results.random_conditions or results.fixed_conditions)
    if moments is None or is_other or not len(teacher) or len(judged) < len(teacher) or judged.dtype == object:
        return None
    return compare_with_teacher(judged, teacher, moments)


def _measure_distances(
    task: JudgedTask, extractor: "Extractor", judgements: Judgements, progress: Progress
) -> tuple[ExtractorFacts, dict[str, tuple[Distance, ...]]]:
    """Return the extractor, and the distances of each body to float32 samples from other seeds and to the data."""
    from fewstep.measure.distances.set_distances import (  # imported only here, since a page compares no sets
        extract_features,
        extractor_facts,
        measure_distances,
    )

    sets = {f"float32, {task.plan.name}, other seeds": judgements.apart}
    if task.data is not None:
        sets[task.data.name] = extract_features(task.data, extractor, progress)
    features = {name: judgement.features for name, judgement in judgements.bodies.items()}
    floats = judgements.reference.features
    return extractor_facts(extractor, floats), measure_distances(floats, features, sets, task.resamples, progress)
