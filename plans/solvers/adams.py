"""Exponential Adams weights: the integral of a polynomial through given nodes, weighted by an exponential of lambda.

`weights_of_moments(nodes, exponential_moments(len(nodes), z))` are w with sum_j w_j f(r_j) = z int_0^1 e^((1 - r) z)
f(r) dr for every polynomial f through the nodes r_j. The method is explicit if all nodes lie in the past
(Adams-Bashforth), and implicit if the end of the step is a node (Adams-Moulton).
"""

from collections.abc import Sequence
from math import factorial

import numpy as np

from fewstep.plans.solvers.exponential import phi


def exponential_moments(count: int, z: float) -> list[float]:
    """Return z int_0^1 e^((1 - r) z) r^n dr = n! z phi_{n+1}(z) for n = 0 .. count - 1."""
    return [factorial(n) * z * phi(n + 1, z) for n in range(count)]


def weights_of_moments(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """Return w with sum_j w_j r_j^n = moments[n], for as many moments as nodes.

    `nodes` are in steps, 0 at the start of the step and 1 at its end. They are distinct, and only a few.
    """
    R = np.vander(nodes, increasing=True).T
    return [float(weight) for weight in np.linalg.solve(R, moments)]
