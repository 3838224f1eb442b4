"""The text output of `measure`, `report` and `demo`: the planned work, and the measurements of a bundle as a table."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from rich.filesize import decimal
from rich.table import Table

from fewstep.cli.next_command import NextCommand, report_next, suggest_advice
from fewstep.cli.outcome import Outcome
from fewstep.cli.tables import table
from fewstep.graph.resource_needs import check_memory, format_duration
from fewstep.measure.measurement import MeasureTask
from fewstep.measure.results import Quality, Results, decode
from fewstep.measure.rollouts.prompts import ConditionOptions
from fewstep.measure.rollouts.size_quality import describe_qualities
from fewstep.measure.speed.race import describe_measure, describe_times
from fewstep.measure.workers.setup import describe_shared_work, warn_of_workers
from fewstep.plans.any_plan import plan_headline
from fewstep.report.advice import advice
from fewstep.report.call_time import describe_call, valid_calls
from fewstep.report.sections.quality import NO_SSIM, NONE, teacher_notes
from fewstep.report.verdict import describe_distances, list_warnings
from fewstep.runtime.bundle.reading import Bundle, open_bundle

TOKENS = (
    "differ: share of masked positions whose most likely token differs from float32's, at float32's states; "
    "same: share of equal tokens in the finished samples"
)
IMAGE_AXES = 3  # channels, height, width


def describe_work(task: MeasureTask, output: Path | None, written: Sequence[int]) -> Outcome:
    """Describe the work of a measurement, with its time and memory. `written` are the sizes of its files in bytes."""
    bundle, judged, expected = task.bundle.path, task.judged, task.estimate()
    value: dict[str, object] = {"bundle": bundle}
    lines = list[str]()
    if judged is not None:
        extractor, seeds = judged.extractor, {contender.name: contender.seeds for contender in judged.contenders}
        needed = judged.needs(*written)
        check_memory(needed, bundle)
        warn_of_workers(judged.setup)
        value |= {
            "plan": task.plan.name,
            "seeds": seeds,
            "features": extractor and extractor.name,
            "samples": max(judged.count, judged.featured if extractor else 0),
            "evaluations": expected.evaluations,
            "seconds": expected.sampling,
            "needs": needed,
        }
        bodies = ", ".join(f"{name} on {count} seeds" for name, count in seeds.items())
        lines += [plan_headline(task.plan), f"would judge {bodies}, against float32 along the same plan"]
        if judged.teacher is not None:
            lines.append(
                f"would sample {judged.teacher_sample_count} of the seeds with the teacher, {judged.teacher.name}"
            )
        if extractor is not None:
            lines.append(
                f"would sample {judged.featured} seeds with each body, and the same number of other seeds in float32, "
                f"for FD({extractor.name})"
            )
        doubt = ", if this teacher suffices" if judged.teacher is not None and judged.teacher_reference is None else ""
        lines.append(
            f"{expected.evaluations} evaluations of one sample (both branches of guidance count as one) take about "
            f"{format_duration(expected.sampling)} at float32's speed here{doubt}"
        )
        lines += [*describe_shared_work(judged.setup), needed.describe(bundle)]
    if task.timed is not None:
        value["timing_seconds"] = expected.timing
        lines.append(f"timing takes {format_duration(expected.timing)}; the machine should be idle meanwhile")
    if judged is not None or output is not None:
        lines.append(f"would write {output or bundle / 'report'}")
    return Outcome(value, tuple(lines))


def format_results(results: Results, bundle: Path) -> Iterator[str | Table]:
    """Yield the advice, the table of measurements, and the conclusions, in the order in which they are printed."""
    if (advised := advice(results, open_bundle(bundle), bundle)) is not None:
        yield advised.verdict
    if results.qualities or results.sizes:
        yield results_table(results, is_image=len(open_bundle(bundle).manifest.x_shape) == IMAGE_AXES)
    for quality in results.qualities:
        if quality.by_size:
            yield f"{quality.body} by size: {describe_qualities(quality.by_size)}"
    timed = [timing.name for race in results.races for timing in race.timings]
    yield from describe_calls(open_bundle(bundle), results, [*timed, *(body.body for body in results.qualities)])
    yield from (line for call in results.calls for line in call.networks)
    yield from (f"{call.body}, {line}" for call in results.calls for line in call.in_float32)
    yield from teacher_notes(results)
    yield from list_warnings(results)
    yield from describe_distances(results)


def describe_calls(bundle: Bundle, results: Results, names: Sequence[str]) -> Iterator[str]:
    """Yield the lines on the time of a whole call with these bodies: of a report or else, of their calibration."""
    measured = {call.body: call.time for call in results.calls}
    for call in valid_calls(bundle.manifest):
        if call.body in names:
            yield describe_call(measured.get(call.body) or call, bundle.body(call.body))


def suggest_after_measure(results: Results, bundle: Path, given: ConditionOptions | None = None) -> NextCommand:
    """Return the command that reduces the largest loss of quality. If none was measured, it is that of the bundle's
    report, or `report` if there is none. `given` are the options of the measurement."""
    opened = open_bundle(bundle)
    advised = advice(results, opened, bundle)
    stored = opened.manifest.results
    if advised is None and stored is not None and getattr(given, "plan", None) is None:
        with suppress(msgspec.DecodeError):  # results of a later version
            advised = advice(decode(opened.read(stored)), opened, bundle)
    return report_next(bundle, given) if advised is None else suggest_advice(advised, bundle, given)


def results_table(results: Results, is_image: bool = True) -> Table:
    """Return a table of measurements with one row per body. The caption explains a missing SSIM only if the samples are
    images."""
    bodies = {body.body: body for body in results.qualities}
    of_tokens = any(body.tokens for body in results.qualities)
    heads_of_quality = ("differ", "same") if of_tokens else ("PSNR", "p5", "signal", "SSIM", "p5")
    judged = next((body.judged for body in results.qualities if body.judged is not None), None)
    quality = heads_of_quality if bodies else ()
    scores = () if judged is None else ("score",)
    distances = ("FD", "FD of float32") if results.features else ()
    covered, of_calls = ("int8",) if results.covered else (), _counts_calls(results)
    sizes = ("size",) if results.sizes else ()
    timed = [timing.name for race in results.races for timing in race.timings]
    rows = [
        (
            name,
            *[_score(bodies.get(name))][: len(scores)],
            *_quality(bodies.get(name))[: len(quality)],
            *_distances(bodies.get(name))[: len(distances)],
            *[_coverage(results, name, of_calls)][: len(covered)],
            *[decimal(results.sizes[name]) if name in results.sizes else ""][: len(sizes)],
            *_speeds(results, name),
        )
        for name in dict.fromkeys([*results.sizes, *timed, *bodies])
    ]
    heads = (
        "body",
        *scores,
        *quality,
        *distances,
        *covered,
        *sizes,
        *(f"batch {race.batch}" for race in results.races),
    )
    guided = "" if results.guidance is None else f", guidance {results.guidance}"
    shaped = "" if results.shaping is None else f", {results.shaping}"
    title, caption = f"{results.bundle}, {results.plan}{guided}{shaped}", " ".join(_captions(results, is_image))
    return table(heads, rows, ("body",), title, caption)


def _score(body: Quality | None) -> str:
    return "" if body is None or body.judged is None else f"{body.judged.score.value:.4g}"


def _quality(body: Quality | None) -> tuple[str, ...]:
    if body is None:
        return ("",) * 5
    if body.tokens is not None:
        return f"{100 * body.tokens.disagreement:.2f} %", f"{100 * body.tokens.same:.1f} %"
    end, ssim = body.against_float, body.against_float.ssim
    similar = (f"{ssim.mean:.4f}", f"{ssim.p5:.4f}") if ssim else (NONE, NONE)
    return f"{end.mean:.1f}", f"{end.p5:.1f}", NONE if end.snr is None else f"{end.snr:.1f}", *similar


def _distances(body: Quality | None) -> tuple[str, str]:
    if body is None or not body.distances:
        return ("", "")
    return f"{body.distances[0].frechet:.3g}", f"{body.distances[0].frechet_float:.3g}"


def _counts_calls(results: Results) -> bool:
    """Return True if the shares of whole calls are known, those of all bodies."""
    shares = [
        call.share_of_macs for call in map(results.call_of, {coverage.body for coverage in results.covered}) if call
    ]
    return bool(shares) and None not in shares


def _coverage(results: Results, body: str, of_calls: bool) -> str:
    """Return the share of a body's work in int8: of whole calls, or of their steps."""
    call = results.call_of(body)
    share = call.share_of_macs if of_calls and call is not None else results.int8_share(body)
    return "" if share is None else f"{100 * share:.1f} %"


