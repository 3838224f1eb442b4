"""Run a pipeline's own call with random tensors in place of its denoiser's outputs, and record the calls of its
networks and the steps of its scheduler."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial, wraps
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fewstep.export.sources.diffusers.recording.call_record import (
    CallRecord,
    NetworkCall,
    NoisedImage,
    SchedulerStep,
    drop_copies,
    split_variance,
)
from fewstep.export.sources.diffusers.recording.combination import remove_x
from fewstep.export.sources.diffusers.recording.components import BuiltPipeline
from fewstep.export.sources.diffusers.recording.stand_ins import (
    UNRECORDED,
    OutputShapes,
    randomize,
    recording_error,
)
from fewstep.export.sources.diffusers.recording.times.inverted_flow import is_inverted, turn_around
from fewstep.export.sources.diffusers.recording.times.own_noise import record_own_noise
from fewstep.export.sources.diffusers.recording.times.trigflow import is_trigflow, to_flow
from fewstep.plans.errors import UserError

PERTURBATION = "pag_scale"  # the weight of perturbed attention, which replaces attention processors in the call
WITHOUT_PERTURBATION = f"give --call {PERTURBATION}=0; --change pag:LAYERS adds perturbed attention to the bundle"


class CallError(UserError):
    """Raised when the pipeline's own code fails before its scheduler has made the last step."""


class _Recorder:
    """Collects the calls of networks and scheduler while a pipeline runs."""

    def __init__(self) -> None:
        self.steps: list[SchedulerStep] = []
        self.pending: list[NetworkCall] = []
        self.times: dict[str, Any] = {}
        self.noised: list[tuple[float, Tensor]] = []  # results of `add_noise` with their times
        self.own_noised: list[NoisedImage] = []

    def add(self, made: SchedulerStep) -> int:
        """Add a step, or join it with the last one if no network was called since, at the same time. Returns the number
        of elements of x before its own."""
        last = self.steps[-1] if self.steps else None
        if made.calls or last is None or last.time != made.time or len(last.sample) != len(made.sample):
            self.steps.append(made)
            return 0
        self.steps[-1] = last.join(made)
        return last.sample[0].numel()

    def finish(self, returned: Any, failure: str | None) -> CallRecord:
        """Return the recording of a call, with what it returned and the error after its last step."""
        noised = tuple(noised for time, noised in self.noised if time == self.steps[0].time)
        return CallRecord(tuple(self.steps), self.times, returned, failure, noised, tuple(self.own_noised))


def record(
    built: BuiltPipeline,
    settings: Mapping[str, Any],
    seed: int,
    networks: Mapping[str, nn.Module] | None = None,
    result: Tensor | None = None,
    deviation: float = 1.0,
) -> CallRecord:
    """Run the pipeline's call with these arguments, and record it. The noise, and the random outputs of its denoisers
    (probes), follow from the seed.

    networks: denoisers with weights, whose outputs replace the probes. result: x that replaces the result of each step,
        and its predicted clean x. deviation: the standard deviation of the probes. Raises CallError if the call fails
        before the scheduler's last step, and UserError if it changes the denoiser.
    """
    recorder, probes = _Recorder(), torch.Generator().manual_seed(2 * seed + 1)
    pipeline, scheduler = built.pipeline, _scheduler(built)
    if result is not None and is_trigflow(pipeline.scheduler):
        result = result * pipeline.scheduler.config.sigma_data
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_run_on_cpu(pipeline))
        for name, shapes in built.denoisers.items():
            network: nn.Module = getattr(pipeline, name)
            real = None if networks is None else networks.get(name)
            answer = partial(_probe, network, shapes, probes, deviation) if real is None else partial(_run, real)
            forward = _recording_forward(recorder, pipeline, name, network, answer)
            stack.enter_context(patch.object(network, "forward", forward, create=True))
        stack.enter_context(patch.object(scheduler, "step", _recording_step(recorder, scheduler.step, result)))
        set_timesteps = _recording_times(recorder, scheduler.set_timesteps)
        stack.enter_context(patch.object(scheduler, "set_timesteps", set_timesteps))
        for made, add_noise in _noise_methods(recorder, scheduler, type(pipeline)):
            stack.enter_context(patch.object(made, "add_noise", add_noise))
        random, returned, failure = torch.Generator().manual_seed(2 * seed), None, None
        try:
            returned = pipeline(**_copy_lists(settings), generator=random)
        except UserError:
            raise
        except Exception as error:
            if isinstance(error, NameError) and find_spec(error.name or "_") is None:  # imported only if installed
                what = f"the code of {built.name} needs {error.name}, which is not installed"
                raise UserError(what, f"pip install {error.name}") from error
            failure = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            if not recorder.steps or len(recorder.steps) < len(_timesteps(pipeline)) - is_trigflow(pipeline.scheduler):
                raise CallError(f"the call of {built.name} failed: {failure}", UNRECORDED) from error
    if not recorder.steps:
        raise recording_error(f"{built.name} never calls its scheduler's step")
    made = drop_copies(recorder.finish(returned, failure))
    made = made if built.form is None else built.form.rewrite(built.name, made)
    made = remove_x(made) if built.converts else made
    if is_inverted(pipeline.scheduler):
        return turn_around(made, pipeline.scheduler.config.num_train_timesteps)
    return to_flow(made, pipeline.scheduler.config.sigma_data) if is_trigflow(pipeline.scheduler) else made


