"""--size of a source whose conditions describe the size."""

import pytest
from torch import nn

from fewstep.export.options.size_option import with_sizes
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition
from tests.refusals import refuses


def test_a_range_in_pixels_says_what_it_counts() -> None:
    spec = Spec("sized", (4, 8, 8), (), "epsilon", ScheduleSpec("linear"))
    with refuses("height: x_shape's 8 is not a multiple of 8 from 64 to 128", "elements of x [4, 8, 8], not pixels"):
        with_sizes(TorchSource(nn.Identity(), spec, "sized", ""), ["height=64:128:8"])


@pytest.mark.parametrize(("name", "warns"), [("time_ids", True), ("strength", False)])
def test_defaults_that_describe_the_default_size_are_named(
    name: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    condition = Condition(name, name, (2,), "float32", default=(64.0, 64.0), typical=(0.0, 64.0))
    spec = Spec("sized", (4, 8, 8), (condition,), "epsilon", ScheduleSpec("linear"))
    with_sizes(TorchSource(nn.Identity(), spec, "sized", ""), ["height=8:16"])
    assert (f"the default of {name} is that of the default size" in caplog.text) is warns
