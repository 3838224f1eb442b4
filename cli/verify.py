"""`fewstep verify`: one line if the bundle is whole, one for each damage if not."""

from rich.filesize import decimal

from fewstep.cli.outcome import Outcome, counted
from fewstep.evaluation.engines.differences import EngineComparison
from fewstep.evaluation.integrity import VerifyOptions, is_baked, verify
from fewstep.runtime.progress import Progress


def verb(options: VerifyOptions, progress: Progress) -> Outcome:
    if is_baked(options.bundle):
        return _of_baked(options)
    found = verify(options, progress)
    files, plans, graphs = counted(found.files, "file"), counted(found.plans, "plan"), counted(found.graphs, "graph")
    checked = f"{files} ({decimal(found.bytes)}), {plans}, {graphs} opened"
    verdict = "whole" if found.is_whole else f"damaged in {counted(len(found.damages), 'place')}"
    differing = list(dict.fromkeys(each.backend for each in found.engines if not each.agrees))
    if differing:
        verdict = f"{verdict}, but {' and '.join(differing)} computes it otherwise than onnxruntime"
    return Outcome(
        found,
        (
            *(f"{damage.what}; {damage.fix}" for damage in (*found.damages, *found.differing)),
            *(f"note: {name} is not part of the bundle" for name in found.unnamed),
            *(f"note: {note}" for note in found.notes),
            *(_agreeing(each) for each in found.engines if each.agrees),
            f"{options.bundle}: {verdict}; {checked}",
        ),
        code=0 if found.is_whole and not differing else 1,
    )


def _of_baked(options: VerifyOptions) -> Outcome:
    from fewstep.evaluation.baked import verify_baked  # onnxruntime is for who has such a file

    integrity = verify_baked(options.bundle, options.graphs)
    lines = (*(f"{damage.what}; {damage.fix}" for damage in integrity.damages), integrity.sample)
    verdict = "whole" if integrity.is_whole else f"damaged in {counted(len(integrity.damages), 'place')}"
    return Outcome(integrity, (*filter(None, lines), f"{options.bundle}: {verdict}"), int(not integrity.is_whole))


def _agreeing(found: EngineComparison) -> str:
    limit = f"at most {found.limit:g} of the largest output"
    return f"{found.backend} computes {found.graph} as onnxruntime does: {found.difference:.1e} off, {limit}"
