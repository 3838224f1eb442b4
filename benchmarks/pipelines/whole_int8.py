"""Calibrate a bundle that takes prompts for this CPU, and run it from a prompt to its output in int8."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.lowering.targets import usual_targets
from fewstep.calibration.options import CalibrateOptions
from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.output import ARRAY, PICTURE, SOUND
from fewstep.cli.run.sampling import run
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import TextReference, parse_plan_text
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.networks import networks, select_network, shared_graphs
from fewstep.runtime.bundle.platforms import body_name
from fewstep.runtime.bundle.reading import open_bundle

Array = NDArray[np.generic]

INT8, STORED = "int8", "8-bit weights"
TRAJECTORIES = 4  # the fewest without a warning
PLAN = "scheduler:3"  # the shorter of the two plans that are compared with the pipeline
PROMPTS = [f"{color} {thing}" for color in ("red", "gold", "a dark", "a") for thing in ("cat", "sea", "old man", "oak")]
SUFFIXES = {"image": PICTURE, "video": PICTURE, "audio": SOUND}  # by the role of the first output


@dataclass(frozen=True)
class WholeInt8:
    """A run from a prompt to the output with all networks of the int8 body for this CPU.

    networks: for each network, "int8", "8-bit weights", or why it stays in float32. Without an int8 denoiser, there is
        only that, with the error of `calibrate`.
    psnr: of the output against that of float32 from the same noise, in dB, relative to its largest value. None if there
        is no int8 denoiser.
    """

    networks: Mapping[str, str]
    psnr: float | None = None


def run_whole_int8(bundle: Path) -> WholeInt8:
    """Calibrate a bundle with a text encoder, and run its int8 body. Raises UserError if the run fails."""
    target, prompts = usual_targets()[0], bundle.with_name(f"{bundle.name}.txt")
    prompts.write_text("\n".join(PROMPTS), encoding="utf-8")
    options = CalibrateOptions(bundle, plan=_find_plan(bundle), target=(target,), trajectories=TRAJECTORIES)
    try:
        calibrate(replace(options, prompts=prompts, conditions=_write_conditions(bundle, len(PROMPTS))))
    except UserError as error:
        return WholeInt8({"denoiser": error.what})
    precisions = dict(list_precisions(open_bundle(bundle).manifest, body_name(INT8, target)))
    exact, own = (_run(bundle, precision) for precision in ("float32", INT8))
    return WholeInt8(precisions, _psnr(own, exact))


def list_precisions(manifest: Manifest, body: str) -> Iterator[tuple[str, str]]:
    """Yield the name of each network of a bundle as a body runs it, and its precision, or why it stays in float32."""
    names = networks(manifest)
    for network in names:
        own = select_network(manifest, network)
        yield network, INT8
        for name in shared_graphs(own):
            label = f"{network}'s {name}" if network != names[-1] and name in ("prologue", "conditioner") else name
            replaced, reason = own.bodies[body].replaces.get(name), own.bodies[body].reasons.get(name)
            if replaced is not None:
                yield label, STORED if replaced.coverage is None else INT8
            elif reason is not None or name != "prologue":  # a prologue without weights needs no reason
                yield label, reason or "float32, without a reason"


def draw_conditions(manifest: Manifest, rows: int) -> dict[str, Array]:
    """Return random values [rows, *shape] of the conditions that have no default and do not follow from a prompt:
    numbers in [0, 1), and ones of other types."""
    rng = np.random.default_rng(0)
    worded = set() if manifest.text is None else {output.name for output in manifest.text.graph.outputs}
    needed = [
        condition for condition in manifest.conditions if condition.default is None and condition.name not in worded
    ]
    return {each.name: _draw(rng, (rows, *each.shape), each.dtype, "mask" in each.name) for each in needed}


def _draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, is_mask: bool) -> Array:
    if is_mask or np.dtype(dtype).kind != "f":
        return np.ones(shape, dtype)
    return rng.random(shape, np.float32)


def _find_plan(bundle: Path) -> TextReference | None:
    """Return a short plan. The default one is for bundles without a scheduler, and has steps for each network."""
    manifest = open_bundle(bundle).manifest
    return None if manifest.scheduler is None or len(networks(manifest)) > 1 else parse_plan_text(PLAN)


def _run(bundle: Path, precision: str) -> NDArray[np.float32]:
    """Return the output of a bundle for a prompt."""
    manifest = open_bundle(bundle).manifest
    role = None if manifest.autoencoder is None else manifest.autoencoder.decoder.outputs[0].role
    output = bundle.with_name(f"{bundle.name}-{precision}").with_suffix(SUFFIXES.get(role or "", ARRAY))
    conditions = _write_conditions(bundle, 1)
    return run(RunOptions(bundle, precision=precision, prompt=(PROMPTS[0],), conditions=conditions, output=output)).x


def _write_conditions(bundle: Path, rows: int) -> Path | None:
    """Write conditions that do not follow from a prompt to a file; None without any."""
    drawn, file = draw_conditions(open_bundle(bundle).manifest, rows), bundle.with_name(f"{bundle.name}.safetensors")
    if not drawn:
        return None
    save_file(drawn, file)
    return file


def _psnr(own: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    error = float(np.mean((own - exact) ** 2)) / float(np.abs(exact).max()) ** 2
    return float("inf") if error == 0 else -10 * float(np.log10(error))
