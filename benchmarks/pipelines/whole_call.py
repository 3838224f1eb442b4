"""Compare a bundle with the own call of the recorded pipeline that it was exported from: from texts to x, and from x to
what the call returns. All networks have the weights of the folder.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace as with_fields
from torch import nn

from benchmarks.pipelines.variants import write_call
from fewstep.export.options.call_option import parse_call
from fewstep.pipelines.companions.decoding import COLORS, read_tensors, to_model_range
from fewstep.pipelines.companions.recorded_conditions import find_features, read_conditions
from fewstep.pipelines.comparison import SEED, ComparedRun, run_networks, sample_plan
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.files.loading import load_component, load_network
from fewstep.pipelines.recorded_pipeline import RecordedPipeline
from fewstep.pipelines.recording.call_record import CallRecord
from fewstep.pipelines.recording.components import BuiltPipeline, build_pipeline
from fewstep.pipelines.recording.ending import TENSORS, ask_for
from fewstep.pipelines.recording.quiet import silence_libraries
from fewstep.pipelines.recording.record import CallError, record
from fewstep.pipelines.recording.settings import NEGATIVE, OTHERS, PROMPT, PROMPTS
from fewstep.pipelines.recording.text_calls import record_texts
from fewstep.pipelines.relations.networks import RecordedNetworks
from fewstep.pipelines.relations.relations import branch_calls
from fewstep.pipelines.rounding import relative_difference
from fewstep.pipelines.source import record_folder
from fewstep.pipelines.stored_steps import find_scheduler
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND, UNCOND
from fewstep.plans.plan import Plan, Step
from fewstep.runtime.autoencoder import load_autoencoder
from fewstep.runtime.bundle.networks import network_at
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.execute import StepNetwork
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.text import load_text_encoder

TEXTS = (  # None: the pipeline's own negative prompt
    (PROMPTS[1], OTHERS[1]),
    (" A very small,\n bright bird ", None),
    (PROMPTS[0], ""),
)


@dataclass(frozen=True)
class WholeCall:
    """Differences of a bundle from its pipeline's own call. `from_text`: the largest one of the final x, relative to
    its range, over `TEXTS`, with the conditions that the bundle makes from these; None for a bundle that takes no
    prompts. `from_x`: that of its output, relative to the largest value, from the x of the call; None for a bundle
    that returns latents."""

    from_text: float | None
    from_x: float | None


def compare_whole_call(folder: Path, bundle: Path, settings: Mapping[str, Any]) -> WholeCall:
    """Compare a bundle with the call of the recorded pipeline in a folder. Raises UserError if the call fails."""
    read = Folder(folder)
    pads_texts = all(size.axis is not None for size in open_bundle(bundle).manifest.sizes)
    recorded = record_folder(read, parse_call(write_call(settings)), pads_texts)
    with silence_libraries():
        built = build_pipeline(read, load=partial(_load, open_bundle(bundle).manifest.text is not None))
        built = built.with_layout_of(recorded.built)
        networks = {name: recorded.load(name, partial(_load_denoiser, folder)) for name in recorded.parts}
        modules, manifest = recorded.wrap(networks), open_bundle(bundle).manifest
        has_text = manifest.text is not None
        from_text = max(_compare_text(bundle, built, recorded, modules, texts) for texts in TEXTS) if has_text else None
        is_picture = len(recorded.x_shape) == 3 and recorded.x_shape[0] in COLORS
        returns = manifest.autoencoder is not None or is_picture
        from_x = _compare_output(bundle, built, recorded, networks) if returns else None
    return WholeCall(from_text, from_x)


def _load_denoiser(folder: Path, name: str) -> nn.Module:
    return load_network(folder / name)[0].float().eval()


def _load(has_text: bool, home: Path, network_class: Any) -> nn.Module | None:
    """Return a network with its weights. Without a text encoder in the bundle, one that cannot be loaded is a stand-in:
    only the final x of the call and its output are compared."""
    try:
        return load_component(home, network_class).float()
    except UserError:
        if has_text:
            raise
        return None


def _compare_text(
    bundle: Path,
    built: BuiltPipeline,
    recorded: RecordedPipeline,
    modules: RecordedNetworks,
    texts: tuple[str, str | None],
) -> float:
    prompt, negative = texts
    call = {**recorded.settings.of_one_sample(), PROMPT: prompt}
    if negative is None:
        call.pop(NEGATIVE, None)
    elif NEGATIVE in call:
        call[NEGATIVE] = negative
    try:
        run = run_networks(built, modules, call)
        is_whole = len(list(branch_calls(run.record.steps[0], recorded.relations.x))) == recorded.relations.branches
        is_whole &= bool(run.record.steps[-1].result.isfinite().all())
    except CallError:
        if negative is not None:
            raise
        is_whole = False
    if not negative and not is_whole:  # without a negative prompt, it has no guidance, fails, or attends to nothing
        return _compare_text(bundle, built, recorded, modules, (prompt, OTHERS[0]))
    scheduler = find_scheduler(recorded, modules, recorded.built.name)
    mine, theirs = sample_plan(
        built, modules, call, scheduler, run, partial(_network, bundle, built, recorded, run, call)
    )
    return relative_difference(mine, theirs)


def _network(
    bundle: Path,
    built: BuiltPipeline,
    recorded: RecordedPipeline,
    run: ComparedRun,
    call: Mapping[str, Any],
    plan: Plan,
) -> StepNetwork:
    """Return the bundle's networks, with the conditions that the bundle makes from the texts of a call. Those that do
    not follow from texts, and the features of a picture from which it encodes texts, are of the pipeline's own call."""
    encoder, values = load_text_encoder(bundle), _read_arrays(recorded, run.record)
    seen = {name: value[None].numpy() for name, value in find_features(record_texts(built, call, ())).items()}
    values[COND] |= {**seen, **encoder.encode([call[PROMPT]], conditions=seen)}
    negative = call.get(NEGATIVE)
    if UNCOND in values:
        negative = encoder.nothing if negative is None else negative
        if negative is None:
            values[UNCOND] |= dict.fromkeys(encoder.conditions)
        else:
            values[UNCOND] |= encoder.encode_negative([negative], of=[call[PROMPT]], conditions=seen)
    condition = values.pop(COND)
    sampler, manifest = load(bundle), open_bundle(bundle).manifest
    steps = tuple(with_fields(step, network=network_at(manifest, step.lam)) for step in plan.steps)
    return sampler.step_network(sampler.compile(with_fields(plan, steps=steps)), 1, condition, values or None)


