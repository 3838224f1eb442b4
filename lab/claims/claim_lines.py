"""The results of claims: a line for each system and control, the lines that are stored, and the page with all of
them."""

import math
import textwrap
from collections.abc import Iterable
from pathlib import Path

import msgspec

from benchmarks.markdown import table
from benchmarks.shipped_models_page import WIDTH
from fewstep.measure.rollouts.metrics import Floats
from fewstep.measure.speed.machine import this_machine
from lab.claims.claim import MORE_STEPS, SEARCH_STEPS
from lab.claims.directions import Direction

KEPT = Path(__file__).parents[2] / "lab/claims.json"
MARGIN_DB = 0.5  # a loss that the calibration of int8 also accepts
MARGIN_FD = 10 ** (MARGIN_DB / 10) - 1  # the same margin for a squared distance, relative to the control's
HOW = (
    "*ours* has a system's figure and its evaluations of the network. Each of its *controls* is a plain way, with the"
    " same and with the gain of ours. *As long* is with more evaluations or fewer, as many as take as long as ours.",
    "Milliseconds are of eight seeds, of the processor on one thread. They compare within a control: lines are of days"
    " with other work on the machine.",
    "*figure*: the larger one is better, and distances have a minus. log p(class) is a classifier's. FD is of the"
    " features of fashion-mnist-cnn, to the 10 000 test pictures, or to 512 samples of the teacher. Class shares are of"
    " the same network. Guidance names a law for them, p^w q^(1 - w): samples without guidance, weighed by"
    " p(class)^(w - 1) of the network.",
    "The teacher is many steps of the same network with the guidance of the line: `dpmpp_2m:80@arctan` for PSNR, from"
    " the same noise, and `dpmpp_2m:20@arctan` for FD. A solver in 20 steps has 256 samples of the first one for FD."
    " The teacher of students has guidance 3, with which they were trained. That of InstaFlow's is the shipped int8"
    " along `fitted:6` at guidance 2, which made its pairs. By PSNR DPM-Solver, DPM-Solver++, DEIS and their controls"
    " have the nearest of three grids, by other seeds.",
    "The *gain* has the error of its mean after it, over the unit of *one for each*. There are 64 seeds, and 256 for"
    " distances and PSNR to clean, and 128 for FD to 80 steps. Seeds are independent.",
    "A system pays if both gains are above twice their errors, and if it has the factor that it claims. It does not pay"
    " if one is below minus twice its error, or the factor is missed. Else nothing is decided. A control of one number"
    " of evaluations has one gain.",
    "A system also pays if it is as good in half the control's evaluations or fewer: if its loss is below"
    f" {MARGIN_DB} dB, by twice the error. That is the lower one of two one-sided tests of equivalence, at a level"
    f" below 5 %; the upper one would only exclude that it is better. {MARGIN_DB} dB is what the calibration of int8"
    f" may lose. FD is a squared distance, so there it is {100 * MARGIN_FD:.0f} % of the control's. In the same way a"
    " system does not pay if its control is as good in half the evaluations. Other figures have no margin.",
    "A figure that compares with data has to get better with steps: of the network's own sampler, of ours and of the"
    " control's. The first table has what it gains from few to many steps of each. Many are three times as many, or the"
    " published number. Where many steps are surely worse, no line has the figure. Searches whose aim the figure is are"
    " exempt, next to controls of as many steps or of the best number of them by other seeds, 40 at most.",
)
DIRECTIONS_HEADER = ("network", "figure", "guidance", "few steps", "many steps", "gain", "seeds", "judges")


class Gain(msgspec.Struct, frozen=True):
    """The mean of figures minus that of others, and the standard error of the difference, which is paired if the seeds
    are the same."""

    mean: float
    deviation: float

    @property
    def is_sure(self) -> bool:
        return self.mean > 0 and self.mean > 2 * self.deviation

    @property
    def is_loss(self) -> bool:
        """Whether there is no gain, or a significant loss."""
        return self.mean <= 0 and (self.deviation == 0 or self.mean < -2 * self.deviation)


def gain(figures: Floats, others: Floats) -> Gain:
    mean = float(figures.mean() - others.mean())
    if len(figures) == len(others):
        return Gain(mean, _of_mean(figures - others))
    return Gain(mean, math.hypot(_of_mean(figures), _of_mean(others)))


def _of_mean(figures: Floats) -> float:
    return float(figures.std(ddof=1) / len(figures) ** 0.5) if len(figures) > 1 else 0.0


