"""A bundle of fewstep with all parts in memory: `fewstep_bundle.py BUNDLE BODY [BACKEND]`.

The encoder, the denoiser and the decoder are loaded once, as a program that draws many pictures does.
"""

import sys
from collections.abc import Callable

from benchmarks.whole.contenders.laps import PROMPT, STEPS, print_laps
from fewstep.runtime.autoencoder import load_autoencoder
from fewstep.runtime.backends.registry import companion_engine, create_backend
from fewstep.runtime.bundle.networks import shared_graphs
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.kinds.companions import ENCODER
from fewstep.runtime.sampling.loading import load_body
from fewstep.runtime.text import load_text_encoder

PLAN = f"scheduler:{STEPS}"


def stored_bytes(path: str, body: str) -> int:
    """Return the bytes of the files from which one body draws pictures: not those of other bodies, and not those of the
    encoder of images."""
    bundle = open_bundle(path).with_graphs_of(body)
    shared = (graph for name, graph in shared_graphs(bundle.manifest).items() if name != ENCODER)
    graphs = (*bundle.manifest.bodies[body].graphs, *shared)
    files = {name for graph in graphs for name in (graph.file, *graph.data)}
    text = bundle.manifest.text
    files |= {tokens.tokenizer for tokens in text.tokens} if text is not None else set()
    return sum(bundle.file(name).stat().st_size for name in files)


def load() -> Callable[[], object]:
    name = sys.argv[3] if len(sys.argv) > 3 else "onnxruntime"
    engine = companion_engine(name)
    sampler = load_body(open_bundle(sys.argv[1]), sys.argv[2], create_backend(name))
    text = load_text_encoder(sampler.bundle, engine=engine)
    decoder = load_autoencoder(sampler.bundle, encoder=False, engine=engine)
    plan = sampler.compile(PLAN, guidance=1.0)
    return lambda: decoder.decode(sampler.sample(plan, [0], text.encode([PROMPT])))


if __name__ == "__main__":
    print_laps(load, stored_bytes(*sys.argv[1:3]))