def _read_arrays(recorded: RecordedPipeline, call: CallRecord) -> dict[str, dict[str, Any]]:
    values = read_conditions(recorded, call)
    return {branch: {name: value[None].numpy() for name, value in own.items()} for branch, own in values.items()}


def _compare_output(
    bundle: Path, built: BuiltPipeline, recorded: RecordedPipeline, networks: Mapping[str, nn.Module]
) -> float:
    """Compare what the bundle's decoder makes of the x of a call with what the call returns."""
    call = ask_for(TENSORS, recorded.settings.of_one_sample())
    torch.manual_seed(SEED)  # of the noise of an encoded picture
    own = record(built, call, SEED, networks=networks)
    torch.manual_seed(SEED)
    x, has_decoder = _final_x(built, recorded, networks), open_bundle(bundle).manifest.autoencoder is not None
    decoded: Mapping[Any, Any] = {"image": x.clip(-1, 1)}
    if has_decoder:
        conditions = _read_arrays(recorded, own).get(COND, {})
        decoded = load_autoencoder(bundle, encoder=False).decode_all(x, conditions)
    expected = [to_model_range(tensor, is_raw=float(tensor.min()) < 0).numpy() for tensor in read_tensors(own.returned)]
    return max(_difference(*pair) for pair in zip(decoded.values(), expected, strict=True))


def _final_x(built: BuiltPipeline, recorded: RecordedPipeline, networks: Mapping[str, nn.Module]) -> Any:
    """Return the final x of a call, with the part of a picture that it keeps."""
    call, modules = recorded.settings.of_one_sample(), recorded.wrap(networks)
    run = run_networks(built, modules, call)
    if not recorded.holds:
        return run.record.steps[-1].result.numpy()
    scheduler = find_scheduler(recorded, modules, recorded.built.name)
    return sample_plan(built, modules, call, scheduler, run, lambda _: _return_zeros)[1]


def _return_zeros(_: int, step: Step, u: Any) -> list[Any]:
    return [np.zeros_like(u)] * (len(step.branches) * step.heads)


def _difference(mine: Any, theirs: Any) -> float:
    return float(np.abs(mine - theirs).max() / np.abs(theirs).max())
