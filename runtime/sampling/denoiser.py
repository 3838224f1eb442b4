"""The loaded networks of a denoiser. Each runs the steps in its interval of lambda."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.errors import UserError
from fewstep.plans.plan import DENOISER, group_of
from fewstep.runtime.arrays import Float32
from fewstep.runtime.backends import Arrays
from fewstep.runtime.backends.lru_cache import LruCache
from fewstep.runtime.bundle import conditions
from fewstep.runtime.bundle.networks import network_at
from fewstep.runtime.kinds.positions import time_shape
from fewstep.runtime.kinds.sizes import output_shape
from fewstep.runtime.sampling.execution import execution_of
from fewstep.runtime.sampling.feeds import BranchValues, check_times
from fewstep.runtime.sampling.network import PLANS_KEPT, Network
from fewstep.runtime.sampling.prologue_rows import TIME, TO
from fewstep.runtime.sampling.request import check_network_time
from fewstep.runtime.sampling.step_call import Feeds, GraphCall


@dataclass(frozen=True)
class _PlanPart:
    """Those steps of `plan` that one network runs, as a plan `part`. `places` maps step numbers of `plan` to step
    numbers of `part`."""

    plan: AnyPlan
    part: AnyPlan
    places: Mapping[int, int]


@dataclass(frozen=True, repr=False)
class DenoiserNetworks:
    """The networks by their names in a plan's steps; most bundles have one, DENOISER."""

    networks: Mapping[str, Network]

    def __call__(self, x: NDArray[np.generic], fed: Arrays, group: int, network: str = DENOISER) -> GraphCall:
        """Call a network for x [N, *x_shape], as the steps of a range group do."""
        return self.networks[network](x, fed, group)

    def feeds(self, plan: AnyPlan, samples: int, values_of: BranchValues, first: int = 0) -> Feeds:
        """Return a function from a step's index to its network's inputs except x, for steps from `first` on.

        A network's conditioner and prologue run once, before the first of its steps.
        """

        @cache
        def feeds_of(network: str) -> Feeds:
            part = self._plan_part(plan, network, first)
            if part is None:
                return self.networks[network].feeds(plan, samples, values_of)
            feeds = self.networks[network].feeds(part.part, samples, values_of)
            return lambda index: feeds(part.places[index])

        return (
            feeds_of(DENOISER) if len(self.networks) == 1 else lambda index: feeds_of(plan.steps[index].network)(index)
        )

    def _plan_part(self, plan: AnyPlan, network: str, first: int) -> _PlanPart | None:
        """Return the part of a plan that a network runs from step `first` on; None if it runs every step.

        The parts of recent plans are kept, because a network recognises an earlier plan by its identity.
        """
        if len(self.networks) == 1 and not first:
            return None
        key, parts = (id(plan), network, first), self._plan_parts
        with parts.lock:
            kept = parts.get(key)
            if kept is not None and kept.plan is not plan:
                del parts[key]  # the key of another plan, which was freed
            return parts.get_or_make(key, lambda: self._split_plan(plan, network, first))

    def _split_plan(self, plan: AnyPlan, network: str, first: int) -> _PlanPart:
        struct: Any = plan  # a plan of either type
        is_alone = len(self.networks) == 1
        indexes = [at for at in range(first, len(plan.steps)) if is_alone or plan.steps[at].network == network]
        part = msgspec.structs.replace(struct, steps=tuple(plan.steps[at] for at in indexes))
        return _PlanPart(plan, part, {index: place for place, index in enumerate(indexes)})

    @cached_property
    def _plan_parts(self) -> "LruCache[tuple[int, str, int], _PlanPart]":
        return LruCache(PLANS_KEPT * len(self.networks))

    def evaluate(
        self, x: ArrayLike, time: ArrayLike, condition: conditions.ConditionValues | None, to: ArrayLike | None
    ) -> Float32:
        """Return the networks' outputs without guidance. Each sample is evaluated by the network whose interval of
        lambda contains the sample's time.

        `Sampler.evaluate` documents the arguments.
        """
        denoiser, bundle = self.networks[DENOISER], self.networks[DENOISER].bundle
        x, takes = execution_of(bundle.manifest.space).check_x(x, bundle.manifest)
        check_times(to is not None, denoiser.inputs.has_second_time)
        times = check_network_time(time, len(x), time_shape(bundle.manifest))
        front = times if bundle.manifest.positions is None else times[:, bundle.manifest.positions.kept]
        lams = [bundle.schedule.time(float(t)).lam for t in front]
        names = [network_at(bundle.manifest, lam) for lam in lams]
        heads = {self.networks[name].bundle.manifest.heads for name in names}
        if len(heads) > 1:
            what = f"one call has times of networks with {min(heads)} and with {max(heads)} outputs"
            raise UserError(what, "evaluate them in separate calls")
        keys = [(name, group_of(lam, self.networks[name].body.groups)) for name, lam in zip(names, lams, strict=True)]
        block = dict(conditions.check(takes.conditions, condition, len(x), takes.sizes))
        block[TIME] = times.astype(np.float32)
        if to is not None:
            block[TO] = check_network_time(to, len(x)).astype(np.float32)
        shape = map(int, output_shape(self.networks[names[0]].bundle.manifest, x.shape[1:]))
        result = np.empty((len(x), *shape), np.float32)
        if denoiser.bundle.manifest.self_condition:
            x = np.concatenate([x, np.zeros_like(x)], axis=1)
        for name, group in dict.fromkeys(keys):  # one call serves one range group of one network
            places = np.flatnonzero([key == (name, group) for key in keys])
            part = {key: values[places] for key, values in block.items()}
            result[places] = self.networks[name].evaluate(x[places], part, group)
        return result

    @property
    def common_inputs(self) -> tuple[str, ...]:
        """The names of the inputs that have one value for all samples of a call, over all networks."""
        return tuple({name for network in self.networks.values() for name in network.inputs.groups})
