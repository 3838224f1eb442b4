"""Print which products of pipelines are int8: `python -m benchmarks.pipelines.int8_products --components CHECKOUT`.

Ten pipelines with different networks are made from the components of diffusers' tests, exported, and calibrated with
the defaults of `fewstep calibrate`. Their weights are random, so only the structure is judged.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from time import process_time

from safetensors.numpy import save_file

from benchmarks.options import add_only, parser_of
from benchmarks.pipelines.__main__ import export_pipeline
from benchmarks.pipelines.dummy_components import DummyPipeline, find_pipelines
from benchmarks.pipelines.whole_int8 import TRAJECTORIES, draw_conditions
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.plans.errors import UserError
from fewstep.report.bundle_contents import InspectOptions, inspect
from fewstep.report.operations import ACTIVATIONS
from fewstep.runtime.bundle.reading import open_bundle

NETWORKS = {  # a pipeline of each kind of network
    "LDMTextToImagePipeline": "U-Net with cross-attention",
    "DiTPipeline": "DiT with classes",
    "FluxPipeline": "MMDiT, double and single stream",
    "WanPipeline": "video DiT",
    "StableAudioPipeline": "audio DiT",
    "StableCascadeDecoderPipeline": "ConvNeXt U-Net",
    "PixArtSigmaPipeline": "DiT with cross-attention",
    "HunyuanDiTPipeline": "DiT with skips",
    "StableVideoDiffusionPipeline": "spatio-temporal U-Net",
    "CogVideoXPipeline": "video MMDiT",
}


@dataclass(frozen=True)
class Products:
    """The weighted products of a calibrated body. `others`: those in float by their reason."""

    pipeline: str
    body: str
    int8: int
    others: dict[str, int]
    seconds: float

    def __str__(self) -> str:
        named = "; ".join(f"{count} {reason or 'WITHOUT A REASON'}" for reason, count in self.others.items())
        kind = NETWORKS[self.pipeline]
        return f"| {self.pipeline} | {kind} | {self.body} | {self.int8} | {named or 'none'} | {self.seconds:.0f} |"


def calibrate_pipeline(pipeline: DummyPipeline, work: Path) -> Iterator[Products]:
    """Export and calibrate a pipeline. Yields the products of each int8 body, also of those before a refused one."""
    folder, bundle = work / pipeline.name, work / f"{pipeline.name}.bundle"
    for each in (folder, bundle):
        shutil.rmtree(each, ignore_errors=True)
    export_pipeline(folder, bundle, pipeline.write(folder))
    begin = process_time()
    conditions = work / f"{pipeline.name}.safetensors"
    save_file(draw_conditions(open_bundle(bundle).manifest, TRAJECTORIES), conditions)
    try:
        calibrate(CalibrateOptions(bundle, trajectories=TRAJECTORIES, conditions=conditions))
    except UserError:
        yield from list_products(pipeline.name, bundle, process_time() - begin)
        raise
    yield from list_products(pipeline.name, bundle, process_time() - begin)


def list_products(name: str, bundle: Path, seconds: float) -> Iterator[Products]:
    """Yield the products of each int8 body of a bundle."""
    for body, contents in inspect(InspectOptions(bundle)).bodies.items():
        weighted = [each for each in contents.multiplying if each.reason != ACTIVATIONS]
        if body.startswith("int8"):
            others = Counter(each.reason for each in weighted if each.precision != "int8")
            yield Products(name, body, len(weighted) - others.total(), dict(others), seconds)


def main() -> None:
    """Print a line of a table for each int8 body."""
    parser = parser_of(__doc__)
    parser.add_argument("--components", type=Path, required=True, help="a checkout of diffusers, with its tests")
    parser.add_argument("--work", type=Path, default=Path(gettempdir()) / "fewstep-int8", help="folder of bundles")
    add_only(parser, "pipelines")
    given = parser.parse_args()
    names = [network for network in NETWORKS if not given.only or any(part in network for part in given.only)]
    for pipeline in find_pipelines(given.components, names):
        _print_lines(pipeline, given.work)


def _print_lines(pipeline: DummyPipeline, work: Path) -> None:
    try:
        for line in calibrate_pipeline(pipeline, work):
            print(line, flush=True)
    except UserError as error:
        logging.getLogger(__name__).debug("refused", exc_info=True)
        print(f"| {pipeline.name} | {NETWORKS[pipeline.name]} | refused: {error} | | | |", flush=True)


if __name__ == "__main__":
    main()
