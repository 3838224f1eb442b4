"""The bodies of a bundle whose runs from prompt to picture fit a budget of memory.

A body names the precisions of all networks: its own, and those of the text encoder and the decoder that it runs instead
of the shared ones. So the choice of a body chooses all of them together.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from fewstep.measure.cost import max_branches
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.report.choosing.companion_times import PROMPT
from fewstep.report.choosing.memory_plan import MemoryPlan, TooLittleMemory, plan_memory
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.companions import image_shape
from fewstep.runtime.memory_size import format_bytes


@dataclass(frozen=True)
class BodiesInMemory:
    """The plans for the bodies that fit a budget, and the errors of those that do not, both by the name of a body."""

    plans: Mapping[str, MemoryPlan]
    too_large: Mapping[str, TooLittleMemory]

    @property
    def notes(self) -> tuple[str, ...]:
        """A line on each plan."""
        slower = "; its time below is of calls that keep their memory, and freeing it takes a little more"
        return tuple(
            f"{body}: {plan.describe()}{'' if plan.keeps_memory else slower}" for body, plan in self.plans.items()
        )


def find_bodies_in_memory(
    bundle: Bundle, bodies: Iterable[str], budget: int, base: int | None, plan: Plan, batch: int, threads: int
) -> BodiesInMemory:
    """Plan calls of `batch` samples for `budget` bytes, each from a prompt of its own to a picture if the bundle has
    the networks for it. base: see `plan_memory`.

    Raises UserError if no body fits, with the least budget, or if a run cannot be planned.
    """
    manifest, plans, too_large = bundle.manifest, dict[str, MemoryPlan](), dict[str, TooLittleMemory]()
    pictures = 4 * prod(image_shape(manifest)) * batch if manifest.autoencoder is not None else 0
    for body in bodies:
        try:
            memory = plan_memory(
                bundle.with_graphs_of(body),
                body,
                budget,
                samples=batch,
                branches=max_branches(plan),
                prompts=[f"{number}: {PROMPT}" for number in range(batch)] if manifest.text is not None else [],
                pictures=pictures,
                threads=threads,
                base=base,
            )
        except TooLittleMemory as error:
            too_large[body] = error
            continue
        if memory.batch == batch:
            plans[body] = memory
        else:  # the call of all samples is what is timed
            what = f"{format_bytes(budget)} of memory is enough for {memory.batch} of {batch} samples in a call"
            too_large[body] = TooLittleMemory(what, f"give --batch {memory.batch}, or more memory")
            too_large[body].samples = memory.batch
    if not plans and too_large:
        body, least = min(too_large.items(), key=lambda item: (-item[1].samples, item[1].needed))
        raise UserError(f"no body fits. The smallest is {body}: {least.what}", least.fix)
    return BodiesInMemory(plans, too_large)
