"""Run a pipeline's own call with random tensors in place of its denoiser's outputs, and record the calls of its
networks and the steps of its scheduler."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial, wraps
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fewstep.pipelines.recording.added_x import remove_x
from fewstep.pipelines.recording.call_record import (
    CallRecord,
    NetworkCall,
    NoisedImage,
    SchedulerStep,
    bind_arguments,
    drop_copies,
    float_tensors,
    split_ragged,
    split_variance,
)
from fewstep.pipelines.recording.components import BuiltPipeline
from fewstep.pipelines.recording.ending import Ending
from fewstep.pipelines.recording.failed_call import advise_run, describe_failure, fix_of_change, name_with_absent
from fewstep.pipelines.recording.inverted_flow import is_inverted, turn_around
from fewstep.pipelines.recording.joined_networks import join_calls, split_joined
from fewstep.pipelines.recording.network_state import Watch
from fewstep.pipelines.recording.own_noise import record_own_noise
from fewstep.pipelines.recording.stand_ins import (
    UNRECORDED,
    OutputShapes,
    copy_module,
    randomize,
    recording_error,
    state_device,
)
from fewstep.pipelines.recording.trigflow import is_trigflow, to_flow
from fewstep.plans.errors import UserError


class CallError(UserError):
    """Raised when the pipeline's own code fails before its scheduler has made the last step."""


class _Recorder:
    """Collects the calls of networks and scheduler while a pipeline runs. `stops`: it ends the call after a step."""

    def __init__(self, stops: bool = False) -> None:
        self.stops = stops
        self.steps: list[SchedulerStep] = []
        self.step_calls = 0
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
        calls = tuple(step.joined for step in self.steps)
        return CallRecord(tuple(self.steps), self.times, returned, failure, noised, tuple(self.own_noised), calls)


def record(
    built: BuiltPipeline,
    settings: Mapping[str, Any],
    seed: int,
    networks: Mapping[str, nn.Module] | None = None,
    deviation: float = 1.0,
    stops: bool = False,
) -> CallRecord:
    """Run the pipeline's call with these arguments, and record it. The noise, and the random outputs of its denoisers
    (probes), follow from the seed.

    networks: denoisers with weights, which replace those of the pipeline; no probes are drawn. deviation: the standard
        deviation of the probes. stops: the call ends after its first step. Raises CallError if the call fails before
        the scheduler's last step, and ChangedNetworkError if it changes a denoiser.
    """
    recorder, returned, failure = _run_call(built, settings, seed, networks or {}, None, deviation, stops)
    scheduler, call_record = built.pipeline.scheduler, drop_copies(recorder.finish(returned, failure))
    call_record = call_record if built.packing is None else built.packing.unpack_record(call_record)
    call_record = join_calls(built.name, split_ragged(call_record), built.seconds)
    call_record = call_record if built.form is None else built.form.rewrite(built.name, call_record)
    call_record = remove_x(call_record) if built.converts else call_record
    if is_inverted(scheduler):
        return turn_around(call_record, scheduler.config.num_train_timesteps)
    return to_flow(call_record, scheduler.config.sigma_data) if is_trigflow(scheduler) else call_record


def finish_call(built: BuiltPipeline, settings: Mapping[str, Any], ending: Ending, seed: int = 0) -> Any:
    """Return what a pipeline's call returns if its last step results in the x of `ending`. Raises CallError if its code
    fails."""
    _, returned, failure = _run_call(built, settings, seed, {}, replace(ending, packing=built.packing))
    if failure is not None:
        raise CallError(f"its call fails after the last step: {failure}", UNRECORDED)
    return returned


def _run_call(
    built: BuiltPipeline,
    settings: Mapping[str, Any],
    seed: int,
    networks: Mapping[str, nn.Module],
    ending: Ending | None,
    deviation: float = 1.0,
    stops: bool = False,
) -> tuple[_Recorder, Any, str | None]:
    """Run a pipeline's call as `record` describes. Return what was recorded, what the call returned, and the error
    after its last step, in words, or None."""
    recorder, probes = _Recorder(stops), torch.Generator().manual_seed(2 * seed + 1)
    pipeline, scheduler = built.pipeline, _scheduler(built)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_run_on_cpu(built))
        watches = _watch_networks(stack, built, recorder, networks, partial(_probe, probes, deviation))
        stack.enter_context(patch.object(scheduler, "step", _recording_step(recorder, scheduler.step, ending)))
        set_timesteps = _recording_times(recorder, scheduler.set_timesteps)
        stack.enter_context(patch.object(scheduler, "set_timesteps", set_timesteps))
        for made, add_noise in _noise_methods(recorder, scheduler, type(pipeline)):
            stack.enter_context(patch.object(made, "add_noise", add_noise))
        random, returned, failure = torch.Generator().manual_seed(2 * seed), None, None
        try:
            returned = pipeline(**_copy_lists(settings), generator=random)
        except UserError:
            raise
        except _Stopped:
            watches = []  # a call may restore its network at its end
        except Exception as error:
            is_of_diffusers = type(pipeline).__module__.startswith("diffusers.")  # which imports what is installed
            if is_of_diffusers and isinstance(error, NameError) and find_spec(error.name or "_") is None:
                what = f"the code of {built.name} needs {error.name}, which is not installed"
                raise UserError(what, f"pip install {error.name}") from error
            failure = describe_failure(error, pipeline)
            if not recorder.steps or len(recorder.steps) < len(_timesteps(pipeline)) - is_trigflow(pipeline.scheduler):
                who = name_with_absent(built.name, pipeline)
                raise CallError(f"the call of {who} failed: {failure}", advise_run(settings, pipeline)) from error
        for watch in watches if ending is None else ():
            watch.check("after its last call")
    if not recorder.steps:
        raise recording_error(f"{built.name} never calls its scheduler's step")
    return recorder, returned, failure


