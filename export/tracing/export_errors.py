"""The reason why a module cannot be exported, in one line: the module, the line of its code, and what to write instead.

torch's own message is pages long, and names neither the module nor a remedy.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from fewstep.export.error_text import OTHER_OPERATIONS, MissingForm, error_location, module_name, user_code_location
from fewstep.export.tracing.complex_pairs import has_complex_input
from fewstep.export.tracing.size_guards import Guard
from fewstep.export.tracing.torch_functions import NO_AUTOGRAD
from fewstep.plans.errors import UserError, first_line

ON_VALUES = ("data-dependent", "unbacked")  # words in torch's messages about branches and loops
NO_GRADIENT = "does not support automatic differentiation for outputs with complex dtype"  # after the operation's name
NO_OVERLOAD = "Cannot find a compatible OpOverload for "  # torch's words before the name of an operation
FLEX_ATTENTION = "flex_attention"  # the name of the operation in a program
FUNCTORCH = ("TensorWrapper", "_unwrap_for_grad")  # words in torch's messages about gradients of torch.func
CONSTRAINTS = (
    "Constraints violated",
    "Cannot create Dim",
)  # words in torch's messages about code that branches on sizes
SYMBOLS = ("'SymInt'", "'SymFloat'")  # types of sizes while torch traces; numpy calls their methods
CHOOSE = "compute both ways and choose with torch.where, or fix the number of rounds"
NO_NUMPY = "compute with operations of torch"
NO_NUMPY_OF_SIZES = "compute the number where the module is made, or with torch"
NO_FLEX_ATTENTION = "use scaled_dot_product_attention with a mask, which has an ONNX equivalent"
FIXES_BATCH = " fixes the batch"  # the end of a message
ANY_BATCH = "use x.shape[0] instead of a number or len(x)"
SYMBOLIC_ATTRIBUTE = "Unsupported attribute type"  # the beginning of torch's message for a symbol in an attribute
NO_GROUPS = "multiply and sum with torch.einsum over torch.nn.functional.unfold of x: groups must be a number"
ONE_TYPE = "give numbers of one type, such as clamp(0.0, 0.5) and not clamp(0, 0.5)"
NO_ROLL = "join two slices, as torch.cat((x[..., -shift:], x[..., :-shift]), -1)"
IN_PAIRS = "compute with real and imaginary part, as docs/restoration.md does"


class NumpyError(UserError):
    """A submodule computes with numpy. `module` is its qualified name."""

    def __init__(self, what: str, fix: str, module: str = "") -> None:
        super().__init__(what, fix)
        self.module = module


class SizeBranchError(UserError):
    """The operations depend on a size. `guards` are the comparisons of sizes that decide, as far as they are known."""

    def __init__(self, what: str, fix: str, guards: Sequence[Guard] = ()) -> None:
        super().__init__(what, fix)
        self.guards = tuple(guards)


@dataclass
class CallWatch:
    """Records where in a module torch is tracing: which modules are being called, and in which module the batch size
    was first fixed to a number."""

    root: torch.nn.Module
    hooks: str = ""  # the hooks of the module and its submodules, in words
    inside: list[str] = field(default_factory=list)
    fixed_by: str | None = None
    batches: tuple[Any, ...] = ()  # symbols of the batch size, one for each tensor, once tracing has begun

    @property
    def innermost(self) -> str:
        return self.inside[-1] if self.inside else ""

    def describe_module(self, name: str) -> str:
        """Return the name of a submodule with its classes, as "blocks.1 (Attention) of Denoiser"; for "", the class of
        the denoiser."""
        if not name:
            return module_name(self.root)
        return f"{name} ({module_name(self.root.get_submodule(name))}) of {module_name(self.root)}"


@contextmanager
def watch_calls(root: torch.nn.Module) -> Iterator[CallWatch]:
    """Record the forward calls of a module and of its submodules while the block runs."""
    watch = CallWatch(root, describe_hooks(root))

    def note_fixed() -> None:
        """Note which module fixed the batch size to a number. Called before a module is entered or left: if the size is
        a number by now, the innermost module has fixed it."""
        if watch.fixed_by is None and watch.inside and any(map(_is_number, watch.batches)):
            watch.fixed_by = watch.innermost

    def enter(name: str, inputs: Sequence[Any]) -> None:
        if not watch.batches and not name:
            watch.batches = tuple(value.shape[0] for value in inputs if isinstance(value, torch.Tensor))
        note_fixed()
        watch.inside.append(name)

    def leave(name: str) -> None:
        note_fixed()
        del watch.inside[len(watch.inside) - 1 - watch.inside[::-1].index(name) :]

    with _hook_calls(root, enter, leave):
        yield watch


@contextmanager
def _hook_calls(
    root: torch.nn.Module, enter: Callable[[str, Sequence[Any]], None], leave: Callable[[str], None]
) -> Iterator[None]:
    """Call `enter` with a module's name and inputs before each forward call, and `leave` with its name after it, while
    the block runs."""
    handles: list[Any] = []
    for name, module in root.named_modules():
        handles.append(module.register_forward_pre_hook(lambda _, inputs, name=name: enter(name, inputs)))
        handles.append(module.register_forward_hook(lambda *_, name=name: leave(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def describe_hooks(root: torch.nn.Module) -> str:
    """ "LayerwiseCastingHook (on blocks.1 and 3 more modules)": the hooks of torch, diffusers or accelerate that run
    before or after the forward call of a module. "" if there are none."""
    found: dict[str, list[str]] = {}
    for name, module in root.named_modules():
        own: list[Any] = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        registry = getattr(module, "_diffusers_hook", None)
        own += [] if registry is None else [*registry.hooks.values()]
        own += [each for each in [getattr(module, "_hf_hook", None)] if each is not None]
        for hook in own:
            kind = getattr(hook, "__qualname__", type(hook).__name__)
            found.setdefault(kind, []).append(name or module_name(root))
    return ", ".join(f"hook {kind} (on {_and_more(names)})" for kind, names in found.items())


def _and_more(names: Sequence[str]) -> str:
    others = len(names) - 1
    return names[0] + (f" and {others} more module{'s' * (others > 1)}" if others else "")


def explain_export_error(
    error: BaseException, watch: CallWatch, captured: torch.export.ExportedProgram | None, guards: Sequence[Guard] = ()
) -> UserError:
    """Return the UserError for an error of torch's exporter. `captured` is the captured program, or None if capturing
    failed. `guards` are the comparisons of sizes whose results change."""
    causes = _find_causes(error)
    root = causes[-1]
    if captured is not None and (flex := _find_by_name(captured, FLEX_ATTENTION)) is not None:
        who = watch.describe_module(_module_of(flex))
        return UserError(f"flex_attention in {who} has no ONNX equivalent{_code_location(flex)}", NO_FLEX_ATTENTION)
    if isinstance(error, MissingForm) and error.node is not None:
        name = f"{_operation_name(error.node)}{error.detail} in {watch.describe_module(_module_of(error.node))}"
        return UserError(f"{name} has no ONNX equivalent{_code_location(error.node)}", error.fix)
    where = next((at for cause in causes if (at := error_location(cause))), "")
    if (missing := _name_missing_form(root)) is not None:
        return _explain_missing_form(missing, watch, captured)
    if "Constraints violated" in str(error) and watch.fixed_by is not None:
        return UserError(f"{watch.describe_module(watch.fixed_by)}{FIXES_BATCH}", ANY_BATCH)
    if NO_GRADIENT in str(root) and captured is not None:  # torch writes into a complex tensor, which changes it
        with torch.no_grad():
            return _explain_missing_form(f"aten.{str(root).split()[0]}", watch, captured)
    if SYMBOLIC_ATTRIBUTE in str(root) and captured is not None:
        return _explain_symbolic_attribute(watch, captured)
    who = f"{watch.describe_module(watch.innermost)} cannot be exported"
    if isinstance(root, UserError):
        return UserError(f"{who}: {root.what}{where}", root.fix)
    of_sizes = partial(SizeBranchError, guards=guards)
    for words, what, fix, kind in (
        (FUNCTORCH, "it computes a gradient with torch.func, which ONNX does not have", NO_AUTOGRAD, UserError),
        (CONSTRAINTS, "it does other operations at some numbers of samples", ANY_BATCH, of_sizes),
        (ON_VALUES, "it branches or loops on values", CHOOSE, UserError),
    ):
        if any(word in str(root) for word in words):
            return kind(f"{who}: {what}{where}", fix)
    if NO_OVERLOAD in str(root):
        operation = str(root).partition(NO_OVERLOAD)[2].partition(" ")[0].removeprefix("aten.")
        return UserError(f"{who}: torch.export finds no form of {operation} for its arguments{where}", ONE_TYPE)
    if ".numpy()" in str(root):
        return NumpyError(f"{who}: it computes with numpy{where}", NO_NUMPY, watch.innermost)
    if isinstance(root, AttributeError) and str(root).startswith(SYMBOLS):
        return UserError(f"{who}: it computes with numpy on sizes{where}", NO_NUMPY_OF_SIZES)
    return UserError(f"{who}: {first_line(root)}{where}", f"export it without its {watch.hooks}" if watch.hooks else "")


def find_missing_form(error: BaseException, captured: torch.export.ExportedProgram) -> torch.fx.Node | None:
    """Return the node of a program whose operation ONNX cannot express, by the error of torch's exporter. None for
    another error, and if the node is unknown."""
    if isinstance(error, MissingForm):
        return error.node
    name = _name_missing_form(_find_causes(error)[-1])
    found = None if name is None else _find_origin(captured, name)
    if found is None or found.graph is captured.graph:
        return found
    return _find_source(captured, found)  # it is decomposed


def _find_causes(error: BaseException) -> list[BaseException]:
    """Return an error and its causes, the first one last."""
    causes = [error]
    while (inner := causes[-1].__cause__ or causes[-1].__context__) is not None and inner not in causes:
        causes.append(inner)  # torch's errors may be causes of each other
    return causes


def _name_missing_form(root: BaseException) -> str | None:
    """Return the name of the operation for which torch.onnx found no form."""
    text = str(root)
    return text.split("op='")[-1].split("'")[0] if "No ONNX function found" in text else None


def find_input_change(root: torch.nn.Module, inputs: Iterable[torch.Tensor]) -> str | None:
    """Call the module with these inputs. Return a description of the innermost submodule that modifies one of them in
    place, or None if none does."""
    arguments = tuple(inputs)
    versions = [argument._version for argument in arguments]
    inside: list[str] = []
    changed: list[str] = []

    def look() -> None:
        """Check whether an input has changed since the last check. If so, the module entered last has changed it."""
        if not changed and [argument._version for argument in arguments] != versions:
            changed.append(inside[-1])

    def enter(name: str, _: Sequence[Any]) -> None:
        if inside:
            look()
        inside.append(name)

    def leave(_: str) -> None:
        look()
        inside.pop()

    with _hook_calls(root, enter, leave), torch.no_grad():
        root(*arguments)
    return CallWatch(root).describe_module(changed[0]) if changed else None


def describe_random_operation(root: torch.nn.Module, program: torch.export.ExportedProgram) -> str:
    """Return a description of the operation of a program that draws random numbers, as " (aten.randn_like in blocks.1
    (Noise) of Denoiser)". "" if there is none."""
    for node in program.graph.nodes:
        tags = getattr(node.target, "tags", ())
        if torch.Tag.nondeterministic_seeded in tags and "attention" not in str(node.target):
            module = CallWatch(root).describe_module(_module_of(node))
            return f" ({_operation_name(node)} in {module}{_code_location(node)})"
    return ""


