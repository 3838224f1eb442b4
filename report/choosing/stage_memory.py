"""The memory that each stage of a run takes, measured once on this machine in a process of its own.

The stages of a run from prompt to picture are the text encoder, the denoiser and the decoder. Each is released before
the next one begins, so the peak of a run is that of its largest stage.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.workers.process_pool import ProcessPool
from fewstep.plans.errors import UserError
from fewstep.report.choosing.measurement_cache import cache_key, read_cached, write_cached
from fewstep.runtime.autoencoder import load_autoencoder
from fewstep.runtime.backends import RUN_ONCE, Arrays, Backend, graph_names
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.probe import probe_feeds, sizes_of_probe
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.bundle.networks import shared_graphs
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.companions import DECODER, TEXT_ENCODER
from fewstep.runtime.machine.cpu import engine_threads
from fewstep.runtime.machine.memory import peak_bytes
from fewstep.runtime.machine.memory_pages import return_large_blocks
from fewstep.runtime.sampling.lazy_graphs import GraphsInTurns
from fewstep.runtime.text import load_text_encoder, open_text_encoder

LOG = logging.getLogger("fewstep")
DENOISER_STAGE = "denoiser"
CALLS = 2  # the second call of a graph may take more than the first: onnxruntime's arena grows


@dataclass(frozen=True)
class Stage:
    """A stage of a run: a text encoder for `prompts`, a denoiser for `rows` rows of a call, or a decoder, which takes
    one sample at a time, in bands of rows if it can and `in_bands`. in_turns: whether a denoiser has one graph in
    memory at a time. `keeps_memory`: see `OnnxRuntime`."""

    name: str
    body: str
    rows: int = 1
    in_turns: bool = False
    keeps_memory: bool = True
    in_bands: bool = False
    prompts: tuple[str, ...] = ()


def stage_bytes(bundle: Bundle, stage: Stage, threads: int) -> int:
    """Return the bytes of memory that a stage adds to a process, at its peak. It is measured by running the stage once
    in another process, and kept in the user's cache folder.

    Raises UserError if this system does not report memory, or if the stage fails.
    """
    manifest, graphs = bundle.manifest, shared_graphs(bundle.manifest)
    body = manifest.bodies[stage.body]
    own = [*body.graphs, *(graphs[name] for name in RUN_ONCE if name in graphs)]
    entries = own if stage.name == DENOISER_STAGE else [graphs[stage.name]]
    hashes = [manifest.files[name] for entry in entries for name in (entry.file, *entry.data)]
    tokens = open_text_encoder(bundle, network=_not_run).ids(stage.prompts) if stage.prompts else {}
    sizes = (manifest.x_shape, sizes_of_probe(bundle), [array.shape for array in tokens.values()])
    how = (stage.rows, stage.in_turns, stage.keeps_memory, stage.in_bands, engine_threads(threads))
    key = cache_key("memory in turns", stage.name, how, hashes, sizes)
    added: int | None = read_cached(key, int)
    if added is None:
        LOG.warning("the memory of the %s is measured once on this machine, in a process of its own", stage.name)
        with ProcessPool(1) as process:
            added = process.submit(_measure, bundle, stage, engine_threads(threads)).result()
        write_cached(key, added)
    return added


def _measure(bundle: Bundle, stage: Stage, threads: int) -> int:
    """Run a stage in this process, which has run nothing else, and return the bytes that its peak adds."""
    run = {TEXT_ENCODER: _encode, DENOISER_STAGE: _denoise, DECODER: _decode}[stage.name]
    before = peak_bytes()
    run(bundle, stage, threads)
    after = peak_bytes()
    if before is None or after is None:
        raise UserError("this system does not report the memory of a process", "leave --memory out")
    return after - before


def _encode(bundle: Bundle, stage: Stage, threads: int) -> None:
    text = load_text_encoder(bundle, threads)
    text.encode(stage.prompts, conditions=text.zeros(len(stage.prompts)))


def _not_run(feeds: Arrays) -> dict[str, NDArray[np.float32]]:
    raise AssertionError("only the numbers of tokens are asked for")


def _denoise(bundle: Bundle, stage: Stage, threads: int) -> None:
    """Load the graphs of a body as a sampler does, and call each for synthetic inputs."""
    engine, manifest = OnnxRuntime(threads, keeps_memory=stage.keeps_memory), bundle.manifest
    backend: Backend = GraphsInTurns(engine) if stage.in_turns else engine
    graphs = graph_names(stage.body, manifest.bodies[stage.body])
    before = {name: graph for name, graph in shared_graphs(manifest).items() if name in RUN_ONCE}
    entries = {**before, **graphs}
    with return_large_blocks(is_short=not stage.keeps_memory):
        loaded: dict[str, Callable[[Any], Any]] = {name: backend.load(bundle, name) for name in entries}
        sizes, results = {**sizes_of_probe(bundle), "batch": stage.rows}, []
        for name, entry in entries.items():
            feeds = probe_feeds(entry, sizes, 0)
            for _ in range(CALLS):
                result = loaded[name](feeds)
            results.append(result)  # prologue rows stay in memory during the steps


def _decode(bundle: Bundle, stage: Stage, threads: int) -> None:
    decoder = load_autoencoder(bundle, threads, encoder=False, in_bands=stage.in_bands)
    decoder.decode(*decoder_inputs(bundle, decoder.described.decoder))


def decoder_inputs(bundle: Bundle, decoder: GraphEntry) -> tuple[NDArray[np.generic], dict[str, NDArray[np.generic]]]:
    """Return synthetic latents of one sample, and the conditions that a decoder takes with them, by name."""
    feeds = probe_feeds(decoder, {**sizes_of_probe(bundle), "batch": 1}, 0)
    latents = feeds.pop(decoder.inputs[0].name)
    return latents, feeds
