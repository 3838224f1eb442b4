"""Measure on this machine's GPU whether the graph rewritten for ONNX Runtime's CUDA provider (a body's form) is faster
than the portable graph.

Both run in separate processes, in turns, as in `engines.py`. Their outputs must agree. The result is stored in the
user's cache folder, where the backend reads it (`runtime/backends/onnxruntime_cuda_form.py`).
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec

from fewstep.measure.speed.contender_process import Call
from fewstep.measure.speed.duel import run_duel
from fewstep.measure.speed.timed_process import ContenderDied, TimedProcess
from fewstep.plans.errors import UserError
from fewstep.report.choosing.engines import LARGEST
from fewstep.report.choosing.form_measurement import FormMeasurement
from fewstep.runtime.backends import find_graph, graph_names
from fewstep.runtime.backends.checks import LACKS_MEMORY
from fewstep.runtime.backends.onnxruntime_cuda import PROVIDER, OnnxRuntimeCuda
from fewstep.runtime.backends.onnxruntime_cuda_form import (
    FORM_ONLY,
    FormChoice,
    find_form,
    is_preferred,
    remember_choice,
)
from fewstep.runtime.backends.openvino_agreement import random_feeds, relative_difference
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.kinds.sizes import default_sizes
from fewstep.runtime.machine.packages import this_onnxruntime

DEVICE = 0  # the GPU that `fewstep build` measures


def measure_forms(bundle: Bundle, network: str, body: str, rows: int) -> Iterator[FormMeasurement]:
    """Time each graph of a body that was rewritten for the CUDA provider against the portable graph, for calls on
    `rows` rows. Yield the results, and store which of the two is faster.

    If onnxruntime has no CUDA provider here, nothing is measured, and each result has the reason.
    """
    own, here = bundle.select_network(network), this_onnxruntime()
    has_provider = here is not None and PROVIDER in here.providers
    for name in graph_names(body, own.body(body)):
        form = find_form(own, name)
        if form is None:
            continue
        if here is None or not has_provider:
            reason = f"onnxruntime has no {PROVIDER} here"
            precision = own.body(body).precision
            by_rule = is_preferred(form, precision)
            yield FormMeasurement(name, precision, rows, reason=reason, is_preferred=by_rule)
            continue
        if own.body(body).precision == FORM_ONLY:
            yield FormMeasurement(name, FORM_ONLY, rows, reason="the provider does not open the portable graph")
            continue
        found = _measure(bundle.path, network, name, own.body(body).precision, rows)
        found = msgspec.structs.replace(found, is_preferred=is_preferred(form, found.precision))
        if found.choice is not None:
            remember_choice(form, here.version, DEVICE, found.choice)
        yield found


def _measure(path: Path, network: str, name: str, precision: str, rows: int) -> FormMeasurement:
    """Time the graph rewritten for the CUDA provider against the portable graph.

    If the provider rejects the rewritten graph, it is stored that it must never be run. After a failure that may be
    temporary, such as a lack of memory, nothing is stored.
    """
    with ExitStack() as stack:
        processes = []
        try:
            for is_form in (False, True):
                opener = partial(open_calls, path, network, name, is_form, rows)
                label = f"{name}, {'form' if is_form else 'portable graph'}"
                processes.append(stack.enter_context(TimedProcess(label, opener)))
            portable, form = processes
            expected, outputs = portable.run_call(), form.run_call()
            difference = relative_difference(expected, outputs)
            if difference > LARGEST[precision]:
                reason = f"the form's outputs differ by {difference:.2g} of the largest output"
                return FormMeasurement(name, precision, rows, FormChoice(1.0, agrees=False), reason)
            ratio = run_duel(portable.median_milliseconds, form.median_milliseconds).ratio
        except UserError as error:
            is_of_form = len(processes) == 1 or (len(processes) == 2 and processes[1].has_failed)
            may_pass = isinstance(error, ContenderDied) or LACKS_MEMORY.search(error.what) is not None
            choice = FormChoice(1.0, agrees=False) if is_of_form and not may_pass else None
            return FormMeasurement(name, precision, rows, choice, error.what)
    return FormMeasurement(name, precision, rows, FormChoice(ratio))


def open_calls(path: Path, network: str, name: str, is_form: bool, rows: int) -> Mapping[str, Call]:
    """Load a graph, or the graph rewritten from it for the CUDA provider, and return a function that runs it on random
    inputs. It is called in a separate process."""
    bundle = open_bundle(path).select_network(network)
    backend = OnnxRuntimeCuda(DEVICE, form=False)
    loaded = backend.load_form(bundle, name) if is_form else backend.load(bundle, name)
    sizes = {"batch": rows, **default_sizes(bundle.manifest.x_shape, bundle.manifest.sizes)}
    feeds = random_feeds(find_graph(bundle, name), sizes, 0)
    return {"": lambda: loaded(feeds)}
