"""`fewstep verify`: check a bundle or a baked file, and print one line if it is intact, otherwise one line for each
fault."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.filesize import decimal
from rich.table import Table

from fewstep.cli.outcome import Outcome, pluralize
from fewstep.cli.tables import table
from fewstep.plans.errors import UserError
from fewstep.report.integrity import Damage, VerifyOptions, is_baked, is_parts, verify
from fewstep.runtime.progress import Progress

if TYPE_CHECKING:
    from fewstep.measure.spec.spec_check import SpecCheck


def verb(options: VerifyOptions, progress: Progress) -> Outcome:
    if is_baked(options.bundle):
        return _verify_baked(options)
    if is_parts(options.bundle):
        return _verify_parts(options)
    integrity = verify(options, progress)
    files, graphs = pluralize(integrity.files, "file"), pluralize(integrity.graphs, "graph")
    checked = f"{files} ({decimal(integrity.bytes)}), {pluralize(integrity.plans, 'plan')}, {graphs} opened"
    verdict = _verdict(integrity.damages)
    differing = list(dict.fromkeys(engine.backend for engine in integrity.engines if not engine.agrees))
    if differing:
        verdict = f"{verdict}, but results of {' and '.join(differing)} differ from onnxruntime"
    if integrity.incorrect:
        verdict = f"{verdict}, but onnxruntime computes {pluralize(len(integrity.incorrect), 'graph')} incorrectly here"
    is_right = integrity.is_whole and not integrity.incorrect
    spec, of_spec = None, list[Table | str]()
    if options.data is not None and is_right:
        from fewstep.measure.spec.spec_samples import check_bundle  # imports onnxruntime, which only --data needs

        spec = check_bundle(options.open(), options.data, progress)
        of_spec = [_error_table(spec), str(spec)]
    value: object = integrity if spec is None else {"integrity": integrity, "spec": spec}
    return Outcome(
        value,
        (
            *map(str, (*integrity.damages, *integrity.incorrect, *integrity.differing)),
            *(f"note: {name} is not part of the bundle" for name in integrity.unnamed),
            *(f"note: {note}" for note in integrity.notes),
            *(engine.agreement for engine in integrity.engines if engine.agrees),
            *of_spec,
            f"{options.bundle}: {verdict}; {checked}",
        ),
        code=0 if is_right and not differing and not (spec and spec.mistake) else 1,
    )


def _error_table(spec: "SpecCheck") -> Table:
    """Return a table of the error at each time, compared with a linear denoiser's."""
    rows = [(f"{error.time:.4g}", f"{error.error:.3g}", f"{error.linear:.3g}") for error in spec.errors]
    caption = (
        f"Squared error of {spec.samples} denoised samples over the variance of the data. A trained network has a "
        "smaller error than a linear denoiser."
    )
    return table(("time", "error", "linear denoiser"), rows, caption=caption)


def _verify_baked(options: VerifyOptions) -> Outcome:
    from fewstep.report.baked_integrity import verify_baked  # imports onnxruntime, which only baked files need

    if options.engines:
        raise UserError("--engines compares the graphs of a bundle, not of a baked file", "leave --engines out")
    integrity = verify_baked(options.bundle, options.graphs)
    lines = (*map(str, integrity.damages), integrity.sample)
    last = f"{options.bundle}: {_verdict(integrity.damages)}"
    return Outcome(integrity, (*filter(None, lines), last), int(not integrity.is_whole))


def _verify_parts(options: VerifyOptions) -> Outcome:
    from fewstep.report.parts_integrity import verify_parts  # imports onnxruntime, which only baked files need

    if options.engines:
        raise UserError("--engines compares the graphs of a bundle, not of a baked run", "leave --engines out")
    integrity = verify_parts(options.bundle, options.graphs)
    ran = ", and the first step ran" * bool(integrity.is_whole and integrity.graphs)
    checked = f"{pluralize(integrity.files, 'file')}, {pluralize(integrity.graphs, 'graph')} opened{ran}"
    notes = (f"note: {note}" for note in integrity.notes)
    last = f"{options.bundle}: {_verdict(integrity.damages)}; {checked}"
    return Outcome(integrity, (*map(str, integrity.damages), *notes, last), int(not integrity.is_whole))


def _verdict(damages: Sequence[Damage]) -> str:
    return f"damaged ({pluralize(len(damages), 'fault')})" if damages else "intact"
