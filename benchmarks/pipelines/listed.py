"""Compare the exported denoiser of a listed pipeline with the pipeline's own call: the final x from the same noise.

The call runs with the weights of its denoiser, for each number of steps in `COUNTS`. Its encoders are stand-ins.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.pipelines.variants import SIDES, find_sides, write_call
from fewstep.export.options.call_option import parse_call
from fewstep.export.sources.torch_module import TorchSource
from fewstep.pipelines.comparison import Array, compare_run, run_networks
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.layout import find_form
from fewstep.pipelines.listed.folder import load_diffusers_folder
from fewstep.pipelines.listed.interface import ADDED, IMAGE
from fewstep.pipelines.listed.network import ConditionedNetwork, Flux, pack_latents, unpack_latents
from fewstep.pipelines.recording.call_record import CallRecord, SchedulerStep
from fewstep.pipelines.recording.components import BuiltPipeline, build_pipeline
from fewstep.pipelines.recording.element_map import AFTER, BEFORE
from fewstep.pipelines.recording.quiet import silence_libraries
from fewstep.pipelines.recording.record import record
from fewstep.pipelines.recording.settings import GUIDANCES, MORE_STEPS, STEP_COUNT, STEPS
from fewstep.pipelines.recording.stand_ins import recording_error
from fewstep.pipelines.recording.usual_call import record_usual_call
from fewstep.pipelines.relations.adapter import RecordedNetwork
from fewstep.pipelines.relations.argument_rows import branch_values
from fewstep.pipelines.relations.arguments import NetworkArguments, branch_names
from fewstep.pipelines.relations.networks import RecordedNetworks, find_parts
from fewstep.pipelines.relations.pipeline_scheduler import PipelineScheduler
from fewstep.pipelines.relations.relations import Relations, gets_x
from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.plans.configs.pipelines import PIPELINE, PIPELINES
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import UNCOND, Guidance
from fewstep.plans.plan import Plan, Step
from fewstep.runtime.bundle.manifest import Condition

LEFT_OUT = ("timesteps",)  # of a test: they replace the number of steps
COUNTS = (STEPS, MORE_STEPS)
APART = 1e-4  # largest difference of the plan's x from that of the pipeline, relative to its range


@dataclass(frozen=True)
class ListedComparison:
    """difference: the largest one of the final x, relative to its range, over the plans scheduler:N of `steps`. is_led:
    the network got the pipeline's own x at each step, since along the plan rounding grows above the tolerance."""

    difference: float
    steps: tuple[int, ...]
    is_led: bool = False


def compare_listed(folder: Path, settings: Mapping[str, Any], scale: int = 1) -> ListedComparison:
    """Compare the final x of the plans scheduler:N along the exported denoiser with that of the pipeline.

    settings: arguments of the pipeline's call. A height and width are replaced by those of the export, times `scale` if
    they are numbers. Raises UserError if a difference exceeds 1e-4, and if the call cannot be recorded.
    """
    source = load_diffusers_folder(folder)
    assert isinstance(source, TorchSource) and isinstance(source.module, ConditionedNetwork)
    with silence_libraries():
        built = build_pipeline(Folder(folder))
        usual, first = record_usual_call(built, _read_settings(built, source, settings, scale))
        other = record(built, usual.of(), 1)
        if not gets_x(first) and (built := find_form(built, first, other)).form is not None:
            first, other = (built.form.rewrite(built.name, run_record) for run_record in (first, other))
        parts = find_parts(built.name, first, _share_conditions(source.module, first, other))
        (component,) = parts
        module = source.module
        modules = _pair(module, component, parts[component], first)
        counts = COUNTS if STEP_COUNT in usual.usual else COUNTS[:1]
        calls = [usual.of(None, {STEP_COUNT: count} if len(counts) > 1 else {}) for count in counts]
        runs = [run_networks(built, modules, call) for call in calls]
        assert source.scheduler is not None
        described = source.spec.schedule, source.spec.prediction
        shape = _x_shape(source, runs[0].record)
        scheduler = _ListedScheduler(source.scheduler, described, listed_shape=shape)

        def compare(is_led: bool) -> float:
            return max(
                compare_run(
                    *(built, modules, call, scheduler, run), _ListedNetwork(module, run.record, modules, is_led)
                )
                for call, run in zip(calls, runs, strict=True)
            )

        steps = tuple(call.get(STEP_COUNT, len(run.record.steps)) for call, run in zip(calls, runs, strict=True))
        try:
            return ListedComparison(compare(is_led=False), steps)
        except UserError:
            return ListedComparison(compare(is_led=True), steps, is_led=True)


def _read_settings(
    built: BuiltPipeline, source: TorchSource, settings: Mapping[str, Any], scale: int
) -> dict[str, Any]:
    """Return the arguments of a call, with arrays in place of the names of their files."""
    is_distilled = any(each.name == "guidance" for each in source.spec.conditions)  # whose default is compared
    left_out = (*LEFT_OUT, *(GUIDANCES if is_distilled else ()))
    given = {name: value for name, value in settings.items() if value is not None and name not in left_out}
    factor = getattr(built.pipeline, "vae_scale_factor", None)
    for name, size in zip(SIDES, source.spec.x_shape[-2:], strict=False):
        if name in settings and factor is not None:
            is_given = name in find_sides(settings)
            given[name] = size * factor * (scale if is_given else 1)  # of the export: defaults of conditions name it
    return parse_call(write_call(given))


