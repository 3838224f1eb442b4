"""`fewstep choose`: the deployments in a table, the front marked, and the winner as a command line."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from fewstep.cli.outcome import Outcome
from fewstep.cli.tables import figures
from fewstep.evaluation.choosing.choose import Choice, choose
from fewstep.evaluation.choosing.chosen import Deployment, command_of, described
from fewstep.evaluation.choosing.engines import engine_name
from fewstep.evaluation.choosing.options import ChooseOptions
from fewstep.evaluation.drawing import plots
from fewstep.evaluation.drawing.plan_plot import stacked
from fewstep.evaluation.drawing.plots import Series
from fewstep.evaluation.output import write_whole
from fewstep.evaluation.report.quality import NONE
from fewstep.runtime.progress import Progress

FRONT, CHOSEN = "front", "chosen"


def verb(options: ChooseOptions, progress: Progress) -> Outcome:
    choice = choose(options, progress)
    if options.output is not None:
        write_whole(options.output, drawing(choice).encode())
    return Outcome(choice, (table(choice, options.batch), *choice.left_out, *_said(choice, options.bundle)))


def table(choice: Choice, batch: int) -> Table:
    """A line for each deployment, the quickest first."""
    winner = None if choice.chosen is None else choice.chosen.winner
    rows = [
        (
            row.body,
            engine_name(row.backend, row.threads, row.spinning),
            row.plan,
            str(row.evaluations),
            f"{row.milliseconds:.3g} ms",
            f"{row.psnr:.1f} ± {row.error:.1f} dB",
            f"{row.p5:.1f} dB",
            NONE if row.gain is None else f"{row.gain:.3f}",
            CHOSEN if row == winner else FRONT if row in choice.front else "",
        )
        for row in choice.deployments
    ]
    samples = "one sample" if batch == 1 else f"{batch} samples"
    caption = (
        f"Time of a call for {samples}, from noise on. Quality: mean PSNR to the float32 teacher {choice.teacher} over "
        f"{choice.seeds} seeds with its standard error, and the 5th percentile. Gain: "
        "what is left of guidance's direction at the worst step of calibration. Front: no other is quicker and nearer."
    )
    return figures("", ("engine", "plan", "evaluations", "time", "quality", "p5", "gain", ""), rows, caption)


def drawing(choice: Choice) -> str:
    """Quality over time as SVG: a curve for each body, and the front."""
    bodies = dict.fromkeys(row.body for row in choice.deployments)
    curves = [
        _curve(body, [row for row in choice.deployments if row.body == body], index)
        for index, body in enumerate(bodies)
    ]
    curves.append(_curve(FRONT, choice.front, len(curves), dashed=True))
    return stacked(
        "plans, bodies, engines", [plots.line_plot(curves, "time of a call (ms)", "PSNR to the teacher (dB)")]
    )


def _curve(name: str, rows: Sequence[Deployment], colour: int, dashed: bool = False) -> Series:
    return Series(name, [row.milliseconds for row in rows], [row.psnr for row in rows], colour, dashed)


def _said(choice: Choice, bundle: Path) -> Iterator[str]:
    if choice.chosen is None:
        yield "nothing is chosen: --within 20ms or --at-least 40dB does"
        return
    yield f"{choice.chosen.asked}: {described(choice.chosen.winner)}"
    yield command_of(bundle, choice.chosen)
    yield f"is kept as the choice of this machine: fewstep run {bundle} --chosen"
