"""GPTQ (Frantar, Ashkboos, Hoefler, Alistarh 2022, arXiv 2210.17323): each column's rounding error is made good by the
columns that are not rounded yet."""

import numpy as np
from numpy.typing import NDArray

DAMPING = 0.01  # of the mean diagonal, so that what was never seen together has an inverse
BLOCK = 128  # columns between two updates of all that are left

Array = NDArray[np.float64]


def gptq(rows: Array, scales: Array, hessian: Array, largest: int) -> Array:
    """Whole numbers [outputs, inputs] in [-largest, largest] for `rows` ~ integers * scales[:, None].

    Algorithm 1, columns of the largest diagonal first. Least squares in what remains: of the columns behind column i,
    U[i, i:] / U[i, i] with U^T U the inverse of H says how they follow its error.
    """
    order = np.argsort(-np.diag(hessian), kind="stable")
    damped = hessian[np.ix_(order, order)] + DAMPING * np.mean(np.diag(hessian)) * np.eye(len(order))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, integers = rows[:, order].copy(), np.empty_like(rows)
    for start in range(0, len(order), BLOCK):
        stop = min(start + BLOCK, len(order))
        errors = np.empty((len(rows), stop - start))
        for column in range(start, stop):
            rounded = np.clip(np.rint(left[:, column] / scales), -largest, largest)
            integers[:, order[column]] = rounded
            error = (left[:, column] - rounded * scales) / upper[column, column]
            left[:, column:stop] -= np.outer(error, upper[column, column:stop])
            errors[:, column - start] = error
        left[:, stop:] -= errors @ upper[start:stop, stop:]
    return integers
