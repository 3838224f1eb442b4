"""The time of a bundle's text encoder and decoder, which a call from prompt to picture needs besides the denoiser."""

import logging
from collections.abc import Callable, Mapping
from functools import partial

from fewstep.measure.speed.contender_process import Call
from fewstep.measure.speed.timed_process import TimedProcess
from fewstep.plans.errors import UserError
from fewstep.report.choosing.deployment_times import estimate_call_time, milliseconds_of
from fewstep.report.choosing.measurement_cache import cache_key, read_cached, write_cached
from fewstep.report.choosing.stage_memory import decoder_inputs
from fewstep.runtime.autoencoder import load_autoencoder
from fewstep.runtime.bundle.manifest import GraphEntry, Manifest
from fewstep.runtime.bundle.networks import shared_graphs
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.companions import DECODER, TEXT_ENCODER
from fewstep.runtime.text import load_text_encoder

LOG = logging.getLogger("fewstep")
PROMPT = "a photograph of a red bicycle in front of a house"


def companion_timer(bundle: Bundle, threads: int, is_busy: bool = False) -> Callable[[str], float | None]:
    """Return a function that returns `time_companions` of a body. Bodies with the same graphs are timed once, also if
    the graphs do not run here."""
    times = dict[tuple[str, ...], float | None]()

    def time(body: str) -> float | None:
        own = bundle.with_graphs_of(body)
        files = tuple(graph.file for graph in companion_graphs(own.manifest))
        if files not in times:
            times[files] = time_companions(own, threads, is_busy)
        return times[files]

    return time


def time_companions(bundle: Bundle, threads: int, is_busy: bool = False) -> float | None:
    """Return the milliseconds of one prompt and one picture, measured in a process of their own: of wall time or, on a
    busy machine, of processor time. Wall times are cached unless other programs delayed the calls. None without
    `companion_graphs`, and if they do not run here."""
    manifest, graphs = bundle.manifest, companion_graphs(bundle.manifest)
    if not graphs:
        return None
    key = cache_key("companions", [manifest.files[graph.file] for graph in graphs], manifest.x_shape, threads, is_busy)
    milliseconds = read_cached(key, float)
    if milliseconds is None:
        try:
            with TimedProcess("the text encoder and the decoder", partial(make_calls, bundle, threads)) as process:
                calls = process.run_turn()
        except UserError as error:
            LOG.info("the text encoder and the decoder are not timed: %s", error)
            return None
        milliseconds = milliseconds_of(calls, is_busy)
        if is_busy or not estimate_call_time([wall for wall, _ in calls]).is_disturbed:
            write_cached(key, milliseconds)
    return milliseconds


def companion_graphs(manifest: Manifest) -> tuple[GraphEntry, ...]:
    """Return the graphs of the text encoder and the decoder, as far as a call runs them: a policy encodes its task once
    for many calls."""
    if manifest.policy is not None:
        return ()
    graphs = shared_graphs(manifest)
    return tuple(graphs[name] for name in (TEXT_ENCODER, DECODER) if name in graphs)


def make_calls(bundle: Bundle, threads: int) -> Mapping[str, Call]:
    """Return a call that encodes one prompt and decodes one sample. It is made in a separate process."""
    parts, manifest = list[Callable[[], object]](), bundle.manifest
    if manifest.text is not None:
        text = load_text_encoder(bundle, threads)
        parts.append(partial(text.encode, [PROMPT], conditions=text.zeros(1)))
    if manifest.autoencoder is not None:
        decoder = load_autoencoder(bundle, threads, encoder=False)
        parts.append(partial(decoder.decode, *decoder_inputs(bundle, decoder.described.decoder)))
    return {"": lambda: [part() for part in parts]}
