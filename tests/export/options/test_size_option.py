"""--size of a source whose conditions describe the size."""

from torch import nn

from fewstep.export.options.size_option import with_sizes
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.plans.spec import ScheduleSpec
from tests.refusals import refuses


def test_a_range_in_pixels_says_what_it_counts() -> None:
    spec = Spec("sized", (4, 8, 8), (), "epsilon", ScheduleSpec("linear"))
    with refuses("height: x_shape's 8 is not a multiple of 8 from 64 to 128", "elements of x [4, 8, 8], not pixels"):
        with_sizes(TorchSource(nn.Identity(), spec, "sized", ""), ["height=64:128:8"])
