"""Rows of int8 next to other tools: lab/measured/zoo.json keeps them, and tables of three pages show them.

A row is one denoiser along one plan on one engine, judged on one range of held-out seeds. It has the digest of the code
that calibrated it, so rows of earlier code stay, and can be distinguished from others. The same row of a later
measurement takes its place. Settings of other tools that only the earlier one had stay if both are of one code.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from benchmarks.markdown import put_part, table
from benchmarks.quantization.contenders import DEFAULTS
from benchmarks.quantization.judge_bodies import Judged, Quality

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "lab/measured/zoo.json"
SCRIPT = "benchmarks/quantization/compare.py"
EQUAL_BAR, DEFAULTS_BAR = 2.0, 10.0  # dB
DIGITS = 6  # of a digest that are shown
SIMULATED = ("tensorrt",)  # engines whose rounding is computed in float
HEADER = ("denoiser", "steps", "seeds", "engine", "fewstep", "MACs in int8", "image", "best other of the same",
          "difference", "above defaults", "missed", "code")  # fmt: skip


class Figures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mean PSNR against float32 and its 5th percentile, or differences of both, in dB."""

    mean: float
    p5: float

    def __sub__(self, other: "Figures") -> "Figures":
        return Figures(self.mean - other.mean, self.p5 - other.p5)