def _watch_networks(
    stack: ExitStack,
    built: BuiltPipeline,
    recorder: _Recorder,
    networks: Mapping[str, nn.Module],
    probe: Callable[[nn.Module, OutputShapes, dict[str, Any]], Any],
) -> list[Watch]:
    """Let the denoisers of a pipeline record their calls until the stack ends. Returns a watch over each.

    networks: the denoisers that run. The others are copies of the stand-ins, and `probe` answers in their place.
    """
    watches, networks = [], split_joined(networks)
    for name, shapes in built.denoisers.items():
        stand_in: nn.Module = getattr(built.pipeline, name)
        fix = partial(fix_of_change, built.pipeline)
        make_watch = partial(Watch, f"{built.name} changes its network {name}", fix=fix)
        if (network := networks.get(name)) is not None:
            pair = [make_watch(stand_in), make_watch(network)]
            answer = partial(_run, network.forward, pair[1])
        else:
            if not shapes.watches or not all(watch.is_at_rest() for watch in shapes.watches):
                # a copy, so that each call finds the network at rest
                shapes.watches[:] = make_watch(stand_in), make_watch(copy_module(stand_in))
            pair = shapes.watches
            answer = partial(probe, pair[1].network, shapes)
        stack.enter_context(place(built.pipeline, {name: pair[1].network}))
        for watch in pair:  # the pipeline may have kept the first one elsewhere too
            forward = _recording_forward(recorder, built, name, watch, answer)
            stack.enter_context(patch.object(watch.network, "forward", forward, create=True))
        watches += pair
    return watches


class _Stopped(Exception):
    """Ends a call as soon as the pipeline has passed its times to the scheduler, or made a step."""


