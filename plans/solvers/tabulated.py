"""A solver given by its numbers: OLSS (Duan, Wang, Chen, Huang, Qian 2023, arXiv 2305.14677) and the non-stationary
solvers of Shaul, Singer, Chen, Le, Thabet, Pumarola, Lipman 2024 (arXiv 2403.01329), which fit them."""

from collections.abc import Callable, Sequence

from fewstep.plans.errors import UserError
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.exponential import predicted_noise
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer


def tabulated(rows: Sequence[Sequence[float]], on_noise: bool = False) -> Callable[[Tracer, Sequence[Time]], Lin]:
    """The solver x_{i+1} = rows[i][0] x_T + sum_j rows[i][j + 1] p_j, with the predictions p_0 .. p_i so far.

    One evaluation a step; as many rows as steps, and one where x_T is used. Every deterministic one-evaluation solver
    has this form, so a fit of these numbers starts from any (unrolled) and contains all.

    Args:
        rows: one line a step, line i of i + 2 numbers.
        on_noise: predictions are of the noise rather than of x0 (OLSS). Its numbers are large and alternate in sign,
            which costs float32 its digits where alpha is small.
    """
    if any(len(row) != i + 2 for i, row in enumerate(rows)):
        raise UserError(
            f"a solver's rows have {[len(row) for row in rows]} numbers",
            "give step i (from 0) i + 2: x_T, then p_0 .. p_i",
        )

    def solver(trace: Tracer, times: Sequence[Time]) -> Lin:
        if len(times) != len(rows) + 1:
            raise UserError(f"{len(rows)} rows for {len(times) - 1} steps", "give one row a step")
        x = noise = trace.start()
        predictions: list[Lin] = []
        for row, s in zip(rows, times):
            x, x0 = trace.denoise(x, s)
            predictions.append(trace.store(predicted_noise(x, x0, s)) if on_noise else x0)
            x = row[0] * noise
            for weight, prediction in zip(row[1:], predictions, strict=True):
                x = x + weight * prediction
        return x

    return solver
