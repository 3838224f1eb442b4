"""The table of a token plan's steps that `fewstep plan --show` prints."""

from rich.markup import escape
from rich.table import Table

from fewstep.cli.tables import table
from fewstep.plans.tokens.plan import TokenPlan


def token_step_table(plan: TokenPlan) -> Table:
    """Return a table with the rule by which each step reveals tokens, and the log-SNR that corresponds to its masked
    fraction."""
    rows = []
    for index, step in enumerate(plan.steps):
        shown = str(step.reveal) if step.chance is None else f"{step.chance:.4g} of each"
        more = {name: getattr(step, name) for name in ("noise", "penalty", "threshold", "bound", "again", "positions")}
        numbers = {name: value if isinstance(value, tuple) else f"{value:.4g}" for name, value in more.items() if value}
        rest = ", ".join(f"{name} {value}" for name, value in numbers.items())
        score = "" if step.chance is not None else step.score
        rows.append((str(index + 1), format_lambda(step.lam), shown, score, f"{step.temperature:g}", escape(rest)))
    headings = ("", "lambda", "reveals", "score", "temperature", "more")
    return table(headings, rows, text=("score", "more"))


def format_lambda(lam: float | None) -> str:
    """Return a lambda as text. None means pure noise."""
    return "-inf" if lam is None else f"{lam:.3f}"
