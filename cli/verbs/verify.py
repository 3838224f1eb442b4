"""`fewstep verify`: one line if the bundle is whole, one for each damage if not."""

from rich.filesize import decimal

from fewstep.cli.outcome import Outcome, counted
from fewstep.plans.errors import UserError
from fewstep.report.engines.differences import EngineComparison
from fewstep.report.integrity import VerifyOptions, is_baked, verify
from fewstep.runtime.bundle.platforms import QNN
from fewstep.runtime.progress import Progress


def verb(options: VerifyOptions, progress: Progress) -> Outcome:
    if is_baked(options.bundle):
        return _of_baked(options)
    integrity = verify(options, progress)
    files, plans, graphs = (
        counted(integrity.files, "file"),
        counted(integrity.plans, "plan"),
        counted(integrity.graphs, "graph"),
    )
    checked = f"{files} ({decimal(integrity.bytes)}), {plans}, {graphs} opened"
    verdict = "whole" if integrity.is_whole else f"damaged in {counted(len(integrity.damages), 'place')}"
    differing = list(dict.fromkeys(each.backend for each in integrity.engines if not each.agrees))
    if differing:
        verdict = f"{verdict}, but {' and '.join(differing)} computes it otherwise than onnxruntime"
    return Outcome(
        integrity,
        (
            *(f"{damage.what}; {damage.fix}" for damage in (*integrity.damages, *integrity.differing)),
            *(f"note: {name} is not part of the bundle" for name in integrity.unnamed),
            *(f"note: {note}" for note in integrity.notes),
            *(_agreeing(each) for each in integrity.engines if each.agrees),
            f"{options.bundle}: {verdict}; {checked}",
        ),
        code=0 if integrity.is_whole and not differing else 1,
    )


def _of_baked(options: VerifyOptions) -> Outcome:
    from fewstep.report.baked import verify_baked  # onnxruntime is for who has such a file

    if options.engines:
        raise UserError("--engines compares the graphs of a bundle, and this is a baked file", "leave --engines out")
    integrity = verify_baked(options.bundle, options.graphs)
    lines = (*(f"{damage.what}; {damage.fix}" for damage in integrity.damages), integrity.sample)
    verdict = "whole" if integrity.is_whole else f"damaged in {counted(len(integrity.damages), 'place')}"
    return Outcome(integrity, (*filter(None, lines), f"{options.bundle}: {verdict}"), int(not integrity.is_whole))


def _agreeing(engine: EngineComparison) -> str:
    of = "output's standard deviation" if engine.backend == QNN.name else "largest output"
    limit = f"at most {engine.limit:g} of the {of}"
    return f"{engine.backend} computes {engine.graph} as onnxruntime does: {engine.difference:.1e} off, {limit}"
