"""Bundles with an int8 body for TensorRT, in a folder that keeps them."""

from dataclasses import replace
from pathlib import Path

from benchmarks.gpu.deployed import TRAJECTORIES, deploy
from benchmarks.nvidia.cudnn.programs import BODY
from benchmarks.nvidia.int8_forms import BLOCK, FEW
from benchmarks.zoo_bundles import calibration
from fewstep.calibration.calibrate import calibrate
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.runtime.bundle.reading import open_bundle

MODELS = (
    "fashion_mnist",
    "cifar10",
    "dit_flow",
    "policy_unet1d",
    BLOCK.name,
    "convnext_v_cosine",
    "text_unet_flow",
    "unet_edm_cifar",
    "score_wide",
    "residual_outliers",
)


def int8_bundle(name: str, work: Path) -> Path:
    """Return the bundle of a denoiser, exported and calibrated unless it exists."""
    of = deploy(name, work)
    if not (of.bundle / "manifest.json").exists():
        export(ExportOptions(of.member.source, of.bundle))
    if BODY not in open_bundle(of.bundle).manifest.bodies:
        count = FEW if of.member.name == BLOCK.name else TRAJECTORIES
        asked = calibration(of.member, of.bundle, of.member.plan, ("tensorrt",), count)
        calibrate(replace(asked, guidance=of.member.guidance))
    return of.bundle