def _share_conditions(module: ConditionedNetwork, base: CallRecord, other: CallRecord) -> CallRecord:
    """Return the other recording with the conditions of `base`. Some conditions have noise of their own, such as the
    embedding that the prior of StableUnCLIP samples, and only x may differ between two seeds."""
    paths = {f"['{name}']" for name in module.interface.arguments}

    def share(step: SchedulerStep, expected: SchedulerStep) -> SchedulerStep:
        calls = (
            replace(call, leaves={**call.leaves, **{path: own.leaves[path] for path in paths & own.leaves.keys()}})
            for call, own in zip(step.calls, expected.calls, strict=True)
        )
        return replace(step, calls=tuple(calls))

    return replace(other, steps=tuple(map(share, other.steps, base.steps)))


def _pair(module: ConditionedNetwork, component: str, found: Relations, first: CallRecord) -> RecordedNetworks:
    """Return the network of a listed pipeline with the relations of its recording. The branch with the largest weight
    is the conditional one."""
    if found.combination.change is not None:
        raise recording_error(f"a listed pipeline changes its guided output: {found.combination.change}")
    weights = found.combination.weights[0]
    conditional = int(np.argmax(weights))
    unconditional = 1 - conditional if len(weights) == 2 else None
    structure = first.steps[0].calls[0].structure
    arguments = NetworkArguments((), structure, {}, {}, conditional, unconditional, {})
    return RecordedNetworks({component: RecordedNetwork(module.network, found, arguments)})


@dataclass(frozen=True)
class _ListedScheduler(PipelineScheduler):
    """A scheduler whose plans follow the rules of a listed pipeline, for x of a shape."""

    listed_shape: tuple[int, ...] = ()

    def plan(self, steps: int, guidance: Guidance | None, x_shape: Sequence[int]) -> Plan:
        """Return the plan scheduler:STEPS, as a sampler of the bundle compiles it."""
        name = self.config.get(PIPELINE)
        pipeline = name if name in PIPELINES else None
        return plan_from_scheduler_config(
            self.config, steps=steps, guidance=guidance, pipeline=pipeline, x_shape=self.listed_shape
        )


class _ListedNetwork:
    """The exported network of a plan's step, with the arguments that the pipeline passed in the first step. All
    branches are one batch, in the pipeline's order: kernels round other batches differently.

    is_led: it gets the x of the pipeline. Raises UserError if that of the plan differs by more than `APART`.
    """

    def __init__(self, module: ConditionedNetwork, run: CallRecord, modules: RecordedNetworks, is_led: bool) -> None:
        self.module, self.run, self.found, self.is_led = module, run, modules.quiet.found, is_led
        self.order = branch_names(self.found.branches, modules.quiet.arguments)
        self.sides = _read_sides(run) if isinstance(module, Flux) else None

    def __call__(self, index: int, step: Step, u: Array) -> list[Array]:
        x = torch.from_numpy(np.ascontiguousarray(u, np.float32))
        x = self._unpack(self._lead(index, x) if self.is_led else x)
        order = sorted(step.branches, key=self.order.index)
        conditions = [self._read_conditions(self.order.index(branch), len(x)) for branch in order]
        time = torch.full((len(order) * len(x),), step.time)
        output = self.module(torch.cat([x] * len(order)), time, *map(torch.cat, zip(*conditions, strict=True)))
        output = output if self.sides is None else pack_latents(output)
        by_branch = dict(zip(order, np.split(output.numpy(), len(order)), strict=True))
        return [head for branch in step.branches for head in np.split(by_branch[branch], step.heads, axis=1)]

    def _lead(self, index: int, x: Tensor) -> Tensor:
        own = self.run.steps[index]
        expected: Tensor = own.calls[0].leaves[self.found.x][: len(own.sample)]
        if not float((x - expected).abs().max() / (expected.max() - expected.min())) <= APART:
            raise recording_error(f"in step {index + 1} of {len(self.run.steps)} x differs by more than {APART:g}")
        return expected

    def _read_conditions(self, branch: int, rows: int) -> Iterator[Tensor]:
        interface = self.module.interface
        for condition, name in zip(interface.conditions, interface.arguments, strict=True):
            if condition.default is not None:  # as in a run of the bundle
                is_null = self.order[branch] == UNCOND and condition.null is not None
                value = torch.tensor((condition.null,) if is_null else condition.default)
                yield value.reshape(1, *condition.shape).expand(rows, *condition.shape).to(_dtype(condition))
                continue
            value = list(branch_values(self.run.steps[0], self.found, self._path(name), 1))[branch]
            value = self._unpack(value) if name == IMAGE else value
            yield value.to(_dtype(condition))

    def _path(self, name: str) -> str:
        """Return the path of an argument in the pipeline's calls."""
        if name == IMAGE:
            rest = BEFORE if self.module.interface.picture_first else AFTER
            return next(path for path in self.run.steps[0].calls[0].leaves if rest in path)
        if name.startswith(ADDED):
            return f"['added_cond_kwargs']['{name.removeprefix(ADDED)}']"
        return f"['{name}']"

    def _unpack(self, tokens: Tensor) -> Tensor:
        return tokens if self.sides is None else unpack_latents(tokens, *self.sides)


def _dtype(condition: Condition) -> torch.dtype:
    return torch.int64 if condition.dtype == "int64" else torch.float32


def _read_sides(run: CallRecord) -> tuple[int, int]:
    """Return the rows and columns of the tokens of FLUX, from their positions."""
    positions = run.steps[0].calls[0].leaves["['img_ids']"]
    rows, columns = (1 + positions[..., 1:].reshape(-1, 2).amax(dim=0)).int().tolist()
    return rows, columns


def _x_shape(source: TorchSource, run: CallRecord) -> tuple[int, ...]:
    """Return the shape of x of the exported network at the size of a call."""
    shape = tuple(run.steps[0].sample.shape[1:])
    if not isinstance(source.module, Flux):
        return shape
    rows, columns = _read_sides(run)
    return (shape[-1] // 4, 2 * rows, 2 * columns)