class _TimesAreSet(Exception):
    """Ends a call as soon as the pipeline has passed its times to the scheduler."""


def record_times(built: BuiltPipeline, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a pipeline's call passes to its scheduler's `set_timesteps`, without running its steps."""
    recorder, scheduler = _Recorder(), _scheduler(built)
    with torch.no_grad(), _run_on_cpu(built.pipeline):
        times = _recording_times(recorder, scheduler.set_timesteps, stops=True)
        with patch.object(scheduler, "set_timesteps", times), suppress(_TimesAreSet):
            built.pipeline(**_copy_lists(settings), generator=torch.Generator().manual_seed(0))
    return recorder.times


def _probe(
    network: nn.Module, shapes: OutputShapes, probes: torch.Generator, deviation: float, arguments: dict[str, Any]
) -> Any:
    outputs = randomize(shapes.infer(network, arguments), probes)
    if deviation == 1:
        return outputs
    return pytree.tree_map(lambda leaf: deviation * leaf if isinstance(leaf, Tensor) else leaf, outputs)


def _run(network: nn.Module, arguments: dict[str, Any]) -> Any:
    return network(**arguments)


def _scheduler(built: BuiltPipeline) -> Any:
    scheduler = getattr(built.pipeline, "scheduler", None)
    if scheduler is None or not hasattr(scheduler, "step") or not hasattr(scheduler, "set_timesteps"):
        raise recording_error(f"{built.name} has no scheduler with step and set_timesteps")
    return type(scheduler)


def _timesteps(pipeline: Any) -> Any:
    times = getattr(pipeline.scheduler, "timesteps", ())
    return () if times is None else times


@contextmanager
def _run_on_cpu(pipeline: Any) -> Iterator[None]:
    """Let a pipeline make its tensors on the CPU, though its networks have no device."""
    cpu = property(lambda self: torch.device("cpu"))
    with patch.object(type(pipeline), "_execution_device", cpu), patch.object(type(pipeline), "device", cpu):
        yield


def _recording_forward(
    recorder: _Recorder, pipeline: Any, name: str, network: nn.Module, answer: Callable[[dict[str, Any]], Any]
) -> Callable[..., Any]:
    signature, before = inspect.signature(type(network).forward), describe_state(network)
    label = type(pipeline).__name__

    def forward(*args: Any, **kwargs: Any) -> Any:
        arguments = dict(signature.bind(network, *args, **kwargs).arguments)
        arguments.pop("self")
        arguments |= arguments.pop("kwargs", {})
        changed = sorted(set(describe_state(network).items()) ^ set(before.items()))
        if changed:
            what = f"{label} changes its network {name} during the call: {changed[0][0]}"
            is_perturbed = PERTURBATION in inspect.signature(type(pipeline).__call__).parameters
            raise UserError(what, WITHOUT_PERTURBATION if is_perturbed else UNRECORDED)
        flat, structure = pytree.tree_flatten_with_path(arguments)
        leaves = {pytree.keystr(path): _copy(leaf) for path, leaf in flat}
        outputs = answer(arguments)
        tensors, is_list = _read_outputs(f"the network {name} of {label}", outputs)
        first, *more = (each.clone() for each in tensors)
        recorder.pending.append(NetworkCall(name, leaves, structure, first, tuple(more), is_list))
        return outputs

    return forward


def _read_outputs(label: str, outputs: Any) -> tuple[list[Tensor], bool]:
    """Return the floating-point tensors that a network returned, and whether it returned a list with one tensor per
    row, whose tensors are then stacked. Raises UserError if there are none, or if the tensors of a list differ in
    shape."""
    tensors = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    values = outputs.values() if isinstance(outputs, Mapping) else outputs if isinstance(outputs, tuple) else ()
    is_list = isinstance(next(iter(values), None), list)
    if not tensors or (is_list and len({each.shape for each in tensors}) > 1):
        what = "a list of tensors of different shapes" if tensors else "no tensors"
        raise recording_error(f"{label} returns {what}")
    return ([torch.stack(tensors)], True) if is_list else (tensors, False)


def describe_state(network: nn.Module) -> dict[str, str]:
    """Return everything besides weights that a pipeline may change in a network: attention processors, hooks, buffers
    and the scales of adapters."""
    state: dict[str, str] = {}
    for name, module in network.named_modules():
        processor = getattr(module, "processor", None)
        if processor is not None:
            state[f"the attention processor of {name}"] = type(processor).__name__
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if hooks:
            state[f"the hooks of {name}"] = repr([getattr(hook, "__qualname__", type(hook)) for hook in hooks])
        for buffer, value in module._buffers.items():
            if value is not None:
                state[f"the buffer {name}.{buffer}"] = f"{id(value)} {value._version}"
        scale = getattr(module, "scaling", None)
        if isinstance(scale, dict):
            state[f"the adapter scales of {name}"] = repr(scale)
    return state


def _recording_step(recorder: _Recorder, step: Callable[..., Any], result: Tensor | None = None) -> Callable[..., Any]:
    signature = inspect.signature(step)

    def record_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs).arguments
        output, time, sample = (bound.get(name) for name in ("model_output", "timestep", "sample"))
        if not isinstance(output, Tensor) or not isinstance(sample, Tensor) or time is None:
            raise recording_error(f"the step of {type(self).__name__} takes no model_output and sample")
        times = torch.as_tensor(time).flatten()  # some pipelines pass one for each sample
        if not bool((times == times[0]).all()):
            raise recording_error(f"the step of {type(self).__name__} has several times")
        (output, variance), sample = split_variance(self, output.clone(), sample), sample.clone()
        returned = step(self, *args, **kwargs)
        own = returned[0] if isinstance(returned, tuple) else returned.prev_sample
        calls, recorder.pending = tuple(recorder.pending), []
        eta = None if bound.get("eta") is None else float(bound["eta"])
        made = SchedulerStep(calls, output, float(times[0]), sample, own.clone(), eta, variance=variance)
        start = recorder.add(made)
        if result is None:
            return returned
        part = result.flatten(1)[:, start : start + sample[0].numel()].reshape(-1, *sample.shape[1:])
        if not isinstance(returned, tuple):
            return type(returned)(prev_sample=part)
        return tuple(part if isinstance(each, Tensor) and each.shape == part.shape else each for each in returned)

    setattr(record_step, "__signature__", signature)  # noqa: B010 - pipelines ask which arguments it takes
    return record_step


def _noise_methods(recorder: _Recorder, scheduler: Any, pipeline: Any) -> Iterator[tuple[Any, Callable[..., Tensor]]]:
    """Yield the classes that have a method `add_noise`, with a method that also records."""
    if (add_noise := getattr(scheduler, "add_noise", None)) is not None:
        yield scheduler, _recording_noise(recorder, add_noise)
    if (own := getattr(pipeline, "add_noise", None)) is not None:
        yield pipeline, record_own_noise(recorder.own_noised, own)


def _recording_noise(recorder: _Recorder, add_noise: Callable[..., Tensor]) -> Callable[..., Tensor]:
    signature = inspect.signature(add_noise)

    @wraps(add_noise)
    def record_noise(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        noised = add_noise(self, *args, **kwargs)
        given = signature.bind(self, *args, **kwargs).arguments
        times = given.get("timesteps", list(given.values())[-1])  # last in schedulers with other names
        if isinstance(times, Tensor | int | float):
            recorder.noised.append((float(torch.as_tensor(times).flatten()[0]), noised.clone()))
        return noised

    return record_noise


def _recording_times(recorder: _Recorder, set_timesteps: Callable[..., Any], stops: bool = False) -> Callable[..., Any]:
    signature = inspect.signature(set_timesteps)

    def record_times(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = dict(signature.bind(self, *args, **kwargs).arguments)
        bound.pop("self")
        recorder.times = bound | bound.pop("kwargs", {})
        if stops:
            raise _TimesAreSet
        return set_timesteps(self, *args, **kwargs)

    setattr(record_times, "__signature__", signature)  # noqa: B010 - pipelines ask which arguments it takes
    return record_times


def _copy_lists(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call with copies of all lists, because some pipelines modify the list of prompts."""
    return {name: list(value) if isinstance(value, list) else value for name, value in settings.items()}


def _copy(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf
