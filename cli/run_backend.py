"""The backend that `fewstep run` loads: the one that is named, or with `auto` the fastest that this machine has."""

import logging
from collections.abc import Mapping
from pathlib import Path

from fewstep.evaluation.speed.fastest import AUTO, KeptChoice, check_precision, choice_line, fastest, for_rows
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.named import NAMED, named
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.loading import choose_body, load
from fewstep.runtime.sampler import Sampler

LOG = logging.getLogger("fewstep")


def check_body(bundle: Bundle, precision: str, backend: str, threads: int) -> None:
    """UserError where there is no backend of that name, or it has no body of the precision; for auto, if none has."""
    if backend == AUTO:
        check_precision(bundle, precision)
    elif backend not in NAMED:
        raise UserError(f"unknown backend {backend!r}", f"choose one of {', '.join((AUTO, *NAMED))}")
    else:
        choose_body(bundle, precision, named(backend, threads))


def opened(
    path: Path, precision: str, backend: str, threads: int, plan: str | None, batch: int, sizes: Mapping[str, int]
) -> tuple[Sampler, KeptChoice | None]:
    """The bundle, ready to run calls of the network on `batch` rows of x at these sizes, and the choice of `auto`.
    `plan`: the one that is asked for."""
    if backend != AUTO:
        return load(path, precision, backend=for_rows(named(backend, threads), batch)), None
    bodies = open_bundle(path).manifest.bodies.values()
    along = plan or next((each.plan for each in bodies if each.precision == precision and each.plan), None)
    choice = fastest(path, precision, along, batch, threads, sizes)
    LOG.info("backend: %s", choice_line(choice.kept))
    if choice.file is not None:
        LOG.info("this choice is kept; to measure again, delete %s", choice.file)
    for each in choice.kept.timed:
        if each.milliseconds is None:
            LOG.debug("backend: not %s (%s)", each.backend, each.reason)
    return load(path, body=choice.body, backend=choice.backend), choice.kept
