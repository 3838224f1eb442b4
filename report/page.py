"""Build the report page from results and samples: one self-contained HTML file without scripts."""

from collections.abc import Sequence
from html import escape

from fewstep.measure.body_backends import SIMULATION
from fewstep.measure.results import BodyCoverage, Operation, Quality, Results
from fewstep.measure.rollouts.size_quality import describe_worst
from fewstep.measure.speed.race import describe_measure, describe_times
from fewstep.report.advice import Advice
from fewstep.report.call_time import describe_busy
from fewstep.report.drawing import plots
from fewstep.report.drawing.plots import Series
from fewstep.report.elements import (
    Content,
    Html,
    card,
    count,
    decibel,
    details,
    figure,
    join,
    milliseconds,
    paragraph,
    percent,
    plain,
    section,
    size,
    table,
    times,
)
from fewstep.report.engines.section import engines_section
from fewstep.report.glossary import glossary_section, lead_paragraph, link_terms
from fewstep.report.sections.distribution import distribution_section
from fewstep.report.sections.guidance import guidance_section
from fewstep.report.sections.joints import joints_section
from fewstep.report.sections.judge import judge_card, judge_section
from fewstep.report.sections.precision import ShownMap, precision_section
from fewstep.report.sections.quality import quality_section
from fewstep.report.sections.samples import Samples, samples_section
from fewstep.report.sections.tokens import tokens_section
from fewstep.report.style import STYLE
from fewstep.report.verdict import list_warnings
from fewstep.runtime.bundle.networks import label_with_network
from fewstep.runtime.bundle.platforms import ONNXRUNTIME


def build_page(
    results: Results,
    samples: Samples | None,
    evaluation: Results | None = None,
    maps: Sequence[ShownMap] = (),
    engines: Sequence[tuple[str, ...]] = (),
    advised: Advice | None = None,
) -> bytes:
    """Return the whole document in UTF-8.

    samples: None for a token denoiser.
    evaluation: the results of `fewstep measure` for the same bodies.
    maps: the precision searches that selected the bodies.
    engines: the engines of `describe_engines`.
    advised: the verdict and the next command.
    """
    sections = [
        *([] if advised is None else [lead_paragraph(str(advised))]),
        headline(results),
        *(lead_paragraph(warning) for warning in list_warnings(results)),
        *filter(None, [judge_section(results)]),
        *([] if samples is None else _sample_sections(results, samples)),
        *([] if evaluation is None else [distribution_section(evaluation)]),
        *([steps_section(results)] if samples else [tokens_section(results.qualities)]),
        *filter(None, [joints_section(results), guidance_section(results)]),
        coverage_section(results),
        *([precision_section(maps)] if maps else []),
        *([engines_section(engines)] if engines else []),
        speed_section(results),
    ]
    sections += [glossary_section(join(sections)), provenance_section(results)]
    title = escape(f"{results.bundle}: int8 report")
    document = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main>{header(results).markup}{join(sections).markup}"
        f"<footer>Measured in this run, in {results.seconds:.0f} s, unless stated otherwise. Exact values: the JSON "
        "file next to this page, and the value attribute of each figure in its source.</footer></main></body></html>\n"
    )
    return document.encode()


def _sample_sections(results: Results, samples: Samples) -> list[Html]:
    """Return the sections on the finished samples and their quality."""
    is_image = samples.reference.ndim == 4
    return [samples_section(samples, results.plan, results.teacher), quality_section(results, is_image)]


def header(results: Results) -> Html:
    guidance = "no guidance" if results.guidance is None else f"guidance {results.guidance}"
    bodies = " and ".join(quality.body for quality in results.qualities)
    lead = f"{bodies} compared with float32, along the plan {results.plan}, {guidance}."
    return Html(f'<header><h1>{escape(results.bundle)}</h1><p class="lead">{link_terms(lead).markup}</p></header>')