class Other(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A setting of another tool. same: it has exactly our operations in int8. quality: None if it failed. reason: of
    the failure.
    """

    name: str
    setting: str
    quality: Figures | None = None
    coverage: float | None = None  # share of multiply-accumulates in int8, 0 to 1
    same: bool = False
    reason: str = ""


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row. `lead` is the difference to the best other setting of the same operations. `above` is the lead of the
    means over the tool's defaults. Both are None where there is none."""

    denoiser: str
    steps: int
    seeds: int
    first: int  # of the seeds
    engine: str
    ours: Figures
    coverage: float
    code: str
    image: float | None = None  # share of the end error's energy that is one image, beyond chance
    worst: float | None = None  # sample of ours, in dB
    lead: Figures | None = None
    above: float | None = None
    others: tuple[Other, ...] = ()
    versions: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """Return the common key of measurements of the same object; rows are shown in its order."""
        return (self.denoiser, -self.steps, self.engine, self.first, self.seeds)


def make_row(
    denoiser: str, steps: int, seeds: range, judged: Sequence[Judged], code: str, versions: Iterable[str]
) -> Measured:
    """The row of one engine: ours, then the other settings."""
    ours, *others = judged
    assert ours.quality is not None
    return _with_leads(
        Measured(
            *(denoiser, steps, len(seeds), seeds.start, ours.contender.engine),
            ours=_figures(ours.quality),
            coverage=ours.quality.coverage,
            code=code,
            image=ours.quality.image,
            worst=ours.quality.worst,
            others=tuple(_make_other(each, ours.quality) for each in others),
            versions=tuple(sorted({*versions, *(each.made_by for each in others if each.made_by)})),
        )
    )


def join_rows(known: Iterable[Measured], new: Iterable[Measured]) -> tuple[Measured, ...]:
    """Return all rows in order; a new row replaces an earlier measurement of the same object."""
    rows = {each.key: each for each in known}
    for each in new:
        before = rows.get(each.key)
        rows[each.key] = each if before is None else _with_others_of(before, each)
    return tuple(rows[key] for key in sorted(rows))


def put_tables(rows: Sequence[Measured]) -> None:
    """Write the tables of all rows into their pages."""
    for (page, part), made in tables(rows).items():
        put_part(ROOT / page, part, made)


def tables(rows: Sequence[Measured]) -> dict[tuple[str, str], str]:
    """Return Markdown by page and part, for existing rows: a line for each row, and all settings on the shipped
    denoiser.
    """
    on_one = [row for row in rows if (row.denoiser, row.steps, row.first) == ("fashion_mnist", 8, 1000)]
    of_seeds = {"lab/measured/other_tools.md": 64, "docs/measured.md": 256}
    settled = {page: [each for each in on_one if each.seeds == seeds] for page, seeds in of_seeds.items()}
    return {
        ("lab/measured/zoo.md", SCRIPT): f"{table(HEADER, [cells(row) for row in rows])}\n\n{_versions(rows)}",
        **{(page, SCRIPT): settings(some) for page, some in settled.items() if some},
    }


def settings(rows: Sequence[Measured]) -> str:
    """Return Markdown: a line for each contender of rows of one denoiser, and below them the versions."""
    lines = []
    for row in rows:
        lines.append([row.engine, "fewstep", *_columns(row.ours, row.coverage)])
        for each in row.others:
            failed = (f"failed: {each.reason}", "", "")
            lines.append([row.engine, each.name, *(_columns(each.quality, each.coverage) if each.quality else failed)])
    return (
        f"{table(('engine', 'quantized by', 'mean dB', '5th percentile', 'MACs in int8'), lines)}\n\n{_versions(rows)}"
    )


def cells(row: Measured) -> list[str]:
    """A line of the table of all rows."""
    best = _find_best(row)
    missed = [f"{DEFAULTS_BAR:g} dB"] * (row.above is not None and row.above < DEFAULTS_BAR)
    if row.lead is None:
        missed = ["no equal", *missed]
    elif min(row.lead.mean, row.lead.p5) < EQUAL_BAR:
        missed = [f"{EQUAL_BAR:g} dB", *missed]
    return [
        row.denoiser,
        str(row.steps),
        f"{row.seeds} from {row.first}",
        f"{row.engine}, simulated" if row.engine in SIMULATED else row.engine,
        _format_figures(row.ours),
        f"{100 * row.coverage:.1f} %",
        "" if row.image is None else f"{100 * row.image:.1f} %",
        "none" if best is None or best.quality is None else f"{_format_figures(best.quality)} ({best.name})",
        "" if row.lead is None else f"{row.lead.mean:+.1f} / {row.lead.p5:+.1f}",
        "" if row.above is None else f"{row.above:+.1f}",
        ", ".join(missed) or "none",
        row.code[:DIGITS],
    ]


def _with_leads(row: Measured) -> Measured:
    """The row with its leads over `others`."""
    best, defaults = _find_best(row), [each.quality for each in row.others if each.setting == DEFAULTS]
    lead = None if best is None or best.quality is None else row.ours - best.quality
    above = min((row.ours.mean - default.mean for default in defaults if default is not None), default=None)
    return msgspec.structs.replace(row, lead=lead, above=above)


def _find_best(row: Measured) -> Other | None:
    """Return the setting with the best mean of all that run exactly our operations."""
    same = [(each.quality.mean, each) for each in row.others if each.same and each.quality is not None]
    return max(same, key=lambda pair: pair[0])[1] if same else None


def _with_others_of(before: Measured, new: Measured) -> Measured:
    if (before.code, before.ours) != (new.code, new.ours):
        return new
    others = {each.name: each for each in (*before.others, *new.others)}
    versions = tuple(sorted({*before.versions, *new.versions}))
    return _with_leads(msgspec.structs.replace(new, others=tuple(others.values()), versions=versions))


def _make_other(judged: Judged, ours: Quality) -> Other:
    contender, quality = judged.contender, judged.quality
    if quality is None:
        return Other(contender.name, contender.setting, reason=judged.reason)
    same = set(quality.int8_ops) == set(ours.int8_ops)
    return Other(contender.name, contender.setting, _figures(quality), round(quality.coverage, 4), same)


def _figures(quality: Quality) -> Figures:
    return Figures(round(quality.mean, 3), round(quality.p5, 3))


def _format_figures(figures: Figures) -> str:
    return f"{figures.mean:.1f} / {figures.p5:.1f}"


def _columns(figures: Figures, coverage: float | None) -> tuple[str, ...]:
    return f"{figures.mean:.1f}", f"{figures.p5:.1f}", "" if coverage is None else f"{100 * coverage:.1f} %"


def _versions(rows: Iterable[Measured]) -> str:
    return f"Made with {', '.join(sorted({version for row in rows for version in row.versions}))}."
