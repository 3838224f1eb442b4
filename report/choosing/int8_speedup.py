"""Compare the speed of int8 with that of the float32 body computed in bfloat16 by OpenVINO, to show whether int8 is
worth its calibration on this machine.

OpenVINO's bfloat16 needs no calibration, and a processor with bfloat16 products may run it as fast as int8. `choose`
does not judge samples in bfloat16, so it is not a deployment. This module only shows what int8 gains. `calibrate` times
bfloat16 first for a large network, whose calibration takes minutes.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from fewstep.measure.estimate import BUSY, measure_load
from fewstep.measure.sampling import FLOAT
from fewstep.measure.speed.duel import run_duel
from fewstep.plans.errors import UserError, quote_path
from fewstep.report.choosing.engines import (
    BF16,
    TimedEngine,
    body_facts,
    engine_name,
    open_lean_process,
    open_process,
)
from fewstep.report.choosing.measurement_cache import cache_key, read_cached, write_cached
from fewstep.runtime.backends.registry import ON_CPU
from fewstep.runtime.bundle.platforms import platform_of
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.kinds.sizes import default_sizes
from fewstep.runtime.machine.cpu import this_cpu
from fewstep.runtime.machine.memory import this_space

LOG = logging.getLogger("fewstep")
WORTH = 1.1  # speedup below which int8 is not worth its calibration


def describe_small_speedup(bundle: Bundle, body: str, engine: TimedEngine, batch: int, threads: int) -> str | None:
    """Return a sentence if an int8 body on its engine is less than WORTH times as fast as float32 in bf16, else None.
    `batch` is the rows of a call."""
    ratio = measure_speedup(bundle, body, engine, batch, threads)
    if ratio is None or ratio >= WORTH:
        return None
    gain = f"int8 wins {ratio:.2f}x here" if ratio >= 1 else "int8 is slower here"
    return (
        f"{gain}: float32 in bf16 on OpenVINO needs no calibration, and its steps take {ratio:.2f} times as"
        f" long as those of {body} ({engine_name(engine)}); compare its samples: "
        f"fewstep run {quote_path(bundle.path)} --backend {BF16}"
    )


def measure_speedup(bundle: Bundle, body: str, engine: TimedEngine, batch: int, threads: int) -> float | None:
    """Return the speed of an int8 body on its engine relative to float32 computed in bfloat16 by OpenVINO. It is
    measured once and cached. None if OpenVINO does not run here, if this processor has no bfloat16, and while other
    programs delay calls: two engines wait for their threads in different ways."""
    if not this_cpu().has_bf16:
        return None
    settings = engine.backend, engine.threads, engine.spinning
    key = cache_key("bf16", body_facts(bundle, body), body_facts(bundle, FLOAT), settings, batch, threads)
    ratio = read_cached(key, float)
    if ratio is None and measure_load(threads) >= BUSY:
        LOG.info("int8 is not compared with bf16 while other programs run")
        return None
    if ratio is None:
        sizes = {"batch": batch, **default_sizes(bundle.manifest.x_shape, bundle.manifest.sizes)}
        try:
            with (
                open_process(bundle, body, engine, sizes) as own,
                open_process(bundle, FLOAT, TimedEngine(BF16, threads, None), sizes) as other,
            ):
                ratio = run_duel(own.median_milliseconds, other.median_milliseconds).ratio
        except UserError as error:
            LOG.info("int8 is not compared with bf16: %s", error)
            return None
        write_cached(key, ratio)
    return ratio


def time_bf16(path: Path, targets: Sequence[str], threads: int) -> float | None:
    """Return the milliseconds that OpenVINO takes for a step of one sample with float32 computed in bfloat16. It is
    measured before a large network is calibrated for `targets`. None for a small network, for targets of other devices,
    if OpenVINO does not run here, or if this processor has no bfloat16.

    A small network is calibrated in less time than this takes. OpenVINO holds the weights twice: as stored, and in the
    form in which it computes. This may take more memory than the calibration, so None is returned if there is not
    enough free memory. None is also returned for a bundle that cannot be read, since the calibration will name the
    reason.
    """
    if not this_cpu().has_bf16:
        return None
    try:
        bundle = open_bundle(path)
        body = bundle.manifest.bodies.get(FLOAT)
        if body is None or not body.graph.data or not any(cpu_backend(target) for target in targets):
            return None
        needed = 2 * sum((bundle.path / name).stat().st_size for name in body.graph.data)
    except (UserError, OSError):
        return None
    free = this_space(bundle.path, bundle.path).memory_free
    if free is not None and free < needed:
        LOG.info("float32 in bf16 is not timed: it may take %d MB, and %d MB are free", needed // 10**6, free // 10**6)
        return None
    milliseconds = _time_step(bundle, FLOAT, BF16, threads)
    if milliseconds is not None:
        LOG.warning(
            "float32 in bf16 on OpenVINO takes %s ms a step here without a calibration: fewstep run %s --backend %s",
            *(_format_digits(milliseconds), quote_path(bundle.path), BF16),
        )
    return milliseconds


def describe_gain(path: Path, bodies: Mapping[str, str], bf16: float | None, threads: int) -> tuple[str, ...]:
    """Return a sentence that compares the speed of the fastest of some int8 bodies with that of float32 computed in
    bfloat16, whose step takes `bf16` milliseconds. Return an empty tuple if `bf16` is None, or if no body runs here.
    `bodies` maps body names to their targets.

    Bodies are timed one after the other, so that memory holds one. Calls of a large network are long, so one call of
    each suffices.
    """
    if bf16 is None:
        return ()
    bundle = open_bundle(path)
    here = {body: backend for body, target in bodies.items() if (backend := cpu_backend(target))}
    times = {body: _time_step(bundle, body, backend, threads) for body, backend in here.items()}
    known = {body: time for body, time in times.items() if time is not None}
    if not known:
        return ()
    body = min(known, key=known.__getitem__)
    ratio = bf16 / known[body]
    wins = f"int8 wins {ratio:.2f}x here" if ratio >= 1 else "int8 is slower here"
    hint = "" if ratio >= WORTH else f"; compare samples: fewstep run {quote_path(bundle.path)} --backend {BF16}"
    return (
        f"{wins}: a step of {body} takes {_format_digits(known[body])} ms, "
        f"and of float32 in bf16 on OpenVINO {_format_digits(bf16)} ms{hint}",
    )


def _format_digits(milliseconds: float) -> str:
    """Return a whole number from 10 on, and two digits below."""
    return f"{milliseconds:.0f}" if milliseconds >= 10 else f"{milliseconds:.2g}"


def cpu_backend(target: str) -> str:
    """Return the backend of a target if it runs on CPUs; "" for others."""
    platform = platform_of(target)
    return platform.backend if platform is not None and platform.backend in ON_CPU else ""


def _time_step(bundle: Bundle, body: str, backend: str, threads: int) -> float | None:
    """Return the milliseconds of a call for one sample, in a process that ends after it; None if it does not run.

    The process holds the network once, so that `calibrate` takes no more memory than its largest step.
    """
    sizes = {"batch": 1, **default_sizes(bundle.manifest.x_shape, bundle.manifest.sizes)}
    try:
        with open_lean_process(bundle, body, TimedEngine(backend, threads, None), sizes) as process:
            return process.median_milliseconds()
    except UserError as error:
        LOG.info("%s on %s is not timed: %s", body, backend, error)
        return None