def describe_changed_buffers(program: torch.export.ExportedProgram) -> str:
    """Return a description of the buffers that a program changes, as " (it changes buffer 'steps' in each call)". "" if
    there is none."""
    buffers = program.graph_signature.inputs_to_buffers
    written = [
        buffers[node.args[0].name]
        for node in program.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
        and node.target._schema.is_mutable
        and isinstance(node.args[0], torch.fx.Node)
        and node.args[0].name in buffers
    ]
    names = [*written, *program.graph_signature.buffers_to_mutate.values()]
    return f" (it changes buffer {names[0]!r} in each call)" if names else ""


def _explain_missing_form(operation: str, watch: CallWatch, captured: torch.export.ExportedProgram | None) -> UserError:
    node = None if captured is None else _find_origin(captured, operation)
    name, line = ("", "") if node is None else (_module_of(node), _code_location(node))
    operation = operation if node is None else _operation_name(node)
    if node is not None and has_complex_input(node):
        what = f"{operation} of a complex tensor in {watch.describe_module(name)} has no ONNX equivalent{line}"
        return UserError(what, IN_PAIRS)
    return UserError(f"{operation} in {watch.describe_module(name)} has no ONNX equivalent{line}", OTHER_OPERATIONS)


def _explain_symbolic_attribute(watch: CallWatch, captured: torch.export.ExportedProgram) -> UserError:
    """Return the error for an operation whose ONNX form needs a number, such as the attribute `group` of Conv, that
    depends on the batch or on a free size. It names the first convolution with such a number of groups, or the first
    roll by such a number, if there is one."""
    convolutions = (node for node in captured.graph.nodes if str(node.target).startswith("aten.conv"))
    found = next((node for node in convolutions if isinstance(_groups(node), torch.fx.Node)), None)
    rolls = (node for node in captured.graph.nodes if str(node.target).startswith("aten.roll"))
    rolled = next(
        (node for node in rolls if any(isinstance(argument, torch.fx.Node) for argument in node.args[1])), None
    )
    shifts = (_find_by_name(captured, f"aten.fft_{name}") for name in ("fftshift", "ifftshift"))
    shift = next((node for node in shifts if node is not None and len(node.args) == 1), None)
    if found is None and rolled is None and shift is not None:
        who = f"{_operation_name(shift)} in {watch.describe_module(_module_of(shift))}"
        return UserError(f"{who} shifts the samples of a batch{_code_location(shift)}", "give it dim=(-2, -1)")
    if found is None and rolled is not None:
        who = f"{_operation_name(rolled)} in {watch.describe_module(_module_of(rolled))}"
        what = f"{who} shifts by a number that depends on the batch or on a size{_code_location(rolled)}"
        return UserError(what, NO_ROLL)
    if found is None:
        what = "it gives an operation a number that follows the batch or a size, which ONNX stores as a constant"
        return UserError(f"{watch.describe_module(watch.innermost)} cannot be exported: {what}", OTHER_OPERATIONS)
    who = f"{_operation_name(found)} in {watch.describe_module(_module_of(found))}"
    return UserError(f"{who} has as many groups as the batch{_code_location(found)}", NO_GROUPS)