def headline(results: Results) -> Html:
    """Return the figures at the top of the page, of a whole call with the body that runs on this machine: quality,
    speed, work and size. Without the figures of a call, those of its steps are named as such."""
    first = results.qualities[0]
    end, call = first.against_float, results.call_of(first.body)
    covered = [coverage for coverage in results.covered if coverage.body == first.body]
    seeds = f", {end.seeds} held-out seeds"
    if (tokens := first.tokens) is not None:
        same = join([percent(tokens.same), " are equal in the finished samples", seeds])
        cards = [card(link_terms("Most likely tokens that int8 changes"), percent(tokens.disagreement, 2), same)]
    else:
        worst = describe_worst(first.by_size)
        rest = join(["5th percentile ", decibel(end.p5), ", worst ", decibel(end.worst), worst, link_terms(seeds)])
        what, shown = "samples", end.mean
        if call is not None and (of_pictures := call.mean_picture_psnr) is not None:
            rest = join([f"{len(call.picture_psnr)} pictures; latents ", decibel(end.mean), ", ", rest])
            what, shown = "pictures", of_pictures
        cards = [card(link_terms(f"PSNR of finished {what}, int8 against float32"), decibel(shown), rest)]
    if first.judged is not None:
        cards.insert(0, judge_card(first.judged))
    if call is not None and (timed := call.time) is not None:
        both = join([milliseconds(timed.float32 / 1e3), " to ", milliseconds(timed.milliseconds / 1e3)])
        busy = describe_busy(timed)
        used = " of processor time" if busy else ""
        rounds = join([", rounds from ", times(timed.slowest), " to ", times(timed.fastest)])
        note = join([both, used, rounds, f", {timed.processor}{busy}"])
        cards.append(card(link_terms("Speedup of int8 over float32 in a whole call"), times(timed.speedup), note))
    contests = [(race, fast) for race in results.races for fast in race.timings if fast.name == first.body]
    if contests and (call is None or call.time is None):
        race, fast = min(contests, key=lambda contest: contest[1].ratio)  # the batch size with the smallest speedup
        both = join([milliseconds(race.timings[0].median), " to ", milliseconds(fast.median)])
        engines = f", {first.computed_by} against {ONNXRUNTIME}" if first.body in _other_engines(results) else ""
        note = join([both, f", batch {race.batch}, {race.threads} threads{engines}"])
        cards.append(card(link_terms("Speedup of int8 over float32 in a mean step alone"), times(fast.ratio), note))
    if (share := results.int8_share(first.body)) is not None:
        int8, others = (
            sum(len(getattr(coverage.coverage, ops)) for coverage in covered) for ops in ("int8_ops", "float_ops")
        )
        where = " in the last steps" if any(map(_is_staged, covered)) else ""
        note = join([count(int8), " operations int8, ", count(others), f" float{where}"])
        title = "Work (MACs) of the steps in int8"
        if call is not None and call.share_of_macs is not None:
            title, note = "Work (MACs) of a whole call in int8", join([percent(share), " of the steps: ", note])
            share = call.share_of_macs
        cards.append(card(link_terms(title), percent(share), note))
    if first.body in results.sizes:
        ratio = results.sizes["float32"] / results.sizes[first.body]
        note = join([size(results.sizes["float32"]), " to ", size(results.sizes[first.body])])
        if call is not None and call.share_of_bytes is not None:
            note = join([note, ", ", percent(call.share_of_bytes), " of the bytes are of graphs in int8"])
        cards.append(card(link_terms("Size of all graphs of a call, float32 over int8"), times(ratio), note))
    return Html(f'<div class="cards">{join(cards).markup}</div>')


def steps_section(results: Results) -> Html:
    """Return the section on the error along the plan: where it arises, and how it accumulates."""
    parts: list[Html] = [
        lead_paragraph(
            "Signal to quantization noise at each step. Teacher-forced: both networks see the states of float32, so "
            "a point is the error of that step only, in the guided output. Closed loop: each network follows its own "
            "trajectory, so a point is the accumulated error, in the predicted clean sample x0 and in the state x "
            "after the step."
        )
    ]
    parts += [_steps(quality) for quality in results.qualities]
    return section("Step by step", *parts)


