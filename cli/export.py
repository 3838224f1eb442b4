"""`fewstep export`: say how far the bundle is from what it came from."""

from pathlib import Path

import msgspec

from fewstep.cli.outcome import Outcome
from fewstep.export.export import ExportOptions, check, export, made_from
from fewstep.graph.commit import check_room, existing
from fewstep.graph.needs import check_memory, duration
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import MANIFEST, Bundle, open_bundle
from fewstep.runtime.progress import Progress


def verb(options: ExportOptions, progress: Progress) -> Outcome:
    manifest = export(options, progress)
    from fewstep.export.verification.verify import Verification  # onnxruntime is not for --help

    said = f"{options.output}: {manifest.name}"
    verification = None
    if manifest.verification is not None:
        content = Bundle(options.output, manifest).read(manifest.verification)
        verification = msgspec.json.decode(content, type=Verification)
        said += (
            f", verified against {verification.reference} at {len(verification.comparisons)} points"
            f"{' (quick)' * (verification.scope == 'quick')}, "
            f"largest relative difference {verification.worst.relative:.1e}"
        )
    return Outcome({"bundle": options.output, "name": manifest.name, "verification": verification}, (said,))


def dry_run(options: ExportOptions) -> Outcome:
    source = check(options)
    from fewstep.export.load_and_trace import one_sample  # onnxruntime is not for --help
    from fewstep.export.needs import needs
    from fewstep.export.verification.verify import samples

    folder = existing(options.output)
    if (needed := needs(source, options.dtype)) is not None:
        check_room(options.output, needed.disk)
        check_memory(needed, folder)
    count, seconds = samples(source.spec, options.verify), one_sample(source)
    time = "" if seconds is None else f", about {duration(count * seconds)} here"
    spec = source.spec
    conditions = ", ".join(condition.name for condition in spec.conditions) or "none"
    there = f"would make {options.output}"
    if (options.output / MANIFEST).is_file():  # a killed export leaves a folder without one
        gone = _made_there(options.output)
        there = f"would replace the bundle {options.output}" + (
            f", and drop what was made from it ({gone})" if gone else ""
        )
    return Outcome(
        {
            "bundle": options.output,
            "name": spec.name,
            "x_shape": spec.x_shape,
            "source_sha256": source.sha256,
            "needs": needed,
            "evaluations": count,
            "seconds": None if seconds is None else count * seconds,
        },
        (
            f"{source.label}: {spec.name}, x {list(spec.x_shape)}, predicts {spec.prediction}, "
            f"schedule {spec.schedule.kind}, conditions: {conditions}",
            f"{there}; verifying takes {count} evaluations of one sample{time}, and tracing comes before it",
            *(() if needed is None else (needed.said(folder),)),
        ),
    )


def _made_there(folder: Path) -> str:
    """What was made from the bundle that would go; nothing for one that cannot be read, which goes as well."""
    try:
        return made_from(open_bundle(folder).manifest)
    except UserError:
        return ""
