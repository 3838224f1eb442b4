"""The page of cuDNN's plans and of the measurements."""

from collections.abc import Sequence

from benchmarks.gpu.page import newest
from benchmarks.gpu.results import Agreement, AnyRecord, GroupPlans, GroupTime, Machine, StepTime
from benchmarks.nvidia.cudnn.plans import DESCRIBED
from benchmarks.nvidia.cudnn.plans_page import plan_tables
from benchmarks.nvidia.cudnn.steps_page import failures, group_times, qualities, step_times

HEAD = """# int8 bodies by the kernels of cuDNN

`python -m benchmarks.nvidia.cudnn page FILE...` wrote this page from the lines of its `plans` and `run`.

An `int8-tensorrt` body is split into groups, as TensorRT-RTX makes kernels of them. A group is a convolution or a
product in int8, with a scale for each channel and a bias. A residual, an activation function and a rounding to int8
belong to it where they follow. Convolutions that the body leaves in 16 bits are groups too. One kernel computes a group
if cuDNN has a plan.

## Plans on described GPUs

No GPU was used: cuDNN lists plans for a GPU that is described to it. A plan in this list may still fail, and nothing
here says how fast it is.
"""
UNMEASURED = """## Whole calls

No GPU has run them yet. `python -m benchmarks.nvidia.cudnn run` measures them. Its CPU mode computes the same groups
in exact integers, and a test compares these with ONNX Runtime's.
"""
MEASURED = """## Whole calls

Times are microseconds of one call of a body, which is one CUDA graph, in its fastest replay. Convolutions are kernels
of cuDNN in both types, and a short trial chose the fastest plan of each. Products in int8 are torch's. Everything
else is the same in all columns, and torch compiles it. The last engine leaves convolutions to torch, too.
`residual_outliers` has bfloat16 where the others have float16.

The difference from the simulated int8 body is the mean over seeds, and pairs both samples of a seed. A difference of
less than two standard errors may be chance.

It shows that the integers of a body, in this form, give on tensor cores what the CPU simulates, and what that costs. It
does not show which kernels TensorRT chooses, or the time of an Orin.
"""
GROUPS = """## Groups

Each group alone, as one of many calls in a CUDA graph, with operands that stay in the cache if they fit. What a kernel
leaves of a group to torch is counted.
"""


def page_of(records: Sequence[AnyRecord]) -> str:
    """Return the page. The last line for an object counts."""
    plans = newest(
        records, GroupPlans, lambda each: (each.denoiser, each.gpu, each.precision, each.operation, each.epilogue)
    )
    steps = newest(records, StepTime, lambda each: (each.denoiser, each.batch, each.engine))
    groups = newest(records, GroupTime, lambda each: (each.denoiser, each.batch, each.product))
    parts = [HEAD, describe_machine(records, is_described=True), plan_tables(plans) if plans else ""]
    if steps:
        exact = newest(records, Agreement, lambda each: (each.convolution, each.form, each.plan))
        parts += [
            MEASURED,
            describe_machine(records, is_described=False),
            agreements(exact),
            step_times(steps),
            qualities(steps),
            failures(steps),
        ]
        parts += [GROUPS, group_times(groups)] if groups else []
    else:
        parts.append(UNMEASURED)
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def agreements(rows: Sequence[Agreement]) -> str:
    """How many values of the first convolution differ from the exact result, by plan."""
    lines = [
        f"- {row.convolution}, by {row.plan}: {row.different} of {row.values} numbers differ from the exact result"
        for row in rows
    ]
    return "\n".join(["One convolution in int8, with scales that are powers of two:", "", *lines]) if lines else ""


def describe_machine(records: Sequence[AnyRecord], is_described: bool) -> str:
    """The last machine whose lines are on the page, with its versions."""
    machines = [
        record for record in records if isinstance(record, Machine) and (record.gpu == DESCRIBED) == is_described
    ]
    if not machines:
        return "Not asked yet." if is_described else "The machine is unknown."
    versions = ", ".join(f"{name} {version}" for name, version in machines[-1].versions.items())
    engines = " In brackets are the engines of the plans." if is_described else ""
    return f"{machines[-1].gpu[:1].upper()}{machines[-1].gpu[1:]}: {versions}, on {machines[-1].date}.{engines}"