def _steps(quality: Quality) -> Html:
    numbers = [step.index + 1 for step in quality.steps]
    forced = {step.index + 1: step.forced for step in quality.steps if step.forced is not None}
    curves = [
        Series("output, teacher-forced", [*forced], [*forced.values()], 0),
        Series("x0, closed loop", numbers, [step.x0 for step in quality.steps], 1),
        Series("x, closed loop", numbers, [step.x for step in quality.steps], 1, dashed=True),
    ]
    drawn = Html(plots.line_plot(curves, "step, from noise to clean", "SQNR (dB)", x_ticks=numbers))
    caption = (
        f"{quality.body}, computed by {quality.computed_by}: {quality.against_float.seeds} seeds, "
        f"{quality.forced_seeds} of them teacher-forced."
    )
    head = [link_terms(each) for each in ("step", "time", "lambda", "range group", "output, forced", "x0", "x")]
    rows = [
        [
            count(step.index + 1),
            plain(step.time, 1),
            "-∞" if step.lam is None else plain(step.lam, 2),
            count(step.group),
            "none" if step.forced is None else decibel(step.forced),
            decibel(step.x0),
            decibel(step.x),
        ]
        for step in quality.steps
    ]
    return join([figure(drawn, caption), details("The same as a table", table(head, rows, text_columns=0))])


def coverage_section(results: Results) -> Html:
    """Return the section on the operations in int8 and in float, and how they were counted."""
    alike: dict[tuple[tuple[Operation, ...], float], list[BodyCoverage]] = {}
    for covered in results.covered:
        alike.setdefault((covered.operations, covered.share), []).append(covered)
    counter = "its engine" if _other_engines(results) else ONNXRUNTIME
    parts = [
        lead_paragraph(
            f"For the body that runs here, operations are counted in the graph that {counter} optimized during "
            "calibration. For a simulated body, they are counted where the graph requests int8 from its engine."
        )
    ]
    parts += [_coverage(group) for group in alike.values()]
    parts += [paragraph(f"{call.body}: {line}.") for call in results.calls for line in call.in_float32]
    if not alike:
        parts = [paragraph("This bundle records no coverage. Calibrate it again to count it.")]
    return section("Coverage", *parts)


def _coverage(alike: Sequence[BodyCoverage]) -> Html:
    """Return the summary, the table of float operations and the collapsed table of int8 operations, for bodies whose
    operations run in the same types."""
    covered = alike[0]
    total = covered.coverage.total_macs
    head: list[Content] = ["operation", "kind", "why float", "channels", link_terms("MACs"), "share"]
    rows: dict[str, list[Sequence[Content]]] = {"float": [], "int8": []}
    for operation in covered.operations:
        channels = f"{operation.channels[0]} to {operation.channels[1]}" if operation.channels else ""
        share = percent(operation.macs / total, 2)
        rows[operation.precision].append(
            [operation.name, operation.kind, operation.reason, channels, count(operation.macs), share]
        )
    ours = len(rows["int8"])
    sentence = paragraph(
        Html(f"<b>{escape(', '.join(label_with_network(body.network, body.body) for body in alike))}</b>: "),
        percent(covered.coverage.int8_macs / total, 2),
        " of ",
        count(total),
        link_terms(
            f" multiply-accumulates of one evaluation run in int8: {ours} of {len(covered.operations)} operations. "
        ),
        *_other_stages(covered),
        "These stay in float:" if rows["float"] else "None stays in float.",
    )
    left = table(head, rows["float"], text_columns=3) if rows["float"] else Html("")
    return join([sentence, left, details(f"The {ours} in int8", table(head, rows["int8"], text_columns=3))])


