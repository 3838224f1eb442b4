"""Compare an all-integer body in Qualcomm's HTP with ONNX's arithmetic."""

import numpy as np

from fewstep.measure.open_body import open_body
from fewstep.measure.rollouts.plan_selection import select_plan
from fewstep.measure.speed.mean_step import middle_feeds, select_feeds
from fewstep.plans.plan import DENOISER
from fewstep.report.engines.differences import EngineComparison
from fewstep.runtime.backends import LoadedGraph, find_graph
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.platforms import QNN
from fewstep.runtime.bundle.reading import Bundle

HTP = 1e-3  # 60 dB: standard deviation of the difference, relative to the output's
HTP_8BIT = 3e-2  # the same for 8-bit inputs, whose neighbouring codes differ by 40 dB


def compare_in_htp(bundle: Bundle, graph: str, network: LoadedGraph) -> EngineComparison:
    """Compare an all-integer body in QNN with ONNX's arithmetic in onnxruntime, on its inputs at the middle step of its
    plan."""
    name = graph.partition("/")[0]
    sampler, entry = open_body(bundle, name, threads=0), find_graph(bundle, graph)
    feeds = select_feeds(entry, middle_feeds(sampler, select_plan(sampler.plans, bundle.body(name)), 1)[DENOISER])
    expected, computed = OnnxRuntime(fuse_qdq=False).load_graph(bundle, entry)(feeds), network(feeds)
    limit = HTP if bundle.body(name).target == QNN.name else HTP_8BIT
    ratios = [np.std(computed[out] - each) / np.std(each) for out, each in expected.items()]
    return EngineComparison(QNN.name, graph, 1, float(max(ratios)), limit)