def _speeds(results: Results, body: str) -> list[str]:
    """Return one table cell per batch size: the speedup over float32 and the median time in milliseconds, or "" if the
    body was not timed."""
    cells = []
    for race in results.races:
        timing = next((timing for timing in race.timings if timing.name == body), None)
        cells.append("" if timing is None else f"{timing.ratio:.2f}x {1e3 * timing.median:.3g} ms")
    return cells


def _captions(results: Results, is_image: bool) -> list[str]:
    said = []
    if results.qualities:
        first = results.qualities[0]
        if first.judged is not None:
            own = first.judged
            said.append(
                f"score: by {own.score.name}, limit {own.score.limit:.4g}; float32 itself {own.float32.value:.4g}."
            )
        judged = "; ".join(
            f"{quality.body}: {quality.against_float.seeds} seeds, {quality.computed_by}"
            for quality in results.qualities
        )
        named = (
            TOKENS
            if first.tokens
            else "PSNR in dB and SSIM against float32 along the same plan: mean and 5th percentile (p5); signal: "
            f"signal to error in dB{first.against_float.nearness.other_seed_text}"
        )
        said.append(f"{named} ({judged}).")
        if is_image and first.tokens is None and first.against_float.ssim is None:
            said.append(NO_SSIM)
        if results.features and first.distances:
            said.append(
                f"FD({results.features.name}): Fréchet distance of {first.distances[0].samples} samples to the same "
                "number of float32 samples from other seeds; for float32 itself it is the noise floor."
            )
    if results.covered:
        of = "a whole call" if _counts_calls(results) else "the steps alone"
        said.append(f"int8: share of the multiply-accumulates (MACs) of {of}.")
    if results.races:
        first_timed = results.races[0].timings[0].name
        rows = "" if results.guidance is None else ", of which a guided sample takes one for each branch"
        measure = describe_measure(results.races)
        said.append(
            f"Batch N: one call of the body on N rows{rows}: speedup{measure} over {first_timed}, "
            f"median {describe_times(results.races)}."
        )
    return said
