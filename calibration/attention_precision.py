"""Choose whether the products of large attention run in int8, by the error of samples and an estimate of time.

The ranges table has a range for the input of each operation with a weight, but none for the operands of attention. The
probabilities of attention may also be too flat or too peaked for 8 bits. So whole bodies are judged: first with the
product of queries and keys (the scores) in int8, then also with the product of probabilities and values. A product
stays in int8 if the lost quality is worth less than the saved time; `CalibrationPolicy.price` converts time to dB.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.calibrated_body import CalibratedBody
from fewstep.calibration.lowering.attention_pairs import (
    Int8Products,
    LargeAttention,
    find_large_attention,
    quantize_products,
)
from fewstep.calibration.lowering.coverage import count_operation_macs
from fewstep.calibration.policy import CalibrationPolicy
from fewstep.calibration.precision.recipe import Recipe
from fewstep.calibration.ranges.observe import open_observed
from fewstep.graph.graph import Graph, Node, Value
from fewstep.graph.session import open_session
from fewstep.measure.rollouts.nearness import Nearness
from fewstep.measure.rollouts.output_differences import is_lost
from fewstep.measure.rollouts.recorded_run import RecordedRun

LOG = logging.getLogger("fewstep")
SCORES, MIXES = "scores", "mixes"  # the products of queries and keys, and of probabilities and values


def quantize_attention(
    body: CalibratedBody[Recipe],
    recorded_run: RecordedRun,
    judge: Callable[[Recipe], CalibratedBody[Recipe]],
    policy: CalibrationPolicy,
) -> CalibratedBody[Recipe]:
    """Return the body with some matrix products of its large attention in int8: those that save enough time for the
    quality that they lose.

    recorded_run: a float32 run on which the ranges of the products' inputs are measured.
    judge: returns the body made from a recipe, with the quality of its samples.
    """
    prepared = body.recipe.prepared
    attention = find_large_attention(prepared)
    if not attention:
        return body
    largest = measure_largest(prepared, attention, recorded_run)
    work = count_operation_macs(prepared)
    products = {SCORES: [product.scores for product in attention], MIXES: [product.mixed for product in attention]}
    best, chosen = body, tuple[str, ...]()
    for name, outputs in products.items():
        selected = Int8Products((*chosen, *outputs), largest)
        note = f"{len(selected.products)} products of attention in int8"
        tried = judge(body.recipe.rewrite_graphs(partial(quantize_products, chosen=selected), note))
        share = policy.float_slowdown * sum(work[output] for output in outputs) / sum(work.values())
        loss = best.trial.psnr - tried.trial.psnr
        is_chosen = _is_usable(tried) and loss < policy.price * share
        LOG.info(
            "%s: %s of attention %s (%.2f dB; float adds %.1f %% of a step)",
            *(body.recipe.target.name, name, "int8" if is_chosen else "float", -loss, 100 * share),
        )
        if is_chosen:
            best, chosen = tried, (*chosen, *outputs)
    return best


def _is_usable(body: CalibratedBody[Recipe]) -> bool:
    """Return whether a body has the minimum quality, and preserves the guidance difference."""
    trial = body.trial
    is_kept = trial.guidance is None or not is_lost(trial.guidance)
    return is_kept and Nearness(trial.psnr, trial.snr, trial.unrelated).is_enough


def measure_largest(
    prepared: Graph, attention: Sequence[LargeAttention], recorded_run: RecordedRun
) -> Mapping[str, float]:
    """Return the largest magnitude of each input of the attention's matrix products over the steps of a recorded run,
    by tensor name.

    Probabilities are computed again from queries and keys, for one head at a time: a network that returned the
    probabilities would hold those of all layers in memory.
    """
    fed = tuple(dict.fromkeys(name for product in attention for name in (product.query, product.key, product.value)))
    fixed = {name: prepared.constants[name] for name in fed if name in prepared.constants}  # such as learned queries
    network = open_observed(prepared, [name for name in fed if name not in fixed])
    largest = dict.fromkeys((name for product in attention for name in product.operands), 0.0)
    for feeds in chain.from_iterable(map(recorded_run.body_feeds, recorded_run.float_states)):
        seen = {**feeds, **fixed, **network(feeds)}
        reached = {name: float(np.abs(seen[name]).max()) for name in fed}
        for product in attention:
            reached[product.probabilities] = _largest_probability(
                prepared, product, seen[product.query], seen[product.key]
            )
        largest = {name: max(before, reached[name]) for name, before in largest.items()}
    return largest


def _largest_probability(
    prepared: Graph, attention: LargeAttention, query: NDArray[np.float32], key: NDArray[np.float32]
) -> float:
    """Return the largest probability of an attention for `query` [..., tokens, width] and `key` [..., width, keys].

    Heads may share keys, and samples may share constant keys: the leading axes are broadcast, as in MatMul.
    """
    float32, reduced = np.dtype(np.float32), f"largest({attention.probabilities})"
    leading = np.broadcast_shapes(query.shape[:-2], key.shape[:-2])
    alone = (1,) * len(leading)
    inputs = tuple(Value(name, float32, (*alone, "rows", "columns")) for name in (attention.query, attention.key))
    last = Node("ReduceMax", (attention.probabilities,), (reduced,), {"keepdims": 0}, reduced)
    read = {name for node in attention.nodes for name in node.inputs} - {value.name for value in inputs}
    constants = {name: prepared.constants[name] for name in read & prepared.constants.keys()}
    graph = Graph("head", inputs, (Value(reduced, float32, ()),), (*attention.nodes, last), constants)
    session = open_session(graph, optimize=True)
    operands = {
        value.name: np.broadcast_to(each, (*leading, *each.shape[-2:]))
        for value, each in zip(inputs, (query, key), strict=True)
    }
    heads = (
        {name: operand[place].reshape(*alone, *operand.shape[-2:]) for name, operand in operands.items()}
        for place in np.ndindex(leading)
    )
    return max(float(session(head)[reduced]) for head in heads)
