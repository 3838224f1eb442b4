"""`fewstep build`: build engines, and print which were built and which were up to date."""

from pathlib import Path

from fewstep.cli.next_command import deploy_next
from fewstep.cli.outcome import Outcome
from fewstep.graph.engines.build import EngineRequest, build, build_script, list_requests
from fewstep.graph.engines.build_options import BuildOptions
from fewstep.graph.engines.builders import builder_of
from fewstep.graph.engines.engine_costs import cost_lines, read_costs
from fewstep.graph.files.output_files import check_writable, write_atomic
from fewstep.report.engines.built_engines import compare_built_engines, measure_built_forms
from fewstep.report.engines.differences import EngineComparison, NotCompared
from fewstep.report.integrity import engine_damage
from fewstep.runtime.backends import RUN_ONCE, find_graph
from fewstep.runtime.bundle.engine_key import ANY_DEVICE
from fewstep.runtime.bundle.networks import label_with_network, networks
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.progress import Progress


def verb(options: BuildOptions, progress: Progress) -> Outcome:
    if options.script is not None:
        check_writable(options.script)
        write_atomic(options.script, build_script(options).encode())
        return Outcome({"script": options.script}, (f"{options.script}: run it in {options.bundle}, on the device",))
    result = build(options, progress)
    engines = [(engine, "") for engine in result.built] + [(engine, " (up to date)") for engine in result.kept]
    costs = dict[str, tuple[str, ...]]()
    for name in networks(result.manifest):
        part = options.open().select_network(name)
        costs |= cost_lines(part.manifest.engines, read_costs(part))
    lines = list[str]()
    for each, note in engines:
        device = each.backend if each.device == ANY_DEVICE else each.device
        lines.append(f"{options.bundle / each.file}: {each.body} for {device}{note}")
        lines += [f"  {line}" for line in costs.get(each.file, ())]
    if not engines:
        lines = [f"{options.bundle}: the graphs for {options.backend} exist; it compiles them when it loads them"]
    compared = [*compare_built_engines(options.open(), options.backend, result, progress)] if options.verify else []
    lines += [f"note: {comparison.note}" for comparison in compared if isinstance(comparison, NotCompared)]
    comparisons = tuple(comparison for comparison in compared if isinstance(comparison, EngineComparison))
    lines += [
        comparison.agreement if comparison.agrees else str(engine_damage(comparison)) for comparison in comparisons
    ]
    agrees = all(comparison.agrees for comparison in comparisons)
    to_measure = (options.open(), options.precision, options.opt_batch, result)
    forms = [*measure_built_forms(*to_measure)] if builder_of(options.backend).writes_forms else []
    lines += [str(form) for form in forms]
    value = {
        "bundle": options.bundle,
        "built": result.built,
        "kept": result.kept,
        "compared": comparisons,
        "forms": tuple(forms),
    }
    then = (
        deploy_next(options.bundle, "--precision", options.precision, "--backend", options.backend) if agrees else None
    )
    return Outcome(value, tuple(lines), code=0 if agrees else 1, then=then)


def dry_run(options: BuildOptions) -> Outcome:
    engines = list_requests(options)
    lines = [
        f"{label_with_network(engine.network, engine.body)} for {engine.device}: "
        + ("up to date" if engine.is_up_to_date else "to build")
        for engine in engines
    ]
    lacking = [engine for engine in engines if not engine.is_up_to_date]
    if lacking:
        count, size = 2 * len(lacking), sum(_engine_bytes(options.bundle, engine) for engine in lacking)
        lines.append(f"would write about {size / 1e6:.1f} MB in {count} files (an engine and its key file each)")
        lines.append("building an engine takes minutes; the time depends on the GPU and the graph")
    return Outcome(
        engines,
        tuple(lines or [f"nothing to compile for {options.backend}: it compiles its graphs when it loads them"]),
    )


def _engine_bytes(folder: Path, request: EngineRequest) -> int:
    """Estimate the bytes of an engine: the size of its graph or, if there is no float16 graph yet, half the size of
    float32's."""
    bundle, name = open_bundle(folder).select_network(request.network), request.body
    half = name not in RUN_ONCE and name.partition("/")[0] not in bundle.manifest.bodies
    graph = find_graph(bundle, "float32" if half else name)
    size = sum((folder / file).stat().st_size for file in (graph.file, *graph.data))
    return size // 2 if half else size
