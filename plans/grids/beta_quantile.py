"""The quantile function of the beta distribution, without scipy."""

from functools import cache
from math import exp, lgamma, log, log1p

SMALL = 1e-300


@cache
def beta_quantile(p: float, a: float, b: float) -> float:
    """Return x with I_x(a, b) = p, to about 1e-14, by Newton's method on the regularised incomplete beta function. A
    Newton step that leaves the interval around x is replaced by bisection."""
    if p <= 0 or p >= 1:
        return float(p >= 1)
    log_scale = lgamma(a + b) - lgamma(a) - lgamma(b)
    low, high, x = 0.0, 1.0, 0.5
    for _ in range(200):
        over = incomplete_beta(x, a, b) - p
        low, high = (low, x) if over > 0 else (x, high)
        density = exp(log_scale + (a - 1) * log(x) + (b - 1) * log1p(-x))
        new = x - over / density
        if not low < new < high:
            new = (low + high) / 2
        if abs(new - x) <= 1e-15 * x:
            break
        x = new
    return x


def incomplete_beta(x: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function I_x(a, b) for 0 < x < 1, by its continued fraction (DLMF 8.17.22)
    in Lentz's form, for x or 1 - x, whichever converges faster."""
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(1 - x, b, a)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x)) / a
    fraction, numerator, denominator = 1.0, 1.0, 0.0
    for k in range(1000):
        m = k // 2
        if k == 0:
            d = 1.0
        elif k % 2 == 0:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        denominator = 1 / (1 + d * denominator or SMALL)
        numerator = 1 + d / numerator or SMALL
        fraction *= numerator * denominator
        if abs(numerator * denominator - 1) < 1e-16:
            break
    return front * (fraction - 1)
