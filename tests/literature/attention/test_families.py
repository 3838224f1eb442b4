"""Perturbed attention in every family whose network calls scaled_dot_product_attention."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch, which exports them, is not installed")
pytest.importorskip("diffusers", reason="diffusers, whose classes most families are, is not installed")
import torch

from fewstep.export.changes import apply_changes, read_change
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.load_source import load_source
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.verification.points import comparison_points
from fewstep.plans.errors import UserError
from tests.families.chain import Family, families

pytestmark = pytest.mark.slow

WITHOUT = {  # convolutions alone, linear attention (Sana), a file, or attention written in other operations
    "audiobox", "average_pools", "chunk_causal", "diti", "edm", "edm_preconditioned", "diffusion_policy_unet",
    "flow_map", "lerobot_diffusion", "mask_and_class", "onnx_file", "prime_depth", "python_file", "rddm", "resshift",
    "sana", "self_condition", "sgmse", "structures", "unet_1d", "unet_1d_free_horizon",
}  # fmt: skip
EXPORTED = {"diffusion_policy_transformer", "flow_policy", "hunyuan_dit", "sd3", "unet_free_sizes", "unet_2d_condition"}


@pytest.mark.parametrize("family", families(), ids=lambda family: family.stem)
def test_a_family(family: Family, tmp_path: Path) -> None:
    """At 0 the network is unchanged, and at 1 it differs; some are exported and verified against torch. A family
    without such attention is refused.
    """
    made = family.source(tmp_path)
    options = made if isinstance(made, dict) else {"source": made}
    if family.stem in EXPORTED:
        export(ExportOptions(output=tmp_path / "bundle", change=("pag:all",), verify="quick", **options))
    loaded = load_source(options["source"], options.get("spec"), call=options.get("call", ()))
    if family.stem in WITHOUT:
        with pytest.raises(UserError, match="never calls torch's scaled_dot|not a torch module"):
            apply_changes(loaded, (), (read_change("pag:middle"),))
        return
    assert isinstance(loaded, TorchSource)
    feeds = [torch.from_numpy(array) for array in next(comparison_points(loaded.spec)).feeds.values()]
    with torch.no_grad():
        plain = loaded.module.eval()(*feeds)
        rewritten = apply_changes(loaded, (), (read_change("pag:middle"),))
        at_0, at_1 = (rewritten.module(*feeds, torch.full((1,), share)) for share in (0.0, 1.0))
    torch.testing.assert_close(at_0, plain, atol=1e-6, rtol=1e-6)
    assert (at_1 - plain).abs().max() > 1e-6
