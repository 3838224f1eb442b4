"""What solvers of the probability-flow ODE share: its first-order step, and the phi functions of higher orders."""

from math import exp, expm1, factorial

from fewstep.runtime.lin import Lin
from fewstep.runtime.schedule import Time


def first_order(x: Lin, x0: Lin, s: Time, t: Time) -> Lin:
    """From s to t with x0 held: DDIM, DPM-Solver-1 and Euler in sigma / alpha alike.

    Finite from pure noise and to the clean end, where x is the predicted x0.
    """
    return t.sigma / s.sigma * x - t.alpha * expm1(s.lam - t.lam) * x0


def predicted_noise(x: Lin, x0: Lin, s: Time) -> Lin:
    """eps = (x - alpha x0) / sigma."""
    return (x - s.alpha * x0) / s.sigma


def phi(k: int, z: float) -> float:
    """phi_k(z) = (phi_{k-1}(z) - 1 / (k-1)!) / z with phi_0 = exp (Hochbruck & Ostermann 2010), k >= 1.

    Where z is small that recurrence cancels, and the Taylor series, sum_j z^j / (j + k)!, takes its place.
    """
    if abs(z) < 1:
        return sum(z**j / factorial(j + k) for j in range(20))
    value = exp(z)
    for j in range(k):
        value = (value - 1 / factorial(j)) / z
    return value
