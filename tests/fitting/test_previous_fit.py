"""The plan that a new fit replaces is one of the same graph and use."""

from pathlib import Path

import pytest

from fewstep.fitting.previous_fit import find_previous_fit
from fewstep.plans.transforms import change_guidance_weight
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.fitted_plans import graph_of_fit
from tests.runtime.sampling.test_fitted_plans import give


def test_the_previous_fit_has_the_graph_and_the_use(tiny_bundle: Path) -> None:
    plan = give(tiny_bundle, guidance=2.0)
    bundle = open_bundle(tiny_bundle)
    graph = graph_of_fit(bundle.manifest, "float32")
    assert graph is not None
    found = find_previous_fit(bundle, graph, plan)
    assert found is not None and (found.entry, found.plan) == (bundle.manifest.fitted[0], plan)
    assert find_previous_fit(bundle, "1" * 64, plan) is None


@pytest.mark.parametrize("weight", [1.5, 2.5])
def test_a_fit_at_another_guidance_stays(tiny_bundle: Path, weight: float) -> None:
    plan = give(tiny_bundle, guidance=2.0)
    bundle = open_bundle(tiny_bundle)
    graph = graph_of_fit(bundle.manifest, "float32")
    assert graph is not None and find_previous_fit(bundle, graph, change_guidance_weight(plan, weight)) is None
