"""Compare the speed of int8 with that of float32's body in bf16 on OpenVINO, to show whether int8 is worth its
calibration on this machine.

OpenVINO's bf16 needs no calibration, and a processor with bf16 products may run it as fast as int8. `choose` does not
judge samples in bf16, so bf16 is not a deployment. This module only shows what int8 gains.
"""

import logging

from fewstep.measure.sampling import FLOAT
from fewstep.measure.speed.duel import run_duel
from fewstep.plans.errors import UserError
from fewstep.report.choosing.engines import BF16, TimedEngine, body_facts, engine_name, open_process
from fewstep.report.choosing.measurement_cache import cache_key, read_cached, write_cached
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sizes import default_sizes

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
        f"{gain}: float32 in bf16 on OpenVINO needs no calibration, and takes {ratio:.2f} times as"
        f" long as {body} ({engine_name(engine)}); compare its samples: fewstep run {bundle.path} --backend {BF16}"
    )


def measure_speedup(bundle: Bundle, body: str, engine: TimedEngine, batch: int, threads: int) -> float | None:
    """Return how many times as fast a call of an int8 body on its engine is as one of float32 in bf16 on OpenVINO. It
    is measured once and cached. None if OpenVINO does not run here."""
    settings = engine.backend, engine.threads, engine.spinning
    key = cache_key("bf16", body_facts(bundle, body), body_facts(bundle, FLOAT), settings, batch, threads)
    ratio = read_cached(key, float)
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
