"""One call of a bundle's bare networks, at times that a caller chooses for each sample."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from fewstep.plans.errors import UserError
from fewstep.plans.plan import group_of
from fewstep.runtime import conditions
from fewstep.runtime.bundle.networks import network_at
from fewstep.runtime.feeds import check_times
from fewstep.runtime.loaded_network import Float32
from fewstep.runtime.prologues import TIME, TO
from fewstep.runtime.request import check_network_time, check_x
from fewstep.runtime.sizes import output_shape
from fewstep.runtime.token_planning import check_states

if TYPE_CHECKING:
    from fewstep.runtime.sampler import Sampler


def evaluate_bare(
    sampler: "Sampler",
    x: ArrayLike,
    time: float | Sequence[float],
    condition: conditions.ConditionValues | None,
    to: float | Sequence[float] | None,
) -> Float32:
    """What `Sampler.evaluate` documents."""
    x, takes = (check_states if sampler.bundle.manifest.vocabulary else check_x)(x, sampler.bundle.manifest)
    check_times(to is not None, sampler.inputs.has_second_time)
    times = check_network_time(time, len(x))
    schedule = sampler.bundle.schedule
    lams = [schedule.time(float(t)).lam for t in times]
    networks = [network_at(sampler.bundle.manifest, lam) for lam in lams]
    groups = [group_of(lam, sampler.of(name).body.groups) for lam, name in zip(lams, networks, strict=True)]
    keys = list(zip(networks, groups, strict=True))
    heads = {sampler.of(name).bundle.manifest.heads for name in networks}
    if len(heads) > 1:
        raise UserError(f"networks of {min(heads)} and {max(heads)} outputs in one call", "give each its own call")
    block = dict(conditions.check(takes.conditions, condition, len(x)))
    block[TIME] = times.astype(np.float32)
    if to is not None:
        block[TO] = check_network_time(to, len(x)).astype(np.float32)
    one = sampler.of(networks[0]).bundle.manifest
    result = np.empty((len(x), *map(int, output_shape(one, x.shape[1:]))), np.float32)
    for key in dict.fromkeys(keys):  # a call is for one range group of one network
        places = np.flatnonzero([each == key for each in keys])
        part = {name: values[places] for name, values in block.items()}
        result[places] = sampler.of(key[0]).evaluated(x[places], part, key[1])
    return result
