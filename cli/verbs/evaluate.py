"""`fewstep evaluate`: the figures as a table, and what they amount to."""

from rich.table import Table

from fewstep.cli.outcome import Outcome
from fewstep.cli.tables import figures
from fewstep.cli.trials import TOKENS, quality_cells, quality_heads
from fewstep.graph.needs import check_memory, duration
from fewstep.measure.cost import seconds_of_one
from fewstep.measure.distances.evaluate import ROOM, EvaluateOptions, EvaluationTask, evaluate, open_task
from fewstep.measure.results import EvaluationResults
from fewstep.measure.workers.opening import warn_of_workers
from fewstep.report.drawing.plan_view import headline
from fewstep.report.quality import NO_SSIM, NONE
from fewstep.report.verdict import distant, verdicts
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.progress import Progress

NO_FEATURES = "no distances between distributions: give --features FILE.onnx, an extractor that knows the data"
IMAGE_AXES = 3  # channels, height, width


def verb(options: EvaluateOptions, progress: Progress) -> Outcome:
    results = evaluate(options, progress)
    where = options.output or f"{options.bundle}, and its next report"
    end = f"{where}: the figures, measured in {results.seconds:.0f} s"
    teacher = () if results.teacher_check is None else (str(results.teacher_check),)
    lacking = () if results.features or not options.samples else (NO_FEATURES,)
    is_image = len(open_bundle(options.bundle).manifest.x_shape) == IMAGE_AXES
    told = (*teacher, *distant(results.bodies), *verdicts(results), *lacking, end)
    return Outcome(results, (table(results, is_image), *told))


def dry_run(options: EvaluateOptions) -> Outcome:
    task = open_task(options)
    sampled = max(options.seeds, options.samples if task.extractor else 0)
    also = f", and {options.samples} others in float32, for FD({task.extractor.name})" if task.extractor else ""
    count, each = evaluations(task, options), seconds_of_one(task.reference, task.timed_plan(), task.rows)
    needed = task.needs(ROOM)
    check_memory(needed, options.bundle)
    warn_of_workers(options.workers, options.threads)
    value = {
        "evaluations": count,
        "seconds": count * each,
        "needs": needed,
        "bundle": options.bundle,
        "plan": task.plan.name,
        "bodies": list(task.bodies),
        "features": task.extractor and task.extractor.name,
        "seeds": options.seeds,
        "samples": sampled,
    }
    return Outcome(
        value,
        (
            headline(task.plan),
            f"would sample {sampled} seeds with float32, {', '.join(task.bodies)}{also}",
            *([] if task.teacher is None else [f"and {options.taught} of them with the teacher, {task.teacher.name}"]),
            f"{count} evaluations of one sample, with both branches of guidance in one, take about "
            f"{duration(count * each)} at float32's speed here",
            f"would write {options.output or options.bundle / 'report'}",
            needed.said(options.bundle),
        ),
    )


def evaluations(task: EvaluationTask, options: EvaluateOptions) -> int:
    """How often a network runs for one sample: of all bodies and float32, of the teacher, and of other seeds."""
    apart = options.samples if task.extractor else 0
    if task.teacher is None:  # a body of tokens sees float32's states, and runs by itself
        return (3 * options.seeds * len(task.bodies) + apart * (2 + len(task.bodies))) * len(task.plan.steps)
    paired = max(options.seeds, apart) * (1 + len(task.bodies))
    return (paired + apart) * len(task.plan.steps) + options.taught * len(task.teacher.steps)


def table(results: EvaluationResults, is_image: bool = True) -> Table:
    """A line for each body. SSIM is explained to those who have images."""
    of_tokens = any(body.tokens for body in results.bodies)
    similar = () if of_tokens else ("SSIM", "p5")
    headings = (*quality_heads(of_tokens), *similar, *(["FD", "FD of float32"] if results.features else []))
    rows = []
    for body in results.bodies:
        end, first = body.against_float, next(iter(body.distances), None)
        ssim = (f"{end.ssim.mean:.4f}", f"{end.ssim.p5:.4f}") if end.ssim else (NONE, NONE)[: len(similar)]
        distances = (f"{first.frechet:.3g}", f"{first.frechet_float:.3g}") if first else (NONE, NONE)
        rows.append((body.body, *quality_cells(body), *ssim, *(distances if results.features else ())))
    return figures(f"{results.bundle}, {results.plan}", headings, rows, _caption(results, is_image))


def _caption(results: EvaluationResults, is_image: bool) -> str:
    seeds = results.bodies[0].against_float.seeds
    text = f"PSNR in dB and SSIM against float32 along the same plan, {seeds} seeds, mean and 5th percentile."
    if results.bodies[0].tokens is not None:
        text = f"{TOKENS} ({seeds} seeds)."
    elif is_image and results.bodies[0].against_float.ssim is None:
        text += f" {NO_SSIM}"
    if results.features and results.bodies[0].distances:
        text += (
            f" FD({results.features.name}): distance of {results.bodies[0].distances[0].samples} samples from as many "
            "of float32 by other seeds; that of float32 is the noise floor."
        )
    return text
