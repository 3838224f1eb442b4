"""`fewstep build`: say what was built and what was there."""

from pathlib import Path

from fewstep.cli.outcome import Outcome
from fewstep.graph.engines.accounts import accounts, told_of
from fewstep.graph.engines.build import BuildOptions, EngineRequest, build, by_hand, intended
from fewstep.graph.output import check_writable, write_whole
from fewstep.runtime.backends import AHEAD, graph_of
from fewstep.runtime.bundle.networks import networks, said
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.progress import Progress


def verb(options: BuildOptions, progress: Progress) -> Outcome:
    if options.script is not None:
        check_writable(options.script)
        write_whole(options.script, by_hand(options).encode())
        return Outcome({"script": options.script}, (f"{options.script}: run it in {options.bundle}, on the device",))
    result = build(options, progress)
    engines = [(each, "") for each in result.built] + [(each, " (up to date)") for each in result.kept]
    told = dict[str, tuple[str, ...]]()
    for name in networks(result.manifest):
        own = open_bundle(options.bundle).network(name)
        told |= told_of(own.manifest.engines, accounts(own))
    lines = list[str]()
    for each, note in engines:
        lines.append(f"{options.bundle / each.file}: {each.body} for {each.device}{note}")
        lines += [f"  {line}" for line in told.get(each.file, ())]
    if not engines:
        lines = [f"{options.bundle}: the body for {options.backend} is there; it is compiled when it is loaded"]
    return Outcome({"bundle": options.bundle, "built": result.built, "kept": result.kept}, tuple(lines))


def dry_run(options: BuildOptions) -> Outcome:
    engines = intended(options)
    lines = [
        f"{said(each.network, each.body)} for {each.device}: {'up to date' if each.is_up_to_date else 'to build'}"
        for each in engines
    ]
    lacking = [each for each in engines if not each.is_up_to_date]
    if lacking:
        count, size = 2 * len(lacking), sum(_bytes(options.bundle, each) for each in lacking)
        lines.append(f"would write about {size / 1e6:.1f} MB in {count} files, an engine and its key each")
        lines.append("an engine takes minutes, which depend on its GPU and its graph: nothing tells them before")
    return Outcome(engines, tuple(lines or [f"nothing to compile for {options.backend}: only its body is needed"]))


def _bytes(folder: Path, request: EngineRequest) -> int:
    """The size of an engine, about: the size of its graph, or half of float32's where there is no float16 graph yet."""
    bundle, name = open_bundle(folder).network(request.network), request.body
    half = name not in AHEAD and name.partition("/")[0] not in bundle.manifest.bodies
    graph = graph_of(bundle, "float32" if half else name)
    size = sum((folder / file).stat().st_size for file in (graph.file, *graph.data))
    return size // 2 if half else size
