"""How much of a pipeline is compared, by the size of its networks."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from fewstep.export.tracing.weights.stored_halves import count_weights
from fewstep.pipelines.recording.settings import STEP_COUNT, CallSettings
from fewstep.pipelines.relations.networks import RecordedNetworks

LARGE = 3 * 10**8  # weights of a network that is compared in few steps: one call of 10^9 takes 20 s and more
MOST = 2 * 10**9  # weights of a network that runs on the CPU
FEWEST_STEPS = 2  # of such a network; all steps are compared with random outputs instead of the network's


def few_steps(modules: RecordedNetworks, settings: CallSettings) -> Mapping[str, Any] | None:
    """Return the arguments of a call for `FEWEST_STEPS`, if the network is so large that a call takes long; else
    None."""
    if all(count_weights(module.network) <= LARGE for module in modules.modules.values()):
        return None
    return {STEP_COUNT: FEWEST_STEPS} if STEP_COUNT in settings.usual else {}


def are_comparable(networks: Iterable[nn.Module]) -> bool:
    """Return True if all networks are small enough to run a few steps on the CPU."""
    return all(count_weights(network) <= MOST for network in networks)
