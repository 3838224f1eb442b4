"""Sample in batches for `fewstep run`, and write the files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.cli.run.batches import batch_size
from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.output import ARRAY, write_array, write_pictures, write_sounds
from fewstep.cli.run.plan import compile_plan, open_backend
from fewstep.cli.run.request import RunRequest, open_request
from fewstep.cli.run.whole_runs import batches_of, whole_run_sizes
from fewstep.cli.run_plan import warn_of_mismatch
from fewstep.plans.plan import Plan
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.registry import companion_engine
from fewstep.runtime.lora.option import split_network_of_file, split_strength
from fewstep.runtime.machine.memory_pages import return_large_blocks
from fewstep.runtime.pictures import pictures_of, sound_of
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.prompts import Values
from fewstep.runtime.runs.tiles import tiled_steps
from fewstep.runtime.sampling.execute import Hold, StepState
from fewstep.runtime.sampling.finite_checks import finite_sample, warn_if_far
from fewstep.runtime.sampling.lazy_graphs import GraphsInTurns
from fewstep.runtime.sampling.loading import load

Named = dict[str, NDArray[np.floating]]  # outputs other than the samples, of one batch


@dataclass(frozen=True)
class RunSamples:
    """Samples [N, *x_shape], the name of their plan, and the named outputs of the last evaluations."""

    x: NDArray[np.float32]
    plan: str
    named_outputs: Named


def run(options: RunOptions, progress: Progress = SILENT) -> RunSamples:
    """Sample to files, and return the samples that were written: images, videos or sound if the bundle
    has a decoder, otherwise latents."""
    return sample_to_files(open_request(options), progress)


def sample_to_files(request: RunRequest, progress: Progress) -> RunSamples:
    """Sample a request, write the files, and return the samples."""
    options, autoencoder = request.options, request.bundle.manifest.autoencoder
    if autoencoder is not None and not options.is_array:
        request.bundle.graph(autoencoder.decoder)  # damage is named before the steps, whose samples it would lose
    samples = sample_request(request, progress)
    conditions = _cycle_values(request.values, range(len(samples.x)))
    engine = companion_engine(options.backend, options.threads)
    if options.is_picture:
        in_bands = request.memory is not None and request.memory.in_bands
        tiles = None if request.tiled is None else request.tiled.tiles
        pictures = pictures_of(request.bundle, samples.x, conditions, tiles, options.threads, in_bands, engine)
        samples = replace(samples, x=pictures)
        write_pictures(samples.x, options.output, options.columns, options.scale, request.rate)
    elif options.is_array:
        write_array(samples.x, options.output)
    else:
        samples = replace(samples, x=sound_of(request.bundle, samples.x, conditions, options.threads, engine))
        assert request.rate is not None, "it was checked"
        write_sounds(samples.x, options.output, request.rate, options.seed)
    for name, tensor in samples.named_outputs.items():
        write_array(tensor, options.output.with_suffix(f".{name}{ARRAY}"))
    return samples


def sample_request(request: RunRequest, progress: Progress) -> RunSamples:
    """Sample in batches as a request says, and return all samples."""
    options, tiled, branches = request.options, request.tiled, request.branches
    batch, parts, left = batch_size(options, request.bundle.manifest), [], list[Named]()
    batch = batch if request.memory is None else request.memory.batch
    backend = open_backend(options, request.choice, batch)
    is_short = request.memory is not None and not request.memory.keeps_memory
    if request.memory is not None and request.memory.in_turns:
        backend = GraphsInTurns(OnnxRuntime(options.threads, keeps_memory=request.memory.keeps_memory))
    opened = load(options.bundle, options.precision, backend=backend, whole_runs=options.whole_run)
    with return_large_blocks(is_short), opened as loaded:
        adapters: dict[str | PathLike[str], float] = {}
        for name, network in map(split_network_of_file, options.adapter):
            path, strength = split_strength(name, "--adapter")
            key = path if network is None else f"{path}@{network}"
            adapters[key] = adapters.get(key, 0.0) + strength
        sampler = loaded.with_options(adapters=adapters or None, **request.sizes)
        plan = compile_plan(request, sampler)
        if request.choice is None:  # a choice measured this plan with this body
            warn_of_mismatch(sampler.bundle, sampler.body, plan, options.clip)
        sizes = whole_run_sizes(sampler, plan, branches, options, request.hold)
        for places in batches_of(options.count, batch, sizes):
            seeds = [options.seed + place for place in places]
            asked: dict[str, Any] = {
                "condition": _cycle_values(request.values, places),
                "given": {name: np.stack(rows) for name, rows in _cycle_values(request.given, places).items()},
            }
            if branches:
                asked["branches"] = {branch: _cycle_values(rows, places) for branch, rows in branches.items()}
            if request.hold is not None:
                asked["hold"] = replace(request.hold, value=np.repeat(request.hold.value_at(0), len(seeds), axis=0))
            shape = (len(seeds), *sampler.bundle.manifest.x_shape)
            if sampler.whole_runs is not None and sampler.whole_runs.find(plan, shape, request.hold) is not None:
                parts.append(sampler.sample(plan, seeds, **asked))
                progress(_describe_seeds(seeds), len(plan.steps), len(plan.steps))
                continue
            states = (
                sampler.steps(plan, seeds, **asked)
                if tiled is None
                else tiled_steps(sampler, plan, tiled.shape, tiled.tiles, seeds, **asked)
            )
            parts.append(_sample(states, plan, seeds, progress, left, asked.get("hold")))
    named = {name: np.concatenate([rows[name] for rows in left]) for name in left[0]} if left else {}
    x = np.concatenate(parts)
    return RunSamples(warn_if_far(x, plan, request.bundle.manifest), plan.name, named)


def _describe_seeds(seeds: Sequence[int]) -> str:
    return f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"


def _cycle_values(values: Values, places: Sequence[int]) -> dict[str, list[Any]]:
    """Return the values for the samples with the indices `places`. If there are fewer values than samples, they are
    repeated in turn."""
    return {name: [each[place % len(each)] for place in places] for name, each in values.items()}


def _sample(
    states: Iterator[StepState],
    plan: Plan,
    seeds: Sequence[int],
    progress: Progress,
    left: list[Named],
    hold: Hold | None,
) -> NDArray[np.float32]:
    """Return the final samples of a run, reporting progress after each step. Append the named outputs to `left`."""
    which = _describe_seeds(seeds)

    def count_steps() -> Iterator[StepState]:
        for state in states:
            progress(which, state.index + 1, len(plan.steps))
            yield state
        if isinstance(state, StepState) and state.slots is not None and state.slots.named:
            left.append({name: tensor.copy() for name, tensor in state.slots.named.items()})  # no carried tensors

    return finite_sample(plan, count_steps(), hold)
