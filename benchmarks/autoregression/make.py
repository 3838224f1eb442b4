"""The bundle of the diffusion head, in float32 and int8, and the backbone in ONNX: `python
benchmarks/autoregression/make.py DIR`. Its int8 body is calibrated on z of training pictures, some patches of which are
open."""

import sys
from pathlib import Path

import numpy as np
import torch
from masked_autoregression import NULL_CLASS, WIDTH, opened, patches, trained

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import ExportOptions, export
from fewstep.models.fashion_mnist import data

SOURCE = Path(__file__).with_name("masked_autoregression.py")
PLAN, RECORDS = "ddpm:28", 64
HEAD, BACKBONE = "head", "backbone.onnx"


def write_backbone(file: Path) -> None:
    """The backbone with a free batch."""
    batch = torch.export.Dim("batch")
    inputs = (torch.zeros(2, 49, 16), torch.ones(2, 49, 1), torch.full((2,), NULL_CLASS))
    names = ["patches", "is_open", "label"]
    torch.onnx.export(
        trained().backbone.eval(), inputs, file, input_names=names, output_names=["z"], dynamo=True, opset_version=20,
        dynamic_shapes=dict.fromkeys(names, {0: batch}), external_data=False, verbose=False,
    )  # fmt: skip


def records(file: Path, count: int = RECORDS) -> None:
    """z of an open patch of each of `count` training pictures [count, 192]."""
    pictures, labels = (torch.from_numpy(each[:count].copy()) for each in data.read())
    clean, generator = patches(pictures[:, None].float() / 127.5 - 1), torch.Generator().manual_seed(1)
    unknown = opened(clean[:, None, :, 0], generator)[:, 0]
    with torch.no_grad():
        z = trained().backbone(clean, unknown[..., None].float(), labels.long())
    first = unknown.int().argmax(1)
    np.savez(file, z=z[torch.arange(count), first].numpy().reshape(count, WIDTH))


def main(work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    if not (work / BACKBONE).exists():
        write_backbone(work / BACKBONE)
    if not (work / HEAD / "manifest.json").exists():
        export(ExportOptions(f"{SOURCE}:make", work / HEAD))
        records(work / "z.npz")
        calibrate(CalibrateOptions(work / HEAD, plan=PLAN, target=("cpu-x86",), conditions=work / "z.npz"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
