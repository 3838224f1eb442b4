"""`fewstep export`: export a denoiser to a bundle, and print how closely the bundle reproduces its source."""

from fewstep.cli.outcome import Outcome
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.manifest import describe_existing_additions
from fewstep.export.network_sources import check_sources, describe_loras
from fewstep.export.spec import Spec
from fewstep.export.weights_only import describe_rounding
from fewstep.graph.files.commit import check_room, existing_parent
from fewstep.graph.resource_needs import Needs, check_memory, combine_needs, format_duration
from fewstep.runtime.bundle.reading import MANIFEST, Bundle
from fewstep.runtime.progress import Progress


def verb(options: ExportOptions, progress: Progress) -> Outcome:
    manifest = export(options, progress)
    from fewstep.cli.next_command import calibrate_next  # imports onnxruntime, which --help does not need
    from fewstep.export.verification.verify import Verification

    line = f"{options.output}: {manifest.name}"
    verification = None
    if manifest.verification is not None:
        verification = Bundle(options.output, manifest).decode(manifest.verification, Verification)
        line += (
            f", verified against {verification.reference} at {len(verification.comparisons)} points"
            f"{' (quick)' * (verification.scope == 'quick')}, "
            f"largest relative difference {verification.worst.relative:.1e}"
        )
    value = {"bundle": options.output, "name": manifest.name, "verification": verification}
    others = (*describe_rounding(options.precision), *describe_loras(options, manifest))
    return Outcome(value, (line, *others), then=calibrate_next(options.output, options.lora))


def dry_run(options: ExportOptions) -> Outcome:
    from fewstep.export.load_and_trace import time_one_sample  # imports onnxruntime, which --help does not need
    from fewstep.export.resource_needs import estimate_needs
    from fewstep.export.verification.verify import count_samples
    from fewstep.measure.spec.spec_check import USUAL_EVALUATIONS

    folder = existing_parent(options.output)
    labels, specs, each, counts, times = [], [], list[Needs | None](), list[int](), list[float | None]()
    for source in check_sources(options):  # only one source is in memory at a time
        labels.append((source.label, source.sha256))
        specs.append(source.spec)
        own = estimate_needs(source, options.precision)
        if own is not None:  # before the network is run
            check_room(options.output, own.disk)
            check_memory(own, folder)
        each.append(own)
        is_checked = options.check is not None and len(specs) == 1  # the check is of the first network
        counts.append(count_samples(source.spec, options.verify) + is_checked * USUAL_EVALUATIONS)
        one = time_one_sample(source)
        times.append(None if one is None else counts[-1] * one)
        del source
    known = [need for need in each if need is not None]
    needed = combine_needs(known) if len(known) == len(each) else None
    if needed is not None:
        check_room(options.output, needed.disk)
        check_memory(needed, folder)
    count, seconds = sum(counts), None if None in times else sum(filter(None, times))
    there = f"would make {options.output}"
    if (options.output / MANIFEST).is_file():  # an export that was killed leaves a folder without a manifest
        gone = describe_existing_additions(options.output)
        there = f"would replace the bundle {options.output}" + (
            f", and delete what later verbs added to it ({gone})" if gone else ""
        )
    return Outcome(
        {
            "bundle": options.output,
            "name": specs[0].name,
            "x_shape": specs[0].x_shape,
            "source_sha256": labels[0][1],
            "needs": needed,
            "evaluations": count,
            "seconds": seconds,
        },
        (
            *(_describe_source(label, spec) for (label, _), spec in zip(labels, specs, strict=True)),
            f"{there}; after tracing, {_describe_work(count, seconds, options.check is not None)}",
            *(() if needed is None else (needed.describe(folder),)),
        ),
    )


def _describe_work(count: int, seconds: float | None, is_checked: bool) -> str:
    time = "" if seconds is None else f", about {format_duration(seconds)} here"
    if is_checked:
        return f"check and verification take about {count} evaluations of one sample{time}, more if facts stay open"
    return f"verification takes {count} evaluations of one sample{time}"


def _describe_source(label: str, spec: Spec) -> str:
    conditions = ", ".join(condition.name for condition in spec.conditions) or "none"
    return (
        f"{label}: {spec.name}, x {list(spec.x_shape)}, predicts {spec.prediction}, "
        f"schedule {spec.schedule.kind}, conditions: {conditions}"
    )