class Longer(msgspec.Struct, frozen=True):
    """The plain way with the number of evaluations that takes as long as the system, and the system's gain over it."""

    evaluations: int
    ms: float
    figure: float
    gain: Gain


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """A measured result. Milliseconds are for all timed seeds together.

    control: the plain way, in words.
    unit: what each figure is for.
    asked: the claimed factor over the figure of the plain way; None if only a larger figure is claimed.
    plain_evaluations: evaluations of the plain way, if it cannot use the same number.
    at_equal_time: None if the plain way has a fixed number of evaluations.
    """

    model: str
    system: str
    claim: str
    control: str
    figure: str
    evaluations: int
    ours: float
    plain: float
    gain: Gain
    unit: str
    ours_ms: float
    plain_ms: float
    at_equal_time: Longer | None
    is_steady: bool = True
    asked: float | None = None
    plain_evaluations: int | None = None
    machine: str = ""  # "" for that of all lines

    @property
    def of_plain(self) -> int:
        """Evaluations of the plain way."""
        return self.evaluations if self.plain_evaluations is None else self.plain_evaluations

    @property
    def gains(self) -> tuple[Gain, ...]:
        return (self.gain,) if self.at_equal_time is None else (self.gain, self.at_equal_time.gain)

    @property
    def has_factor(self) -> bool:
        """Whether the claimed factor is reached, or no factor is claimed."""
        return self.asked is None or self.ours >= self.asked * self.plain

    @property
    def margin(self) -> float | None:
        """The loss that still counts as equal, in the unit of the figure; None for figures without a margin."""
        if self.figure.startswith(("PSNR", "SI-SDR")):
            return MARGIN_DB
        return MARGIN_FD * abs(self.plain) if self.figure.startswith("-FD") else None

    @property
    def is_as_good(self) -> bool:
        """Whether the system is not worse by the margin, in at most half of the control's evaluations."""
        least = self.gain.mean - 2 * self.gain.deviation
        return self.margin is not None and 2 * self.evaluations <= self.of_plain and least > -self.margin

    @property
    def is_matched(self) -> bool:
        """Whether the system fails to beat its control by the margin, although the control uses at most half the
        evaluations."""
        most = self.gain.mean + 2 * self.gain.deviation
        return self.margin is not None and 2 * self.of_plain <= self.evaluations and most < self.margin

    @property
    def holds(self) -> bool:
        """Whether the system is better than its control, or as good in half the evaluations."""
        return self.has_factor and (self.is_as_good or all(each.is_sure for each in self.gains))

    @property
    def is_undecided(self) -> bool:
        """Whether the seeds decide nothing: no loss is significant, but a gain is not significant either."""
        return self.has_factor and not self.holds and not any(each.is_loss for each in self.gains)

    @property
    def pays(self) -> bool:
        return self.holds and not self.is_matched

    @property
    def is_open(self) -> bool:
        """Whether the seeds do not decide what the system is worth."""
        return self.is_undecided and not self.is_matched

    @property
    def verdict(self) -> str:
        if self.pays:
            is_better = all(each.is_sure for each in self.gains)
            word = "pays" if is_better else "pays: as good in half the evaluations"
        elif self.is_matched and not self.gain.is_loss:
            word = "does not pay: the control is as good in half the evaluations"
        else:
            word = "not decided" if self.is_open else "does not pay"
        is_timed = self.at_equal_time is not None or self.asked is not None
        return word + (", on an unsteady machine" if is_timed and not self.is_steady else "")

    @property
    def cell(self) -> str:
        """The comparison with its control, as the text of a table cell."""
        at, as_long = self.at_equal_time, ""
        if at is not None:
            as_long = f"; as long {at.figure:.3f}, {at.evaluations} in {at.ms:.0f} ms, {_gain(at.gain)}"
        times = f"{self.of_plain} in {self.plain_ms:.0f} ms (ours {self.ours_ms:.0f})"
        return f"{self.control}: {self.plain:.3f}, {times}, {_gain(self.gain)}{as_long}; {self.verdict}"

    def __str__(self) -> str:
        return f"{self.model}: {self.system} | {self.claim} | {self.figure} | {self.ours:.3f} | {self.cell}"


def contains_its_control(line: Line) -> bool:
    """Return whether a search keeps the best of samples of which its control is one, so that it cannot lose."""
    return line.control == MORE_STEPS and line.of_plain == SEARCH_STEPS


LineName = tuple[str, str, str, str]  # model, system, figure, control


class RefusedClaim(msgspec.Struct, frozen=True):
    """A claim whose figure cannot judge samples of this model, and the reason."""

    name: LineName
    reason: str

    def __str__(self) -> str:
        return f"{self.name[0]}: {self.name[1]} | refused: {self.reason}"


class Kept(msgspec.Struct, frozen=True):
    """The lines of all runs of claims.py, the machine of the lines that name none, and whether figures get better with
    steps."""

    machine: str
    lines: tuple[Line, ...]
    directions: tuple[Direction, ...] = ()


def load_kept() -> Kept:
    return msgspec.json.decode(KEPT.read_bytes(), type=Kept) if KEPT.exists() else Kept("", ())


