"""A torch module as the reference with which its graphs are compared."""

import inspect
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fewstep.export.error_text import error_location, module_name
from fewstep.export.spec import Spec
from fewstep.export.tracing.export_errors import describe_changed_buffers, describe_random_operation
from fewstep.export.tracing.kept_values import refuse_kept_values
from fewstep.export.tracing.torch_functions import quote_keywords
from fewstep.export.tracing.weights.stored_halves import to_float32
from fewstep.export.verification.points import feeds_of_other_values
from fewstep.graph.graph import Array
from fewstep.plans.errors import STOPS, UserError, first_line

TORCH_NAMES = {"bfloat16": r"BFloat16", "float16": r"\bHalf\b", "float64": r"\b[Dd]ouble\b"}  # in torch's messages
TOLERANCE = 1e-4  # share of the largest value: the error of a few hundred float32 operations is below 1e-5
OTHERWISE = "write that operation differently"
OF_SIZES = (
    f"{OTHERWISE}; the graph stores a number such as math.sqrt(H * W) as a constant, and torch.ones(H, W).sum().sqrt() "
    "follows free sizes"
)


@dataclass(frozen=True)
class TorchReference:
    """A module, and the program captured from it, whose FX nodes have the names of the graph's tensors."""

    module: torch.nn.Module
    spec: Spec
    program: torch.export.ExportedProgram
    engine: str = "torch"
    tolerance: float = TOLERANCE
    fix: str = OTHERWISE

    @property
    def name(self) -> str:
        return module_name(self.module)

    def output(self, feeds: Mapping[str, Array], where: str = "") -> Array:
        return run_module(self.module, self.spec, feeds, where)

    def other_outputs(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if not self.spec.other_outputs:
            return {}
        _, *returned = call_module(self.module, self.spec, _to_tensors(feeds))
        return {name: tensor.detach().numpy() for name, tensor in zip(self.spec.other_outputs, returned, strict=True)}

    def random_operation(self) -> str:
        return describe_random_operation(self.module, self.program) or describe_changed_buffers(self.program)

    def tensor_names(self) -> tuple[str, ...]:
        """Return the FX node names, in the order of computation."""
        return tuple(
            node.name
            for node in self.program.graph.nodes
            if node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor)
        )

    def inner_tensors(self, feeds: Mapping[str, Array], names: Collection[str]) -> dict[str, Array]:
        """Run the captured program and return the values of the FX nodes in `names`. Other values are freed once no
        later node reads them.

        Complex tensors are pairs of real numbers, as in the graph.
        """
        wanted, values = set(names), dict[str, Array]()

        class Recorder(torch.fx.Interpreter):
            def run_node(self, n: torch.fx.Node) -> Any:
                result = super().run_node(n)
                if n.name in wanted and isinstance(result, torch.Tensor):
                    values[n.name] = (torch.view_as_real(result) if result.is_complex() else result).numpy()
                return result

        with torch.no_grad(), quote_keywords():
            # without guards: a program that is valid at some sizes only is run at others to find the operation
            Recorder(self.program.module(check_guards=False)).run(*_to_tensors(feeds))
        return values


def _to_tensors(feeds: Mapping[str, Array]) -> tuple[torch.Tensor, ...]:
    """Convert feeds to tensors. They must be in the order of the module's arguments."""
    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in feeds.values())


def prepare_module(module: torch.nn.Module) -> None:
    """Put a module in evaluation mode, on the CPU, in float32. (A `train` of the user's may return nothing.)"""
    module.eval()
    to_float32(module)


def first_call(module: torch.nn.Module, spec: Spec, inputs: tuple[torch.Tensor, ...]) -> Any:
    """Call the module for the first time. Raises UserError if it keeps values of this call that change later ones."""

    def call_with_others() -> Any:
        return call_module(module, spec, _to_tensors(feeds_of_other_values(spec, len(inputs[0]))))

    return refuse_kept_values(module, lambda: call_module(module, spec, inputs), call_with_others)


def run_module(module: torch.nn.Module, spec: Spec, feeds: Mapping[str, Array], where: str = "") -> Array:
    """Return the prediction of a module for feeds in the order of its arguments."""
    output: Array = select_prediction(spec, call_module(module, spec, _to_tensors(feeds), where)).detach().numpy()
    return output