def _is_staged(covered: BodyCoverage) -> bool:
    """Return whether other graphs, with other operations in float, run some of the steps."""
    return covered.share != covered.coverage.int8_macs / covered.coverage.total_macs


def _other_stages(covered: BodyCoverage) -> Sequence[Content]:
    if not _is_staged(covered):
        return ()
    return "This is the graph of the last steps; over all steps of the plan, int8 has ", percent(covered.share, 2), ". "


def speed_section(results: Results) -> Html:
    """Return the section on speed and size: each timing as bars, then all timings as one table."""
    parts: list[Html] = [
        lead_paragraph(
            "The time of one call of the body on a batch of rows (a guided sample takes two rows). With several graphs "
            "or networks it is the mean over the plan's steps. Each body runs in its own process, in turns with the "
            f"others; a speedup{describe_measure(results.races)} is the median over rounds, and milliseconds are of "
            f"{describe_times(results.races)}. "
            f"Machine: {results.machine.processor}, "
            f"{', '.join(results.machine.int8_instructions) or 'no int8 instructions known'}."
        )
    ]
    charts = []
    for race in results.races:
        medians = [(timing.name, 1000 * timing.median) for timing in race.timings]
        drawn = Html(plots.bar_plot(medians, lambda value: f"{value:.2f} ms"))
        on = ", ".join([ONNXRUNTIME, *(f"{name} on {engine}" for name, engine in _other_engines(results).items())])
        charts.append(figure(drawn, f"{race.batch} rows, {race.threads} threads, {on}; shorter is faster"))
    parts.append(Html(f'<div class="two">{join(charts).markup}</div>'))
    head = ["graph", "rows", "threads", "median", "p10", "p90", "times faster", "lowest", "highest", "load", "memory"]
    rows: list[Sequence[Content]] = [
        [
            timing.name,
            count(race.batch),
            count(race.threads),
            milliseconds(timing.median),
            milliseconds(timing.p10),
            milliseconds(timing.p90),
            times(timing.ratio),
            times(timing.ratio_low),
            times(timing.ratio_high),
            milliseconds(timing.load),
            size(timing.peak_mib * 2**20),
        ]
        for race in results.races
        for timing in race.timings
    ]
    parts.append(table(head, rows))
    profiled = [timing for race in results.races[:1] for timing in race.timings if timing.kinds]
    if kinds := list(dict.fromkeys(kind for timing in profiled for kind in timing.kinds)):
        spent: list[Sequence[Content]] = [
            [timing.name, *(percent(timing.kinds.get(kind, 0.0), 0) for kind in kinds)] for timing in profiled
        ]
        parts += [paragraph("Where onnxruntime spends a step, by kind of operation:"), table(["body", *kinds], spent)]
    sizes: list[Sequence[Content]] = [[body, size(bytes_)] for body, bytes_ in results.sizes.items()]
    parts.append(table(["body", "graph and weights"], sizes))
    return section("Speed and size", *parts)


def _other_engines(results: Results) -> dict[str, str]:
    """Return, by body name, the inference engine of each body that onnxruntime neither ran nor simulated."""
    usual = (ONNXRUNTIME, SIMULATION)
    return {quality.body: quality.computed_by for quality in results.qualities if quality.computed_by not in usual}


def provenance_section(results: Results) -> Html:
    """Return the section with the commands, versions and machine that reproduce this page."""
    machine = results.machine
    rows: list[Sequence[Content]] = [[name, version] for name, version in machine.versions.items()]
    rows += [["processor", f"{machine.processor}, {machine.cores} cores"], ["system", machine.system]]
    commands = "\n".join((*results.made, results.command))
    parts = [Html(f"<pre><code>{escape(commands)}</code></pre>"), table(["", ""], rows, text_columns=2)]
    parts += [paragraph(note, kind="note") for note in results.notes]
    return section("How this report was made", *parts)
