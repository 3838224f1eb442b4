"""Line plots, histograms and bar charts as inline SVG, without a library or a script, for light and dark pages.

Shapes have classes instead of colours. `STYLE` maps the classes to the colour variables of `PALETTE`, so one drawing
serves both colour schemes. Every mark has a <title>, which browsers show as a tooltip.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

WIDTH, HEIGHT = 880, 300  # in user units, about a pixel each; the page scales the drawing to its column
BARS_WIDTH = 440  # two of them fit side by side
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 16, 44
LETTER = 6.6  # average width of a letter in a 12-unit sans-serif font
SWATCH, LEGEND_LINE = 18, 20  # sizes of the legend, which is above the drawing

PALETTE = """
:root { color-scheme: light dark; --page: #ffffff; --panel: #f6f7f9; --text: #16181d; --muted: #5c6470; --line: #e2e5ea;
  --shadow: #00000033; --c0: #2563eb; --c1: #dd6b20; --c2: #0f8f83; --c3: #9333ea; --c4: #b7791f; --c5: #64748b; }
@media (prefers-color-scheme: dark) { :root { --page: #111317; --panel: #1a1d23; --text: #e8eaee; --muted: #9aa3b0;
  --line: #2c313a; --shadow: #ffffff40;
  --c0: #6ea8fe; --c1: #f6a55c; --c2: #4fd1c5; --c3: #c99cf9; --c4: #ecc94b; --c5: #a3b1c6; } }
"""

STYLE = """
.plot { width: 100%; height: auto; display: block; font: 12px system-ui, sans-serif; }
.plot text { fill: var(--muted); } .plot .legend { fill: var(--text); }
.plot .axis { stroke: var(--muted); } .plot .rule { stroke: var(--line); }
.plot .curve { fill: none; stroke-width: 2; stroke-linejoin: round; } .plot .dashed { stroke-dasharray: 5 4; }
.plot .c0 { stroke: var(--c0); } .plot .c1 { stroke: var(--c1); } .plot .c2 { stroke: var(--c2); }
.plot .c3 { stroke: var(--c3); } .plot .c4 { stroke: var(--c4); } .plot .c5 { stroke: var(--c5); }
.plot .f0 { fill: var(--c0); } .plot .f1 { fill: var(--c1); } .plot .f2 { fill: var(--c2); }
.plot .f3 { fill: var(--c3); } .plot .f4 { fill: var(--c4); } .plot .f5 { fill: var(--c5); }
"""
COLOURS = 6


@dataclass(frozen=True)
class Series:
    """A curve: its name in the legend, its points, and optional `labels` at the points. Series of one `colour` belong
    together."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dashed: bool = False
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Axis:
    """An affine map from [low, high] to drawing units [start, end], with the values of its ticks."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Return about `count` multiples of 1, 2 or 5 times a power of ten, whose first and last enclose [low, high]."""
    if not (isfinite(low) and isfinite(high)):
        raise ValueError("an axis needs finite ends")
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # equal, except for rounding
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / count
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return tuple(float(f"{index * step:.12g}") for index in range(first, last + 1))


def line_plot(series: Sequence[Series], x_label: str, y_label: str, x_ticks: Sequence[float] = ()) -> str:
    """Plot curves with a mark at each point. `x_ticks`, if given, are the only labels of the x axis."""
    across = [value for one in series for value in one.x]
    x = _x_axis(min(across), max(across), tuple(x_ticks))
    y = _y_axis([value for one in series for value in one.y])
    parts = [_rules(x, y, x_label, y_label)]
    for one in series:
        points = [(x(a), y(b)) for a, b in zip(one.x, one.y, strict=True)]
        path = " ".join(f"{a:.2f},{b:.2f}" for a, b in points)
        parts.append(f'<polyline class="curve c{one.colour % COLOURS}{" dashed" * one.dashed}" points="{path}"/>')
        for (a, b), (left, up) in zip(zip(one.x, one.y, strict=True), points, strict=True):
            title = escape(f"{one.name}: {format_number(b)} at {format_number(a)}")
            radius = 3 if len(points) > 1 else 6  # a series of a single point, such as the winner, must stand out
            circle = f'class="f{one.colour % COLOURS}" cx="{left:.2f}" cy="{up:.2f}" r="{radius}"'
            parts.append(f"<circle {circle}><title>{title}</title></circle>")
        for (left, up), label in zip(points, one.labels, strict=False):
            parts.append(f'<text x="{left:.2f}" y="{up - 8:.2f}" text-anchor="middle">{escape(label)}</text>')
    legend = [(one.name, one.colour, one.dashed) for one in series]
    return _svg(parts, f"{y_label} over {x_label}", legend=legend)


def histogram(groups: Sequence[tuple[str, Sequence[float]]], x_label: str) -> str:
    """Plot the frequency of values, for one or more named groups, on shared bins."""
    values = [value for _, group in groups for value in group]
    edges = ticks(min(values), max(values), 24)
    step = edges[1] - edges[0]
    counts = [_count(group, edges) for _, group in groups]
    x = _x_axis(edges[0], edges[-1], ticks(edges[0], edges[-1], 8), tight=True)
    y = _y_axis([0, *(count for row in counts for count in row)])
    parts = [_rules(x, y, x_label, "samples")]
    width = (x(edges[1]) - x(edges[0])) / len(groups)
    for index, ((name, _), row) in enumerate(zip(groups, counts, strict=True)):
        for edge, count in zip(edges, row, strict=False):
            if count:
                box = f'x="{x(edge) + index * width + 0.5:.2f}" y="{y(count):.2f}" width="{max(width - 1, 0.5):.2f}"'
                title = escape(f"{name}: {count} in [{format_number(edge)}, {format_number(edge + step)})")
                shape = f'class="f{index % COLOURS}" {box} height="{y(0) - y(count):.2f}"'
                parts.append(f"<rect {shape}><title>{title}</title></rect>")
    legend = [(name, index, False) for index, (name, _) in enumerate(groups)]
    return _svg(parts, f"distribution of {x_label}", legend=legend)


def bar_plot(rows: Sequence[tuple[str, float]], label: Callable[[float], str]) -> str:
    """Plot one horizontal bar per row, from zero, with its value after the bar."""
    longest = max(value for _, value in rows)
    start = max(len(name) for name, _ in rows) * LETTER + 14
    axis = Axis(0, longest or 1, start, BARS_WIDTH - 80, ())
    parts = []
    for index, (name, value) in enumerate(rows):
        top = 6 + index * 28
        parts.append(f'<text class="legend" x="{start - 8:.1f}" y="{top + 14}" text-anchor="end">{escape(name)}</text>')
        box = f'x="{start:.1f}" y="{top}" width="{max(axis(value) - start, 1):.2f}" height="20" rx="2"'
        title = escape(f"{name}: {label(value)}")
        parts.append(f'<rect class="f{index % COLOURS}" {box}><title>{title}</title></rect>')
        parts.append(f'<text class="legend" x="{axis(value) + 8:.1f}" y="{top + 14}">{escape(label(value))}</text>')
    return _svg(parts, ", ".join(name for name, _ in rows), (BARS_WIDTH, 12 + 28 * len(rows)))


def format_number(value: float) -> str:
    """Format a number with four significant digits, and large numbers without an exponent."""
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _count(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """Count the values in each bin [edge, next edge). The last bin includes its upper edge."""
    counts = [0] * (len(edges) - 1)
    step = edges[1] - edges[0]
    for value in values:
        counts[min(max(floor((value - edges[0]) / step + 1e-9), 0), len(counts) - 1)] += 1
    return counts


def _x_axis(low: float, high: float, named: tuple[float, ...], tight: bool = False) -> Axis:
    if low == high:
        low, high = low - 0.5, high + 0.5
    margin = 0 if tight else (high - low) * 0.02
    inside = tuple(tick for tick in named or ticks(low, high, 8) if low - margin <= tick <= high + margin)
    return Axis(low - margin, high + margin, LEFT, WIDTH - RIGHT, inside)


def _y_axis(values: Sequence[float]) -> Axis:
    ruled = ticks(min(values), max(values))
    return Axis(ruled[0], ruled[-1], HEIGHT - BOTTOM, TOP, ruled)


def _rules(x: Axis, y: Axis, x_label: str, y_label: str) -> str:
    """Draw horizontal rules with their values, the x axis with its ticks, and both labels."""
    parts = []
    for tick in y.ticks:
        at = f"{y(tick):.2f}"
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.2f}" text-anchor="end">{format_number(tick)}</text>')
    for tick in x.ticks:
        at = f"{x(tick):.2f}"
        parts.append(f'<line class="axis" x1="{at}" x2="{at}" y1="{y.start}" y2="{y.start + 5}"/>')
        parts.append(f'<text x="{at}" y="{y.start + 18}" text-anchor="middle">{format_number(tick)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y.start}" y2="{y.start}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    centre = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="rotate(-90 14 {centre})" text-anchor="middle"'
    parts.append(f'<text x="14" y="{centre}" {turned}>{escape(y_label)}</text>')
    return "".join(parts)


def _legend(entries: Sequence[tuple[str, int, bool]]) -> tuple[list[str], int]:
    """Return swatches and names for the legend above the drawing, on as many lines as needed, and their height."""
    parts, left, line = [], float(LEFT), 0
    places = []
    for name, colour, dashed in entries:
        width = SWATCH + 6 + len(name) * LETTER + 18
        if left + width > WIDTH and left > LEFT:
            left, line = float(LEFT), line + 1
        places.append((left, line, name, colour, dashed))
        left += width
    height = (line + 1) * LEGEND_LINE if entries else 0
    for left, row, name, colour, dashed in places:
        middle = (row + 0.5) * LEGEND_LINE - height
        swatch = f'x1="{left:.1f}" x2="{left + SWATCH:.1f}" y1="{middle}" y2="{middle}"'
        parts.append(f'<line class="curve c{colour % COLOURS}{" dashed" * dashed}" {swatch}/>')
        parts.append(f'<text class="legend" x="{left + SWATCH + 6:.1f}" y="{middle + 4}">{escape(name)}</text>')
    return parts, height


def _svg(
    parts: Sequence[str],
    title: str,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    legend: Sequence[tuple[str, int, bool]] = (),
) -> str:
    drawn, above = _legend(legend)
    box = f"0 {-above} {size[0]} {size[1] + above}"
    # a narrow page scrolls a wide plot instead of shrinking its letters
    kind = "plot wide" if size[0] == WIDTH else "plot"
    head = f'<svg class="{kind}" viewBox="{box}" role="img" aria-label="{escape(title)}">'
    return head + "".join((*drawn, *parts)) + "</svg>"
