"""The form for ONNX Runtime's CUDA provider of all denoisers of the GPU page: their numbers, and their kernels."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from benchmarks.gpu.__main__ import MODELS
from benchmarks.nvidia.int8_forms import KNOWN
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.graph.cuda.contrib_norm_definition import expand_contrib_norms
from fewstep.graph.cuda.cuda_form import FormSize, cuda_form, form_size
from fewstep.graph.files import io
from fewstep.graph.session import run
from fewstep.runtime.bundle.reading import open_bundle
from tests.graph.small_graphs import assert_close, feeds

ROOT = Path(__file__).parents[3]
STORED = (ROOT / "benchmarks/stored_weights.txt").read_text()
KERNELS = {  # of a step: before, and in the form
    "fashion_mnist": (196, FormSize(norms=20, attentions=1, transposes=1, kernels=112)),
    "cifar10": (233, FormSize(norms=23, attentions=2, transposes=1, kernels=128)),
    "dit_flow": (126, FormSize(norms=0, attentions=4, transposes=2, kernels=94)),
    "sd15_block": (68, FormSize(norms=4, attentions=2, transposes=3, kernels=37)),
    "policy_unet1d": (220, FormSize(norms=25, attentions=0, transposes=4, kernels=135)),
    "text_unet_flow": (216, FormSize(norms=18, attentions=7, transposes=12, kernels=109)),
    "unet_edm_cifar": (233, FormSize(norms=9, attentions=2, transposes=17, kernels=169)),  # groups of 3 channels
    "convnext_v_cosine": (104, FormSize(norms=9, attentions=0, transposes=3, kernels=78)),
    "residual_outliers": (164, FormSize(norms=0, attentions=1, transposes=6, kernels=164)),  # groups of 5 and 7
    "score_wide": (107, FormSize(norms=0, attentions=0, transposes=0, kernels=107)),  # groups of one channel
}


def cases() -> Iterator[ParameterSet]:
    """Yield the name of each model. Some weights are in the history alone: `python -m benchmarks.fetch_weights`."""
    for name in MODELS:
        weights = ROOT / "zoo" / f"{name}.safetensors"
        is_absent = str(weights.relative_to(ROOT)) in STORED and not weights.is_file()
        yield pytest.param(name, marks=pytest.mark.skipif(is_absent, reason=f"{weights.name} is in the history"))


@pytest.mark.slow
@pytest.mark.parametrize("name", cases())
def test_the_form_of_a_denoiser_has_its_numbers_in_fewer_kernels(name: str, tmp_path: Path) -> None:
    export(ExportOptions(KNOWN[name].source, tmp_path / name, verify="quick"))
    bundle = open_bundle(tmp_path / name)
    before = io.load(bundle.graph(bundle.body("float32").graph), root=bundle.path)
    after = cuda_form(before)
    assert (form_size(before).kernels, form_size(after)) == KERNELS[name]
    given = feeds(before, 1)
    assert_close(run(before, given), run(expand_contrib_norms(after), given), 1e-6)
