"""The deployments of a choice as a table, as a plot and as lines."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from fewstep.cli.tables import table
from fewstep.plans.guidance import describe
from fewstep.plans.shaping import describe_shaping
from fewstep.report.choosing.choose import Choice
from fewstep.report.choosing.engines import engine_name
from fewstep.report.choosing.options import ChooseOptions
from fewstep.report.choosing.saved_choice import Deployment, describe_deployment
from fewstep.report.drawing import plots
from fewstep.report.drawing.plan_plot import stack_drawings
from fewstep.report.drawing.plots import Series
from fewstep.report.sections.quality import NONE

FRONT, CHOSEN = "front", "chosen"


def choice_table(choice: Choice, batch: int) -> Table:
    """Return a table with one row per candidate deployment (body, engine and plan), fastest first."""
    winner = None if choice.chosen is None else choice.chosen.winner
    rows = [
        (
            row.body,
            engine_name(row.engine),
            row.plan,
            str(row.evaluations),
            f"{row.milliseconds:.3g} ms",
            *(f"{judged.score.value:.4g}" for judged in [row.judged] if judged is not None),
            f"{row.psnr:.1f} ± {row.quality.standard_error:.1f} dB",
            f"{row.quality.p5:.1f} dB",
            NONE if row.quality.snr is None else f"{row.quality.snr:.1f} dB",
            NONE if row.gain is None else f"{row.gain:.3f}",
            CHOSEN if row == winner else FRONT if row in choice.front else "",
        )
        for row in choice.deployments
    ]
    judged = choice.deployments[0].judged
    other_seed = choice.deployments[0].quality.nearness.other_seed_text
    samples = "one sample" if batch == 1 else f"{batch} samples"
    samples += "".join(f" of {name} {size}" for name, size in choice.sizes.items())
    of_student = f"along {choice.teacher}, since a student of few steps has no teacher in its bundle,"
    reference = f"with many steps (the teacher, {choice.teacher})" if choice.has_teacher else of_student
    caption = (
        f"Time: the 10th percentile of whole sampling calls for {samples}. Quality: mean PSNR against float32 "
        f"{reference} over {choice.seeds} seeds, ± its standard error; "
        f"p5: 5th percentile. Signal: signal to error{other_seed}. Gain: share of the guidance that int8 keeps at its "
        "worst step in calibration. Front: no other row is both faster and "
        f"{'closer to that reference' if judged is None else 'of a higher score'}."
    )
    scored: tuple[str, ...] = ()
    if judged is not None:
        scored = ("score",)
        caption += (
            f" Score: by {judged.score.name}, whose limit is {judged.score.limit:.4g}; that reference itself "
            f"has {judged.float32.value:.4g}."
        )
    heads = ("body", "engine", "plan", "evaluations", "time", *scored, "quality", "p5", "signal", "gain", "")
    return table(heads, rows, ("body",), caption=caption)


def draw_choice(choice: Choice, options: ChooseOptions) -> str:
    """Draw quality over time as SVG: a curve for each body, labelled with the numbers of evaluations, and the Pareto
    front. If a deployment was chosen, it and the limits are drawn too."""
    bodies = dict.fromkeys(row.body for row in choice.deployments)
    curves = [
        _curve(body, [row for row in choice.deployments if row.body == body], index)
        for index, body in enumerate(bodies)
    ]
    curves.append(_curve(FRONT, choice.front, len(curves), dashed=True))
    if choice.chosen is not None:
        ends = [(min(each), max(each)) for each in zip(*((row.milliseconds, row.psnr) for row in choice.deployments))]
        for limit, is_time in ((options.milliseconds, True), (options.decibels, False)):
            if limit is not None:
                across, up = ((limit, limit), ends[1]) if is_time else (ends[0], (limit, limit))
                curves.append(Series("budget", across, up, len(curves), dashed=True))
        curves.append(_curve(CHOSEN, [choice.chosen.winner], len(curves)))
    return stack_drawings(
        "plans, bodies, engines", [plots.line_plot(curves, "time of a call (ms)", "PSNR to the teacher (dB)")]
    )


def _curve(name: str, rows: Sequence[Deployment], colour: int, dashed: bool = False) -> Series:
    labels = () if dashed else [str(row.evaluations) for row in rows]
    return Series(name, [row.milliseconds for row in rows], [row.psnr for row in rows], colour, dashed, labels)


def describe_choice(choice: Choice) -> Iterator[str]:
    if choice.chosen is None:
        yield "nothing is chosen: give --within 20ms, --at-least 40dB or --memory 2GB to choose"
        return
    yield f"{choice.chosen.asked}: {describe_deployment(choice.chosen.winner)}"
    shaping = choice.chosen.shaping
    shaped = "" if shaping is None else f", {describe_shaping(shaping)}"
    yield f"plans given by name have guidance {describe(choice.chosen.guidance)}{shaped}"
    yield "saved as the choice for this machine: `run`, `bake` and `serve` use it with --chosen"