def keep(line: Line) -> None:
    """Store a line, in place of the previous one with the same model, system, figure and control. It names this machine
    if some of the other lines are of another one; once all are of this machine, the page names it."""
    former, here = load_kept(), machine()
    if _processor(here) != _processor(former.machine or here):
        line = msgspec.structs.replace(line, machine=_processor(here))
    others = [each for each in former.lines if _name(each) != _name(line)]
    places = [_name(each) for each in former.lines]
    at = places.index(_name(line)) if _name(line) in places else len(others)
    lines, of_most = (*others[:at], line, *others[at:]), former.machine or here
    if all(each.machine == _processor(here) for each in lines):
        lines, of_most = tuple(msgspec.structs.replace(each, machine="") for each in lines), here
    _save(Kept(of_most, lines, former.directions))


def keep_direction(direction: Direction) -> None:
    """Store whether a figure of a network gets better with steps, in place of the previous measurement."""
    former = load_kept()
    others = [each for each in former.directions if each.key != direction.key]
    _save(Kept(former.machine, former.lines, tuple(sorted([*others, direction], key=lambda each: str(each.key)))))


def drop(name: LineName) -> None:
    """Remove the stored line with this name, if any, since its figure is refused now."""
    former = load_kept()
    lines = tuple(each for each in former.lines if _name(each) != name)
    _save(Kept(former.machine, lines, former.directions))


def _name(line: Line) -> LineName:
    return line.model, line.system, line.figure, line.control


def _save(kept: Kept) -> None:
    """Write a line of text for each result."""
    lines, directions = (b",\n".join(map(msgspec.json.encode, each)) for each in (kept.lines, kept.directions))
    machine_text = msgspec.json.encode(kept.machine)
    partial = KEPT.with_suffix(".partial")
    partial.write_bytes(
        b'{"machine":%s,\n"lines":[\n%s\n],\n"directions":[\n%s\n]}\n' % (machine_text, lines, directions)
    )
    partial.replace(KEPT)


def machine() -> str:
    """Return a description of this machine and of the versions of its engines."""
    here = this_machine()
    versions = ", ".join(f"{name} {version}" for name, version in sorted(here.versions.items()))
    return f"{here.processor}, {here.cores} cores, {', '.join(here.int8_instructions)}; {versions}"


def _processor(described: str) -> str:
    """Return the processor of a described machine, without the versions of engines."""
    return described.partition("; ")[0]


def make_page(of: Kept) -> str:
    """Return the page for the stored lines."""
    tables = "\n\n".join(
        f"## {model}\n\n{_lines(each for each in of.lines if each.model == model)}"
        for model in dict.fromkeys(line.model for line in of.lines)
    )
    how = "\n".join(textwrap.fill(f"- {each}", WIDTH, subsequent_indent="  ") for each in HOW)
    return f"""# Claims of published systems

`python -m lab.claims --keep` writes this page. [systems.md](systems.md) has all systems of
the survey, and [compositions.md](compositions.md) the code of those that are composed from runs.

{textwrap.fill(f"{_whose(of.lines)}: {of.machine}.".replace("; ", ". "), WIDTH, break_on_hyphens=False)}

{how}

## Figures by steps

{_directions(of.directions)}

{tables}
{_other_machines(of.lines)}"""


def _whose(lines: Iterable[Line]) -> str:
    """Return what is of the machine at the top of the page."""
    others = any(line.machine for line in lines)
    return "Machine of all but [these lines](#lines-of-another-machine)" if others else "Machine"


def _other_machines(lines: Iterable[Line]) -> str:
    """Return a section for each other machine, with a list of the controls that ran there next to each system; "" if
    there is none."""
    controls: dict[str, dict[str, list[str]]] = {}
    for line in lines:
        if line.machine:
            controls.setdefault(line.machine, {}).setdefault(line.system, []).append(line.control)
    return "".join(
        f"\n## Lines of another machine\n\n{machine}:\n\n"
        + "\n".join(
            textwrap.fill(f"- {system}: {', '.join(dict.fromkeys(names))}", WIDTH, subsequent_indent="  ")
            for system, names in systems.items()
        )
        + "\n"
        for machine, systems in controls.items()
    )


def _directions(directions: Iterable[Direction]) -> str:
    rows = [
        (
            *(each.network, each.figure, "none" if each.guidance is None else f"{each.guidance:g}"),
            f"`{each.few}`: {each.figure_of_few:.2f}",
            f"`{each.many}`: {each.figure_of_few + each.gain:.2f}",
            f"{each.gain:+.3f} ± {each.error:.3f}",
            str(each.seeds),
            "no" if each.is_wrong else "yes",
        )
        for each in directions
    ]
    return table(DIRECTIONS_HEADER, rows)


def _lines(lines: Iterable[Line]) -> str:
    """Return a row for each figure of a system, with a line for each control."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for line in lines:
        ours = f"{line.ours:.3f}, {line.evaluations}"
        rows.setdefault((line.system, line.claim, line.figure, line.unit, ours), []).append(line.cell)
    header = ("system", "claim", "figure", "one for each", "ours", "controls")
    return table(header, [(*row, "<br>".join(cells)) for row, cells in rows.items()])


def _gain(gained: Gain) -> str:
    return f"{gained.mean:+.3f} ± {gained.deviation:.3f}"
