"""A LeRobot policy with raw observations as inputs: `forward(x, time, *observations)`."""

from collections.abc import Sequence

from torch import Tensor, nn

from fewstep.robots.lerobot.feature_statistics import FeatureStatistics
from fewstep.robots.networks.normalise import Normalise


class NormalisingPolicy(nn.Module):
    """Normalise the first observations, each by its statistics, and pass others, such as texts, unchanged.

    Observations `first` to `first + cameras - 1` are images, which the network takes as one list.
    """

    def __init__(
        self, network: nn.Module, statistics: Sequence[FeatureStatistics], *, first: int, cameras: int
    ) -> None:
        super().__init__()
        self.network, self.first, self.last = network, first, first + cameras
        self.normalise = nn.ModuleList(
            Normalise(each.centre, each.scale, each.base, picture=first <= number < self.last)
            for number, each in enumerate(statistics)
        )

    def forward(self, x: Tensor, time: Tensor, *observations: Tensor) -> Tensor:
        count = len(self.normalise)
        seen = [normalise(value) for normalise, value in zip(self.normalise, observations[:count], strict=True)]
        first, last = self.first, self.last
        return self.network(x, time, *seen[:first], seen[first:last], *seen[last:], *observations[count:])