def _groups(convolution: torch.fx.Node) -> Any:
    """Return the number of groups of a convolution, or the node that computes it; None if the call leaves it out."""
    names = [argument.name for argument in convolution.target._schema.arguments]  # type: ignore[union-attr]
    return dict(zip(names, convolution.args, strict=False)).get("groups", convolution.kwargs.get("groups"))


def _find_origin(program: torch.export.ExportedProgram, operation: str) -> torch.fx.Node | None:
    """Return the node of a program from which an operation that ONNX cannot express comes: the operation itself, or one
    that torch.onnx decomposes into it, as it decomposes hypot into prims.hypot. None if it is unknown."""
    for nodes in (program, program.run_decompositions()):
        if (own := _find_by_name(nodes, operation)) is not None:
            return own
    found = _find_by_name(program.run_decompositions(_onnx_decompositions()), operation)
    return None if found is None else _find_source(program, found)


def _find_source(program: torch.export.ExportedProgram, decomposed: torch.fx.Node) -> torch.fx.Node | None:
    """Return the node of a program from which a node of the decomposed program comes."""
    names = [origin.name for origin in decomposed.meta.get("from_node", ())]
    return next((node for node in program.graph.nodes if node.name in names), None)


def _onnx_decompositions() -> dict[Any, Callable[..., Any]] | None:
    """Return the decompositions that torch.onnx applies before it translates operations to ONNX. The table is private
    to torch. If it is missing, None is returned, and the error names neither module nor line."""
    try:
        from torch.onnx._internal.exporter import _decomp, _registration

        registry = _registration.ONNXRegistry.from_torchlib()
        return _decomp.create_onnx_friendly_decomposition_table(set(_decomp.get_onnx_implemented_overloads(registry)))
    except (ImportError, AttributeError):
        return None


def _find_by_name(program: torch.export.ExportedProgram, operation: str) -> torch.fx.Node | None:
    return next((node for node in program.graph.nodes if str(node.target).startswith(operation)), None)


def _operation_name(node: torch.fx.Node) -> str:
    return ".".join(str(node.target).split(".")[:2])


def _module_of(node: torch.fx.Node) -> str:
    """Return the qualified name of the module whose forward call created a node."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


def _code_location(node: torch.fx.Node) -> str:
    """Return ' (FILE:LINE)' of the code that created a node, or ""."""
    return user_code_location((node.meta.get("stack_trace") or "").splitlines())


def _is_number(size: Any) -> bool:
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is not None
