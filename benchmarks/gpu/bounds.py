"""Lower bounds of the time of an engine's kernels on this GPU."""

from collections.abc import Sequence

from benchmarks.gpu.deployed import BATCHES, Deployed
from fewstep.graph.engines.batches import BATCH
from fewstep.graph.engines.kernels import kernels_of
from fewstep.graph.engines.time_bound import DEVICES, lower_bound
from fewstep.runtime.backends import find_graph
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.tensorrt import BODIES
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.kinds.sizes import resolve_dimension
from fewstep.runtime.machine.gpu import Gpu
from fewstep.runtime.sampling.loading import load


def bounds(of: Deployed, precision: str, gpu: Gpu | None, batches: Sequence[int] = BATCHES) -> tuple[float, ...]:
    """Return a lower bound of the milliseconds of a guided sample's steps, by batch: nothing for a GPU without a
    data sheet in `DEVICES`, or for an engine without a program text.
    """
    device = next((each for each in DEVICES if gpu is not None and gpu.name.endswith(each.name)), None)
    opened = open_bundle(of.bundle)
    engine = next((each for each in opened.manifest.engines if each.body in BODIES.get(precision, ())), None)
    if device is None or engine is None:
        return ()
    with load(of.bundle, body="float32", backend=OnnxRuntime()) as sampler:
        evaluations = len(sampler.compile(of.member.plan, of.member.guidance).steps)
    found = []
    for batch in batches:
        inputs = find_graph(opened, engine.body).inputs
        shapes = {
            each.name: tuple(resolve_dimension(size, {BATCH: 2 * batch}) for size in each.shape) for each in inputs
        }
        kernels = kernels_of(opened.read(engine.file), shapes)
        least = None if kernels is None else lower_bound(kernels, device)
        if least is None:
            return ()
        found.append(1e3 * evaluations * least)
    return tuple(found)