def call_module(module: torch.nn.Module, spec: Spec, inputs: tuple[torch.Tensor, ...], where: str = "") -> Any:
    """Call the module. A failure here is the module's, not the export's; `where` describes the inputs in the
    message."""
    try:
        with torch.no_grad():
            return module(*inputs)
    except (UserError, *STOPS):  # already complete
        raise
    except BaseException as error:
        if isinstance(error, RuntimeError) and (dtype := _other_dtype(str(error))) is not None:
            what = f"{module_name(module)} casts to {dtype}, but export converts its weights to float32"
            raise UserError(
                f"{what}{error_location(error)}", "build it in float32 (use_fp16=False, dtype=torch.float32)"
            ) from error
        what = f"{module_name(module)} failed{where}: {first_line(error)}{error_location(error)}"
        ids = spec.space.ranges
        values = f"{ids[0]} and each condition" if ids else "every value"
        fix = _spec_fault(module, spec, first_line(error))
        raise UserError(what, fix or f"let {forward_signature(spec)} take {values} that its spec allows") from error


def _other_dtype(text: str) -> str | None:
    """Return the dtype that conflicts with float32 in a torch message, such as "float16"; None for other messages.

    A module that casts to a fixed dtype fails so, since export converts its weights to float32.
    """
    if "type" not in text or re.search(r"[Ff]loat\b|FloatTensor", text) is None:
        return None
    return next((dtype for dtype, name in TORCH_NAMES.items() if re.search(name, text)), None)


def _spec_fault(module: torch.nn.Module, spec: Spec, text: str) -> str | None:
    """Return the fix for a Spec that contradicts its module, as far as it follows from the text of torch's error. None
    if the Spec may be right."""
    signature = inspect.signature(module.forward)
    takes, given = signature.parameters, forward_signature(spec)[8:-1]
    agree = _takes_positional(signature, given.count(",") + 1)  # then the error is of a call inside forward
    if not agree and (missing := re.search(r"missing \d+ required positional arguments?: (.+)", text)) is not None:
        names = [name for name in re.findall(r"'(\w+)'", missing[1]) if name in takes]
        added = ", ".join(f"Condition({name!r}, input={name!r})" for name in names)
        return f"add to the conditions of the Spec: {added}" if names else None
    keywords = [
        name
        for name, parameter in takes.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name in given.split(", ")
    ]
    if not agree and keywords:
        return f"let forward take {keywords[0]} by its position: without * before it"
    if not agree and re.search(r"positional arguments? but \d+ (?:was|were) given", text):
        return f"forward takes {', '.join(takes)}, but the Spec gives {given}: make both agree"
    if re.search(r"to have \d+ channels|[Ss]izes? of tensor|shapes? cannot be multiplied|shape '.*' is invalid", text):
        return f"give the Spec the x_shape of the module's training data: it has {list(spec.x_shape)}"
    if re.search(r"^index out of range in self|index \S+ is out of bounds", text) and (
        counted := _describe_integer_ranges(spec)
    ):
        return f"give the Spec the values that the module was trained on: it allows {', '.join(counted)}"
    return None


def _takes_positional(signature: inspect.Signature, count: int) -> bool:
    """Return whether a function of this signature can be called with `count` positional arguments."""
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _describe_integer_ranges(spec: Spec) -> list[str]:
    """Return the integers that a spec allows, as text."""
    own = [
        condition
        for condition in spec.conditions
        if condition.dtype.startswith(("int", "uint")) and condition.low is not None
    ]
    return [
        *spec.space.ranges,
        *(
            f"{port.name} {port.low:g} to {port.high:g}{'' if port.null is None else f', {port.null:g} for none'}"
            for port in own
        ),
    ]


def select_prediction(spec: Spec, returned: Any) -> Any:
    """Return the prediction among the outputs of a module."""
    return returned[0] if spec.other_outputs else returned


def forward_signature(spec: Spec) -> str:
    times = ("time",) if spec.to is None else ("time", "to")
    inputs = (*(condition.name for condition in spec.conditions), *(carried.name for carried in spec.carried))
    return f"forward({', '.join(('x', *times, *inputs))})"
