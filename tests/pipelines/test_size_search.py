"""Recorded pipelines that pack latents into tokens: x is the latents, whose height and width are free."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.export.options.size_option import with_sizes
from fewstep.export.sources.torch_module import TorchSource
from fewstep.graph.session import open_session
from fewstep.pipelines.relations.adapter import RecordedNetwork
from fewstep.pipelines.relations.size_rules import GridOfSize
from fewstep.pipelines.source import load_diffusers_folder
from fewstep.plans.configs.recorded import ShiftOfSize, read_recorded
from tests.recorded_pipelines import CALLS
from tests.refusals import refuses

pytest.importorskip("diffusers")

SIZES = ("height=8:24:2", "width=8:24:2")


def load(folder: Path, **call: int) -> TorchSource:
    """Load FLUX.2, whose scheduler shifts its times by the number of tokens."""
    return load_diffusers_folder(folder, {**CALLS["flux2_klein"], **call})


@pytest.mark.slow
def test_the_graph_of_flux2_takes_latents_of_any_size(pipeline_folder: Callable[[str], Path]) -> None:
    source = with_sizes(load(pipeline_folder("flux2_klein")), SIZES)
    module, graph = source.module, open_session(source.trace().graph)
    assert isinstance(module, RecordedNetwork)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, source.spec.x_shape[0], 12, 20), np.float32)
    conditions = {
        condition.input: rng.standard_normal((2, *condition.shape), np.float32) for condition in source.spec.conditions
    }
    time = np.array([900, 100], np.float32)
    with torch.no_grad():
        expected = module(*map(torch.from_numpy, (x, time, *conditions.values()))).numpy()
    np.testing.assert_allclose(graph({"x": x, "time": time, **conditions})["output"], expected, atol=1e-4)
    (rule,) = [argument.of_size for argument in module.arguments.arguments.values() if argument.of_size is not None]
    assert isinstance(rule, GridOfSize) and rule.block == (2, 2)


@pytest.mark.slow
def test_samples_of_flux2_are_those_of_its_pipeline_at_another_size(
    pipeline_folder: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    source = load(pipeline_folder("flux2_klein"))
    recorded = read_recorded(source.scheduler or {})
    assert recorded is not None and isinstance(recorded.mu_of_size, ShiftOfSize)
    with_sizes(source, SIZES)
    assert "samples of x [1, 8, 24] agree within" in caplog.text


@pytest.mark.slow
def test_a_shift_that_is_not_linear_up_to_the_greatest_size_is_refused(
    pipeline_folder: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Up to 4300 tokens the shift of FLUX.2 is linear, here of 2 x 2 latents. Larger calls are above that."""
    source = load(pipeline_folder("flux2_klein"), height=100, width=100)
    with refuses("shifts its times by another rule for x [1, 160, 160]: its mu is 1.5"):
        with_sizes(source, ("height=80:160:2", "width=80:160:2"))
    with_sizes(source, ("height=80:110:2", "width=80:110:2"))
    assert "samples of x [1, 80, 110] agree within" in caplog.text


@pytest.mark.slow
def test_sizes_that_split_a_token_are_refused(pipeline_folder: Callable[[str], Path]) -> None:
    source = load(pipeline_folder("flux2_klein"))
    with refuses("makes a token of 2 latents along it", "height=8:24:2"):
        with_sizes(source, ("height=8:24", "width=8:24"))
