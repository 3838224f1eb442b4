"""Write plans as JSON with all their digits, and read plans of this and older schemas defensively."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fewstep.plans import guidance, shaping
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.continuation.carry_check import carry_problem
from fewstep.plans.errors import UserError
from fewstep.plans.names.user_code import split_code
from fewstep.plans.noise import DRAWS_LIMIT
from fewstep.plans.plan import SCHEMA, Plan, Row, Step, Term, row_names, tensor_problem
from fewstep.plans.tokens.plan import decode_tokens, is_token_plan

FIX = "compile it again (a plan NAME:STEPS needs no file)"
FLOAT32_LIMIT = float.fromhex("0x1.fffffep+127")  # the state is float32
OLDER = (1, 2)  # older schemas that are also read
FROM_STEP = r" from step (\d{1,9})"  # separates the parts of a tail's name; older files store the first step only there
HEADS_LIMIT = 64  # maximum number of a network's outputs; real networks have one to three
FILE_LIMIT = 64 * 2**20  # maximum bytes of a plan file; thousands of steps take a few MB


def encode(plan: AnyPlan) -> bytes:
    """Return the plan as JSON. Floats keep all their digits, so decoding returns an equal plan."""
    return msgspec.json.encode(plan)


def decode(data: bytes, source: str = "plan") -> Plan:
    """Decode a plan from JSON and check it: schema, shapes of every row, finite numbers.

    Raises UserError, in which `source` names the plan, if it is not a plan or is damaged.
    """
    try:
        raw = msgspec.json.decode(data)
        schema = raw.get("schema") if isinstance(raw, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise UserError(f"{source} has plan schema {schema}, this version reads up to {SCHEMA}", "update fewstep")
        if schema in OLDER:
            raw = (_from_schema_1(raw) if schema == 1 else raw) | {"schema": SCHEMA}
        plan = _restore_tail(msgspec.convert(_drop_linear_ag(raw), Plan))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{source} is not a plan: {error}", FIX) from None
    if plan.schema != SCHEMA:
        raise UserError(f"{source} has plan schema {plan.schema}, this version reads 1 to {SCHEMA}", FIX)
    problem = _problem(plan)
    if problem:
        raise UserError(f"{source} is damaged: {problem}", FIX)
    return plan


def decode_any(data: bytes, source: str = "plan") -> AnyPlan:
    """Decode and check a plan of continuous samples or of tokens. Raises UserError, which names the plan `source`."""
    return decode_tokens(data, source) if is_token_plan(data) else decode(data, source)


def read_plan(path: Path) -> AnyPlan:
    """Read a compiled plan from its file. Raises UserError if that is not possible."""
    fix = "give a plan as SOLVER:STEPS, or the path of a plan's JSON"
    try:
        if not path.is_file():
            raise UserError(f"there is no plan file {path}", fix)
        if path.stat().st_size > FILE_LIMIT:
            raise UserError(f"plan file {path} is larger than {FILE_LIMIT} bytes", "compile the plan again")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"plan file {path} cannot be read ({error.strerror})", fix) from error
    return decode_any(content, str(path))


def _from_schema_1(raw: dict[str, Any]) -> dict[str, Any]:
    """Convert from schema 1, which had one head, no given tensors, no shaping except the clip, and numeric guidance."""
    added: dict[str, Any] = {"to": None, "alpha": None, "sigma": None, "heads": 1, "terms": []}
    steps = []
    for old in raw["steps"]:
        step = {name: value for name, value in old.items() if name != "clip"} | added
        clip = old["clip"]
        step["shape"] = None if clip is None else clip | {"type": "clip"}
        step["shape_of"] = [] if clip is None else [old["x0"]]
        if clip is not None:
            step["x0"] = [0.0] * len(old["x0"]) + [1.0]
        steps.append(step)
    weight = raw["guidance"]
    form = None if weight is None or weight == 1 else {"type": "cfg", "weight": weight}
    return raw | {
        "guidance": form,
        "strength": None,
        "given": [],
        "start_terms": [],
        "tensors": [],
        "steps": steps,
    }


def _drop_linear_ag(raw: Any) -> Any:
    """Convert LinearAG, which earlier versions compiled, to `Branches` with its weights. Its rule is in the steps."""
    form = raw.get("guidance") if isinstance(raw, dict) else None
    if not (isinstance(form, dict) and form.get("type") == "linear-ag"):
        return raw
    return raw | {"guidance": {"type": "branches", "weights": {"cond": form["weight"], "uncond": 1 - form["weight"]}}}


def _restore_tail(plan: Plan) -> Plan:
    """Set `tail_of` and `first_step` of a tail that an older version wrote, by parsing its name. The name of a whole
    plan may contain the same words, but only a tail starts from given rows."""
    if plan.tail_of is not None or not _starts_from_rows(plan) or not (steps := re.findall(FROM_STEP, plan.name)):
        return plan
    return msgspec.structs.replace(plan, tail_of=re.sub(FROM_STEP, "", plan.name), first_step=sum(map(int, steps)))


def _starts_from_rows(plan: Plan) -> bool:
    """True if a plan starts from the rows of a state, as every tail does."""
    if len(plan.given) != plan.rows or plan.start_draws:  # before names are made for a number that may be damaged
        return False
    return plan.given == row_names(plan.rows)


def _tail_problem(plan: Plan) -> str | None:
    """Return what is wrong with the fields that describe a tail, as text, or None if nothing is."""
    if plan.tail_of is None:
        return f"its first step is {plan.first_step}, but it is not a tail" if plan.first_step else None
    if plan.first_step < 0 or not _starts_from_rows(plan):
        return f"it is the tail of {plan.tail_of!r} from step {plan.first_step}, but starts from {list(plan.given)}"
    return None


def _problem(plan: Plan) -> str | None:
    """Return what is wrong with a plan's tables, as text that follows the plan's name, or None if nothing is."""
    K = plan.rows
    if split_code(plan.name) is not None:
        return f"its name {plan.name!r} refers to code, which a file may not do"
    if not plan.steps:
        return "it has no steps"
    if wrong := _tail_problem(plan):
        return wrong
    if K < 1 or not (plan.start_draws or plan.given):
        return "it has no state, or neither draws nor given tensors to start from"
    if len(set(plan.given)) < len(plan.given) or not all(name.isprintable() and name for name in plan.given):
        return f"its given tensors are {list(plan.given)}"
    for draw in (*plan.start_draws, *(draw for step in plan.steps for draw in (*step.draws, *(step.enters or ())))):
        if not 0 <= draw < DRAWS_LIMIT:
            return f"draw {draw} is out of range"
    if plan.guidance is not None and (wrong := guidance.guidance_problem(plan.guidance)):
        return f"its guidance {wrong}"
    if wrong := tensor_problem(plan.tensors):
        return wrong
    if len({bank.name for bank in plan.banks}) < len(plan.banks) or any(bank.slots < 1 for bank in plan.banks):
        return f"its banks (name, slots) are {[(bank.name, bank.slots) for bank in plan.banks]}"
    for i, step in enumerate(plan.steps):
        if step.enters is not None and (plan.rolling_bank is None or len(step.enters) != len(plan.start_draws)):
            return f"steps[{i}] appends the draws {list(step.enters)}"
        if wrong := _step_problem(step, len(plan.tensors)) or _banks_problem(step, plan):
            return f"steps[{i}] {wrong}"
    for name, table, terms, height, width in _tables(plan):
        if len(table) != height or any(len(row) != width for row in table):
            return f"{name} is not {height} x {width}"
        if not all(abs(number) <= FLOAT32_LIMIT for row in table for number in row):  # nor NaN
            return f"{name} holds a number that is not finite"
        if wrong := _terms_problem(name, terms, height, width, len(plan.tensors)):
            return wrong
    read = {entry.bank for step in plan.steps for entry in step.carry_in}
    written = {entry.bank for step in plan.steps for entry in step.carry}
    rolling = {number for number, bank in enumerate(plan.banks) if bank.rolls is not None}
    if wrong := _rolls_problem(plan, len(rolling)):
        return wrong
    if len(read | written | rolling) < len(plan.banks):  # a step's row limits the slots of its bank
        return f"no step reads or writes one of the banks {[bank.name for bank in plan.banks]}"
    return carry_problem(plan)


def _step_problem(step: Step, tensors: int) -> str | None:
    if not step.branches or len(set(step.branches)) < len(step.branches):
        return f"evaluates the branches {list(step.branches)}"
    if not 1 <= step.heads <= HEADS_LIMIT:
        return f"has {step.heads} heads"
    if step.group < 0:
        return f"has group {step.group}"
    if step.shaping is not None and (wrong := shaping.shaping_problem(step.shaping)):
        return wrong
    for time in (step.time, step.to or 0):
        if not abs(time) <= FLOAT32_LIMIT:  # nor NaN
            return f"passes the network the time {time:g}, which float32 cannot represent"
    if not math.isfinite(step.lam or 0):
        return "has a time that is not finite"
    if step.log_scale and not step.draws:
        return "scales noise that it does not draw"
    if step.times is not None and not 0 <= step.times < tensors:
        return f"refers to tensor {step.times} for its times"
    return None


def _rolls_problem(plan: Plan, count: int) -> str | None:
    """Return what is wrong with the bank of a plan that keeps its state from run to run, as text, or None if nothing
    is. `count` is the number of such banks."""
    bank = plan.rolling_bank
    if bank is None or (roll := bank.rolls) is None:
        return None
    if roll.axis >= 0 or roll.by < 1 or not 1 <= roll.steps <= len(plan.steps):
        return f"bank {bank.name!r} has the roll {roll}"
    if count > 1 or bank.slots != plan.rows or not bank.is_kept or plan.given or plan.start_terms:
        return f"bank {bank.name!r} does not hold the state"
    return None


def _banks_problem(step: Step, plan: Plan) -> str | None:
    """Return what is wrong with the carried tensors that a step reads and writes, as text, or None if nothing is."""
    banks, reads = len(plan.banks), [entry.bank for entry in step.carry_in]
    writes = [(entry.bank, entry.slot) for entry in step.carry]
    if len(set(reads)) < len(reads) or not all(0 <= bank < banks for bank in reads):
        return f"feeds the banks {reads} of {banks}"
    if len(set(writes)) < len(writes) or not all(
        0 <= bank < banks and 0 <= slot < plan.banks[bank].slots for bank, slot in writes
    ):
        return f"writes (bank, slot) {writes} of {[bank.slots for bank in plan.banks]} slots"
    return None


def _tables(plan: Plan) -> Iterator[tuple[str, Sequence[Row], Sequence[Term], int, int]]:
    """Yield each table of a plan as (name, table, its tensor terms, number of lines, number of columns)."""
    K = plan.rows
    yield "start", plan.start, plan.start_terms, K, len(plan.given) + len(plan.start_draws)
    yield "output", (plan.output,), (), 1, K
    for i, step in enumerate(plan.steps):
        seen = K + len(step.branches) * step.heads
        made = seen + (step.shaping is not None)
        shaped = 0 if step.shaping is None else shaping.value_count(step.shaping)
        yield f"steps[{i}].input", (step.input,), step.input_terms, 1, K
        if step.estimate:
            yield f"steps[{i}].estimate", (step.estimate,), (), 1, K
        if step.log_scale:
            yield f"steps[{i}].log_scale", (step.log_scale,), (), 1, seen
        yield f"steps[{i}].shape_of", step.shaping_of, step.shaping_terms, shaped, seen
        yield f"steps[{i}].x0", (step.x0,), step.x0_terms, 1, made
        yield f"steps[{i}].update", step.update, step.terms, K, made + len(step.draws)
        for number, entry in enumerate(step.carry_in):
            yield f"steps[{i}].carry_in[{number}].row", (entry.row,), (), 1, plan.banks[entry.bank].slots
        for number, write in enumerate(step.carry):
            yield f"steps[{i}].carry[{number}].row", (write.row,), (), 1, plan.banks[write.bank].slots + 1


def _terms_problem(name: str, terms: Sequence[Term], rows: int, columns: int, tensors: int) -> str | None:
    for term in terms:
        exists = 0 <= term.row < rows and 0 <= term.tensor < tensors
        if not (exists and (term.column is None or 0 <= term.column < columns)):
            return f"{name} has a term for row {term.row}, column {term.column} and tensor {term.tensor}"
    return None
