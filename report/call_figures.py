"""The figures of a whole call with a body: text encoder, conditioner, prologue, all steps and decoder."""

import logging
from collections.abc import Iterator, Mapping

import numpy as np

from fewstep.measure.results import CallFigures
from fewstep.measure.rollouts.metrics import Floats, psnr
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.report.call_time import valid_calls
from fewstep.report.choosing.call_shares import share_of_bytes, share_of_macs
from fewstep.report.float_body import describe_shared_graphs
from fewstep.report.sections.samples import Samples
from fewstep.runtime.autoencoder import Autoencoder, load_autoencoder
from fewstep.runtime.bundle.manifest import CallTime, Manifest
from fewstep.runtime.bundle.networks import networks
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.calibrated_plans import read_default_plan

LOG = logging.getLogger("fewstep")
PICTURES = 4  # of each body: decoding takes longer than a step


def collect_call_figures(
    bundle: Bundle, plans: Mapping[str, Plan], pictures: Samples | None
) -> tuple[CallFigures, ...]:
    """Return the figures of a call with each body along its plan. `pictures` are those of `decode_samples`."""
    times = {call.body: call for call in valid_calls(bundle.manifest)}
    qualities = {} if pictures is None else {name: psnr(*both) for name, both in pictures.bodies.items()}
    return tuple(
        CallFigures(
            body=name,
            share_of_macs=share_of_macs(bundle, name, plan),
            share_of_bytes=share_of_bytes(bundle, name, plan),
            time=times[name] if name in times and _is_timed_along(bundle, times[name], plan) else None,
            picture_psnr=tuple(qualities[name].tolist()) if name in qualities else (),
            in_float32=tuple(describe_shared_graphs(bundle.manifest, bundle.body(name))),
            networks=tuple(_describe_networks(bundle, name)),
        )
        for name, plan in plans.items()
    )


def _is_timed_along(bundle: Bundle, call: CallTime, plan: Plan) -> bool:
    """Return True if calibration timed a call along this plan, with its guidance, which decides the rows of a step."""
    kept = read_default_plan(bundle, bundle.body(call.body))
    return call.plan == plan.name and plan.guidance == (None if kept is None else kept.guidance)


def decode_samples(bundle: Bundle, samples: Samples) -> Samples | None:
    """Return the pictures of the first PICTURES samples, which each body decodes by its own decoder. None without a
    decoder of pictures of this size, or if it does not run here."""
    described = bundle.manifest.autoencoder
    if described is None or [output.role for output in described.decoder.outputs] != ["image"]:
        return None
    if samples.reference.shape[1:] != bundle.manifest.x_shape:
        return None
    try:
        float32 = load_autoencoder(bundle, encoder=False)
        exact, bodies = _decode(float32, samples.reference), dict[str, tuple[Floats, Floats]]()
        for name, (latents, reference) in samples.bodies.items():
            own = bundle.with_graphs_of(name)
            decoder = float32 if own.manifest == bundle.manifest else load_autoencoder(own, encoder=False)
            is_alike = np.array_equal(reference[:PICTURES], samples.reference[: len(reference[:PICTURES])])
            expected = exact if is_alike else _decode(float32, reference)  # a body may have its own plan
            bodies[name] = _decode(decoder, latents), expected[: len(latents)]
        teacher = _decode(float32, samples.teacher) if len(samples.teacher) else samples.teacher
    except UserError as error:
        LOG.warning("pictures are not compared: %s", error)
        return None
    return Samples(teacher, exact, bodies, samples.labels)


def _decode(autoencoder: Autoencoder, latents: Floats) -> Floats:
    return autoencoder.decode(latents[:PICTURES])


def why_not_shown(manifest: Manifest) -> str | None:
    """Return why samples are not shown as pictures; None if they are pictures."""
    shape = list(manifest.x_shape)
    if manifest.autoencoder is not None:
        return f"samples are latents {shape}, which no decoder here turned into pictures of one size"
    if manifest.policy is not None:
        return f"samples are sequences of actions {shape}"
    if len(shape) == 3 and shape[0] in (1, 3):
        return None
    return f"samples are arrays {shape}, and a picture has 1 or 3 channels, a height and a width"


def _describe_networks(bundle: Bundle, name: str) -> Iterator[str]:
    """Yield a sentence on each of several networks: the quality that calibration measured with it alone in int8."""
    names = networks(bundle.manifest)
    for network in names if len(names) > 1 else ():
        for trial in bundle.select_network(network).body(name).trials:
            yield (
                f"network {network} of {name}, the others in float32: {trial.psnr:.1f} dB, 5th percentile "
                f"{trial.p5:.1f} dB on {trial.seeds} seeds of the calibration"
            )