def record_times(built: BuiltPipeline, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a pipeline's call passes to its scheduler's `set_timesteps`, without running its steps."""
    recorder, scheduler = _Recorder(), _scheduler(built)
    with torch.no_grad(), _run_on_cpu(built):
        times = _recording_times(recorder, scheduler.set_timesteps, stops=True)
        with patch.object(scheduler, "set_timesteps", times), suppress(_Stopped):
            built.pipeline(**_copy_lists(settings), generator=torch.Generator().manual_seed(0))
    return recorder.times


def _probe(
    probes: torch.Generator, deviation: float, network: nn.Module, shapes: OutputShapes, arguments: dict[str, Any]
) -> Any:
    outputs = randomize(shapes.infer(network, arguments), probes)
    if deviation == 1:
        return outputs
    return pytree.tree_map(lambda leaf: deviation * leaf if isinstance(leaf, Tensor) else leaf, outputs)


@contextmanager
def place(pipeline: Any, networks: Mapping[str, nn.Module]) -> Iterator[None]:
    """While active, let a pipeline have other networks as its components. Its other attributes keep what a call
    sets."""
    components = vars(pipeline)
    before = {name: components[name] for name in networks}
    components.update(networks)
    try:
        yield
    finally:
        components.update(before)


def _run(forward: Callable[..., Any], watch: Watch, arguments: dict[str, Any]) -> Any:
    outputs = forward(**arguments)
    watch.accept()
    return outputs


def _scheduler(built: BuiltPipeline) -> Any:
    scheduler = getattr(built.pipeline, "scheduler", None)
    if scheduler is None or not hasattr(scheduler, "step") or not hasattr(scheduler, "set_timesteps"):
        raise recording_error(f"{built.name} has no scheduler with step and set_timesteps")
    return type(scheduler)


def _timesteps(pipeline: Any) -> Any:
    times = getattr(pipeline.scheduler, "timesteps", ())
    return () if times is None else times


@contextmanager
def _run_on_cpu(built: BuiltPipeline) -> Iterator[None]:
    """Let a pipeline make its tensors on the CPU, though its networks have no device."""
    made, cpu = type(built.pipeline), property(lambda self: torch.device("cpu"))
    with ExitStack() as stack:
        for name in ("_execution_device", "device"):
            stack.enter_context(patch.object(made, name, cpu, create=True))
        for name in built.denoisers:
            stack.enter_context(state_device(getattr(built.pipeline, name), "cpu"))
        yield


def _recording_forward(
    recorder: _Recorder, built: BuiltPipeline, name: str, watch: Watch, answer: Callable[[dict[str, Any]], Any]
) -> Callable[..., Any]:
    """Return a `forward` that records the calls of a network, and compares its state at each."""
    network = watch.network
    signature = inspect.signature(type(network).forward)

    def forward(*args: Any, **kwargs: Any) -> Any:
        arguments = bind_arguments(signature, args, kwargs)
        watch.check(f"before call {len(recorder.pending) + 1} of step {len(recorder.steps) + 1}")
        flat, structure = pytree.tree_flatten_with_path(arguments)
        leaves = {pytree.keystr(path): _copy(leaf) for path, leaf in flat}
        outputs = answer(arguments)
        tensors, is_list = _read_outputs(f"the network {name} of {built.name}", outputs, name in built.seconds)
        first, *more = (tensor.clone() for tensor in tensors)
        recorder.pending.append(NetworkCall(name, leaves, structure, first, tuple(more), is_list))
        return outputs

    return forward


def _read_outputs(label: str, outputs: Any, is_second: bool) -> tuple[list[Tensor], bool]:
    """Return the floating-point tensors that a network returned, and whether it returned a list with one tensor per
    row, whose tensors are then stacked. The lists of a second network, such as a ControlNet, have a tensor for each
    block. Raises UserError if there are none, or if the tensors of a list differ in shape."""
    tensors = float_tensors(outputs)
    values = outputs.values() if isinstance(outputs, Mapping) else outputs if isinstance(outputs, tuple) else ()
    is_list = isinstance(next(iter(values), None), list) and not is_second
    if not tensors or (is_list and len({tensor.shape for tensor in tensors}) > 1):
        what = "a list of tensors of different shapes" if tensors else "no tensors"
        raise recording_error(f"{label} returns {what}")
    return ([torch.stack(tensors)], True) if is_list else (tensors, False)


def _recording_step(recorder: _Recorder, step: Callable[..., Any], ending: Ending | None) -> Callable[..., Any]:
    signature = inspect.signature(step)

    def record_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs).arguments
        output, time, sample = (bound.get(name) for name in ("model_output", "timestep", "sample"))
        if not isinstance(output, Tensor) or not isinstance(sample, Tensor) or time is None:
            what = f"the step of {type(self).__name__} takes no model_output, timestep and sample"
            raise UserError(what, "give its arguments these names, as schedulers of diffusers do")
        times = torch.as_tensor(time).flatten()  # some pipelines pass one for each sample
        if not bool((times == times[0]).all()):
            raise recording_error(f"the step of {type(self).__name__} has several times")
        (output, variance), sample = split_variance(self, output.clone(), sample), sample.clone()
        if ending is None or recorder.step_calls <= ending.calls:
            returned = step(self, *args, **kwargs)
        else:
            with ending.aside():
                zeros = {name: torch.zeros(bound[name].shape) for name in ("model_output", "sample")}
                returned = step(**{**bound, **zeros})
        own = returned[0] if isinstance(returned, tuple) else returned.prev_sample
        calls, recorder.pending = tuple(recorder.pending), []
        eta = None if bound.get("eta") is None else float(bound["eta"])
        made = SchedulerStep(calls, output, float(times[0]), sample, own.clone(), eta, variance=variance)
        start = recorder.add(made)
        recorder.step_calls += 1
        if recorder.stops:
            raise _Stopped
        if ending is None or recorder.step_calls <= ending.calls:
            return returned
        if recorder.step_calls == ending.calls + 1:
            ending.begin()
        x = ending.x if ending.packing is None else ending.packing.pack(ending.x)  # after `begin`: it may be traced
        x = x * self.config.sigma_data if is_trigflow(self) else x
        part = x
        if not ending.is_whole:
            part = x.flatten(1)[:, start : start + sample[0].numel()].reshape(-1, *sample.shape[1:])
        copies = len(sample) // len(part)  # one for each branch, as in DiT's pipeline
        part = torch.cat([part] * copies) if copies > 1 else part
        if not isinstance(returned, tuple):
            return type(returned)(prev_sample=part)
        return tuple(part if isinstance(value, Tensor) and value.shape == sample.shape else value for value in returned)

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
        recorder.times = bind_arguments(signature, args, kwargs)
        if stops:
            raise _Stopped
        return set_timesteps(self, *args, **kwargs)

    setattr(record_times, "__signature__", signature)  # noqa: B010 - pipelines ask which arguments it takes
    return record_times


def _copy_lists(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call with copies of all lists, because some pipelines modify the list of prompts."""
    return {name: list(value) if isinstance(value, list) else value for name, value in settings.items()}


def _copy(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf
