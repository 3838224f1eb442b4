"""Parse the text of a guidance: a weight, the name of a class of `guidance.py` with its numbers, or user-supplied
code."""

from fewstep.plans.errors import UserError
from fewstep.plans.guidance import CFG_PLUS_PLUS, PAG, STEER, Cfg, CfgPlusPlus, Guidance, Pag, Steer, as_guidance
from fewstep.plans.names.plugins import find_plugin
from fewstep.plans.names.user_call import resolve_call
from fewstep.plans.names.user_code import split_code


def from_text(text: str) -> float | Guidance:
    """Parse the guidance of a command line: "2", "pag:3", "steer:1", or several of them joined by "+" in this order.
    "cfg++:0.6" cannot be joined. "4,3" and "steer:4,3" have a weight for each evaluation; the last weight applies to
    all further evaluations.

    User-supplied guidance is a function of numbers, "my_forms.py:towards:2,0.5", or the name of a plugin
    `guidance.NAME`. Raises UserError for any other text.
    """
    if (form := _user_form(text)) is not None:
        return form
    for prefix in (PAG, STEER):
        if prefix in text:
            find_plugin("guidance", prefix.removesuffix(":"), is_core=True)  # refuses a plugin of that name
    if text.startswith(CFG_PLUS_PLUS):
        return _cfg_plus_plus(text)
    parts = text.split("+")
    try:
        steer = _parse_weight(parts.pop().removeprefix(STEER)) if parts[-1].startswith(STEER) else None
        scale = float(parts.pop().removeprefix(PAG)) if parts and parts[-1].startswith(PAG) else None
        weight = _parse_weight(parts.pop()) if parts or steer is scale is None else 1.0
        if parts:
            raise ValueError(text)
    except ValueError:
        forms = f"{PAG}3 for perturbed attention, {STEER}1 for a gradient, 2+{PAG}3 for both, or {CFG_PLUS_PLUS}0.6"
        fix = f"give a weight as 2, {forms}, or 4,3 for a weight for each evaluation"
        raise UserError(f"guidance {text!r} is not a number", fix) from None
    besides: Cfg | Pag | None = None if weight == 1 else Cfg(weight)
    if scale is not None:
        if isinstance(weight, tuple):
            raise UserError(f"guidance {text!r} has several weights with {PAG}", f"give one weight, as 2+{PAG}3")
        besides = Pag(scale, weight)
    if steer is not None:
        return Steer(steer, guidance=besides)
    if isinstance(weight, tuple):
        return Cfg(weight)
    return besides if isinstance(besides, Pag) else weight


def _parse_weight(text: str) -> float | tuple[float, ...]:
    """Parse a guidance weight, or a comma-separated list with one weight per evaluation. Raises ValueError for any
    other text."""
    numbers = tuple(float(number) for number in text.split(","))
    return numbers if len(numbers) > 1 else numbers[0]


def _cfg_plus_plus(text: str) -> CfgPlusPlus:
    """Parse "cfg++:WEIGHT". Raises UserError if WEIGHT is not a number, or is out of range."""
    try:
        weight = float(text.removeprefix(CFG_PLUS_PLUS))
    except ValueError:
        fix = f"write it as {CFG_PLUS_PLUS}0.6, without other guidance after it"
        raise UserError(f"guidance {text!r} is not a number", fix) from None
    form = CfgPlusPlus(weight)
    as_guidance(form)  # refuses a weight without meaning
    return form


def _user_form(text: str) -> Guidance | None:
    """Return the guidance that user-supplied code or a plugin makes from the numbers after its name. None if the text
    names neither."""
    name = text.partition(":")[0]
    is_core = f"{name}:" in (PAG, STEER)
    is_plugin = name.isidentifier() and not is_core and find_plugin("guidance", name) is not None
    if split_code(text) is None and not is_plugin:
        return None
    call = resolve_call("guidance", text, 0)
    try:
        values = [float(number) for number in call.arguments]
    except ValueError:
        what = f"guidance {text!r} has arguments that are not numbers"
        raise UserError(what, f"write it as {call.text.rpartition(':')[0]}:2,0.5") from None
    made = call.function(*values)
    if not isinstance(made, Guidance):
        fix = "return a form of fewstep.plans.guidance"
        raise UserError(f"guidance {call.text} returned {type(made).__name__}", fix)
    return as_guidance(made)
