"""A LeRobot policy that takes what a robot measures: called as `forward(x, time, state, *pictures, environment)`."""

from collections.abc import Iterable

from torch import Tensor, nn

from fewstep.export.sources.lerobot.statistics import FeatureStatistics
from fewstep.models.policies.lerobot import LeRobotDiffusion
from fewstep.models.policies.normalise import Normalise


class RawPolicy(nn.Module):
    """Normalises its observations, one set of statistics for each in order: the state, the cameras, the environment."""

    def __init__(
        self, network: LeRobotDiffusion, statistics: Iterable[FeatureStatistics], *, cameras: int, environment: bool
    ) -> None:
        super().__init__()
        self.network, self.cameras, self.environment = network, cameras, environment
        self.normalise = nn.ModuleList(
            Normalise(each.centre, each.scale, each.base, picture=1 <= number <= cameras)
            for number, each in enumerate(statistics)
        )

    def forward(self, x: Tensor, time: Tensor, *observations: Tensor) -> Tensor:
        state, *others = (normalise(value) for normalise, value in zip(self.normalise, observations, strict=True))
        environment = others.pop() if self.environment else None
        return self.network(x, time, state, others, environment)
