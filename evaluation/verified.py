"""What `export` compared with the denoiser as it was given: the worst of each stage, out of the bundle's table."""

import msgspec

from fewstep.runtime.bundle.reading import Bundle


class VerifiedStage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was compared with the denoiser as it was given, at one stage: the largest difference of all points."""

    stage: str
    points: int
    relative: float
    time: float
    batch: int


class _Comparison(msgspec.Struct, frozen=True):
    stage: str
    time: float
    batch: int
    relative: float


class _Table(msgspec.Struct, frozen=True):
    """The part of the table of `export` that is shown; a stage that it did not name is not there."""

    comparisons: tuple[_Comparison, ...]


def verified_stages(bundle: Bundle) -> tuple[VerifiedStage, ...]:
    """The bundle's table, a line a stage."""
    file = bundle.manifest.verification
    if file is None:
        return ()
    table = msgspec.json.decode(bundle.read(file), type=_Table)
    by_stage: dict[str, list[_Comparison]] = {}
    for each in table.comparisons:
        by_stage.setdefault(each.stage, []).append(each)
    worst = {stage: max(own, key=lambda each: each.relative) for stage, own in by_stage.items()}
    return tuple(
        VerifiedStage(stage, len(by_stage[stage]), each.relative, each.time, each.batch)
        for stage, each in worst.items()
    )
