"""A sampler: a bundle's denoiser, loaded with one body and one inference engine, ready to run plans.

    with fewstep.runtime.load("bundle", precision="int8") as sampler:
        x = sampler.sample(plan="dpmpp_2m:8", seeds=[0, 1], condition={"class": [3, 5]}, guidance=2.0)

A sampler keeps no state between runs, so any number of threads may share it. A sample depends on its seed and
condition, never on the other samples of its batch.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, cast

from numpy.typing import ArrayLike

from fewstep.plans.any_plan import AnyPlan, PlanLike
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance
from fewstep.plans.plan import DENOISER, Plan
from fewstep.runtime.arrays import Float32
from fewstep.runtime.bundle.conditions import ConditionValues, Overrides
from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds import units
from fewstep.runtime.sampling.denoiser import DenoiserNetworks
from fewstep.runtime.sampling.execute import Array, Draws, StepNetwork, StepState
from fewstep.runtime.sampling.execution import PlanCompiler
from fewstep.runtime.sampling.network import Network
from fewstep.runtime.sampling.request import PlanSettings, RunSettings, check_settings
from fewstep.runtime.sampling.run_maker import RunMaker
from fewstep.runtime.sampling.slots import Slots
from fewstep.runtime.sampling.step_call import OnCall, StepCall

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in the standard library from Python 3.11 on

    from fewstep.runtime.sampling.adapters import Adapters
    from fewstep.runtime.sampling.whole_runs import WholeRuns


@dataclass(frozen=True, repr=False)
class Sampler(AbstractContextManager["Sampler"]):
    """A denoiser that runs plans. `load` returns one; `with_options` returns one with other sizes and adapters.

    on_call: called after each network call of a run along one plan, with the step's index and the `GraphCall`.
    whole_runs: baked files, each of which performs a whole run in one call. `sample` uses them instead of single steps
        if no intermediate states are needed.
    """

    denoiser: DenoiserNetworks
    on_call: OnCall | None = None
    whole_runs: "WholeRuns | None" = None

    def __repr__(self) -> str:
        return f"<Sampler of {self.bundle.path}: {self.body.precision} body for {self.body.target}>"

    def __exit__(self, *_: object) -> None:
        """Do nothing: the engine's memory is freed with the last reference to it."""

    def __reduce__(self) -> NoReturn:
        raise UserError(
            "a sampler cannot be pickled or copied: it holds the memory of an engine",
            f"call fewstep.runtime.load({str(self.bundle.path)!r}) in each process; threads may share one sampler",
        )

    @property
    def bundle(self) -> Bundle:
        """The bundle, with this sampler's sizes in its manifest."""
        return self.network().bundle

    @property
    def body(self) -> Body:
        """The body of the denoiser's main network."""
        return self.network().body

    def network(self, name: str = DENOISER) -> Network:
        """Return a network of the denoiser by its name in a plan's steps."""
        return self.denoiser.networks[name]

    def with_options(self, *, adapters: "Adapters | None" = None, **sizes: int) -> "Sampler":
        """Return a sampler with these adapters and sizes. It shares this sampler's graphs.

            wide = sampler.with_options(width=128, adapters={"a.safetensors": 0.8})

        Args:
            adapters: LoRA files and their strengths, {"a.safetensors": 0.8}, for a bundle with LoRA slots. Their
                updates add up. In a bundle of several networks, a file changes those that its keys name, or the one
                in {"a.safetensors@NETWORK": 0.8}. They replace all earlier adapters: {} removes them, None keeps them.
                The files are read now.
            sizes: sizes of x's free axes (`bundle.manifest.sizes`). Axes that are not named keep their sizes.

        Raises UserError for an invalid size, for a file that does not fit, and for adapters with any engine other
        than onnxruntime on the CPU.
        """
        networks = dict(self.denoiser.networks)
        if adapters is not None:
            from fewstep.runtime.sampling.adapters import apply_adapters  # seldom needed

            networks = apply_adapters(networks, adapters)
        if sizes:
            networks = {name: network.with_sizes(sizes) for name, network in networks.items()}
        kept = self.whole_runs if adapters is None else None
        return replace(self, denoiser=DenoiserNetworks(networks), whole_runs=kept)

    def with_network_parts(self, name: str = DENOISER, **parts: Any) -> "Sampler":
        """Return a sampler with parts of one network replaced, such as its `graph`, `prologue`, `body` or `bundle`."""
        return self.with_network(name, replace(self.network(name), **parts))

    def with_network(self, name: str, network: Network) -> "Sampler":
        """Return a sampler with the network of this name replaced."""
        return replace(self, denoiser=DenoiserNetworks({**self.denoiser.networks, name: network}), whole_runs=None)

    def select_network(self, name: str) -> "Sampler":
        """Return a sampler whose only network is the named one. For DENOISER, return this sampler unchanged."""
        return self if name == DENOISER else replace(self, denoiser=DenoiserNetworks({DENOISER: self.network(name)}))

    def sample(
        self,
        plan: PlanLike | None = None,
        seeds: Sequence[int] = (0,),
        condition: ConditionValues | None = None,
        guidance: float | Guidance | None = None,
        **settings: "Unpack[RunSettings]",
    ) -> Float32:
        """Return samples in model range, float32 [len(seeds), *x_shape]. A token denoiser returns int64 ids.

        Args:
            plan: the name of a plan (SOLVER:STEPS, SOLVER:STEPS@GRID, or fitted:STEPS for a plan that was fitted to
                this body), a compiled plan, or the path of a plan's JSON. None is the default of `fewstep run`: the
                plan of the calibration, else that of the denoiser's own scheduler, else dpmpp_2m:8.
            seeds: one per sample. They run as one batch, and memory grows with their number: split many seeds over
                several calls.
            condition: for each condition of the denoiser, one value (or label) per sample.
            guidance: the weight of classifier-free guidance or a form of `fewstep.plans.guidance`; 1 runs the
                conditional branch only. None takes the guidance of a compiled plan or a plan file, and for a plan
                given by its name that of the calibrated plan, as in `fewstep run`. Without either it is 1.
            shaping: a change of each prediction, such as `Clip(-1, 1)` (`fewstep.plans.shaping`). None takes it from
                the same place as guidance; UNCLIPPED means none.
            branches: conditions of further branches, such as {"uncond": {"text": [...]}} for a negative prompt. A
                condition that is not named keeps the sample's value, or has its null value in "uncond" if it has one;
                None sets its null value.
            given: tensors [len(seeds), *x_shape] that a plan starts from, such as a degraded image. A missing one is
                taken from the conditions. {"image": ...} with a `strength` is image-to-image. {"ids": ...} are known
                tokens, -1 at masked positions.
            strength: in (0, 1]: the fraction of the plan's steps to run, from the image with the noise of the first of
                them. `AllSteps` runs all from there. renoise: in [0, 1]: the fraction of that noise. None means 1.
            hold: the known part of the sample (inpainting, decided actions).
            cancel: an event or a function, checked before each evaluation. `Cancelled` is raised once it is set or
                true.
            carried: the slots that an earlier run returned (`carry_on`), for the same plan and number of samples. None
                starts with empty ones.
        """
        return self.runs.sample(plan, seeds, condition, guidance, settings)

    def carry_on(
        self,
        plan: PlanLike | None = None,
        seeds: Sequence[int] = (0,),
        condition: ConditionValues | None = None,
        guidance: float | Guidance | None = None,
        **settings: "Unpack[RunSettings]",
    ) -> tuple[Float32, Slots]:
        """Return samples, as `sample` does, and the slots to pass to the next run. With them a denoiser generates a
        long sample in chunks.

        The slots hold the carried tensors for the next run, and the named outputs in `named`.

            carried = None
            for number, vowel in enumerate(vowels):
                x, carried = sampler.carry_on("ddim:8", [number], {"vowel": [vowel]}, carried=carried)

        It takes the arguments of `sample`. `carried` is not modified, so a run may be repeated or continued twice.
        """
        run = self.runs.begin(plan, seeds, condition, guidance, settings)
        (last,) = deque(run.check_states(), maxlen=1)
        if last.slots is None:
            raise UserError(f"{self.bundle.path} returns nothing besides its samples", "call sample")
        return run.sample_of(last), last.slots

    def steps(
        self,
        plan: PlanLike | None = None,
        seeds: Sequence[int] = (0,),
        condition: ConditionValues | None = None,
        guidance: float | Guidance | None = None,
        **settings: "Unpack[RunSettings]",
    ) -> Iterator[StepState]:
        """Yield the state after each step (`index`, `u`, `x0`), for previews, progress and measurements.

        It takes the arguments of `sample`. Stop iterating to cancel. A token denoiser yields `TokenState`.
        """
        return self.runs.begin(plan, seeds, condition, guidance, settings).check_states()

    def sample_each(
        self,
        plans: Sequence[PlanLike],
        seeds: Sequence[int] = (0,),
        condition: ConditionValues | None = None,
        guidance: float | Guidance | None = None,
        **settings: "Unpack[RunSettings]",
    ) -> Float32:
        """Return samples, float32 [len(seeds), *x_shape], where each sample has its own plan. Their evaluations are
        batched together.

        Args:
            plans: one per sample.

        It takes the other arguments of `sample` except `carried` and `hold`, which need one plan for all samples.
        """
        return self.runs.sample_each(plans, seeds, condition, guidance, settings)

    def to_units(self, x: ArrayLike) -> Float32:
        """Convert samples [..., *x_shape] from model range to the manifest's units, such as a robot's actions."""
        return units.to_units(self.bundle.manifest, x)

    def from_units(self, value: ArrayLike) -> Float32:
        """Convert samples [..., *x_shape] from the manifest's units to model range, for `hold` and `given`."""
        return units.from_units(self.bundle.manifest, value)

    def evaluate(
        self,
        x: Array,
        time: float | Sequence[float],
        condition: ConditionValues | None = None,
        to: float | Sequence[float] | None = None,
    ) -> Float32:
        """Return the bare network's output [B, heads * C, ...], without guidance. Carried tensors are zeros.

        A token denoiser returns logits [B, *x_shape, V].

        Args:
            x: states [B, *x_shape].
            time: in the network's units, one for all samples or one for each.
            to: the second time, for a network that takes two.
        """
        return self.denoiser.evaluate(x, time, condition, to)

    def step_network(
        self,
        plan: Plan,
        samples: int,
        condition: ConditionValues | None = None,
        branches: Overrides | None = None,
    ) -> StepNetwork:
        """Return the function that `execute` calls at each step of a compiled plan, for callers who supply x.

        The function raises UserError if an output is not finite.
        """
        return self.runs.step_network(plan, samples, condition, branches)

    def step_call(
        self,
        plan: AnyPlan,
        samples: int,
        condition: ConditionValues | None = None,
        branches: Overrides | None = None,
    ) -> StepCall:
        """Return the network calls of a compiled plan's steps, with every input except x.

        Carried tensors begin with zeros. Outputs are not checked.
        """
        return self.runs.step_call(plan, samples, condition, branches)

    def draws(self, seeds: Sequence[int]) -> Draws:
        """Return the noise of these seeds, as the executor takes it: a function from draw number to an array
        [len(seeds), *x_shape]."""
        return self.runs.draws(seeds)

    def forget(self) -> None:
        """Clear the cached outputs of conditioners, so that the next call runs each conditioner again."""
        for network in self.denoiser.networks.values():
            network.last_rows.forget()

    def compile(
        self,
        plan: PlanLike | None = None,
        guidance: float | Guidance | None = None,
        **settings: "Unpack[PlanSettings]",
    ) -> Plan:
        """Compile a plan by its name, or check a compiled one, and assign its steps to the body's range groups.

        Returns a `Plan`, or a `TokenPlan` for a token denoiser. It takes the arguments of `sample`. With the returned
        plan, `sample` returns the same samples as with the name. `branches` matters if a condition has no null value:
        guidance then needs the conditions of "uncond".
        """
        check_settings(settings, PlanSettings, "plan")
        compiled = self.plans.compile_as_calibrated(plan, guidance, settings)
        return cast(Plan, compiled)  # most callers do not run tokens

    @cached_property
    def plans(self) -> PlanCompiler:
        """Compiles plans. Its `compile` takes nothing from the calibration; `compile_as_calibrated` does."""
        networks = self.denoiser.networks
        groups_of_others = {name: network.body.groups for name, network in networks.items() if name != DENOISER}
        return PlanCompiler(self.bundle, self.body, groups_of_others)

    @cached_property
    def runs(self) -> RunMaker:
        """The object that checks the arguments of runs and starts them."""
        return RunMaker(self.denoiser, self.plans, self.on_call, self.whole_runs)
