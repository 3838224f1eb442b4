"""AdaRound (Nagel, Amjad, van Baalen, Louizos, Blankevoort 2020, arXiv 2004.10568): down or up, learned layer by layer.

The data term is tr((Q - W) H (Q - W)^T), so its gradient 2 (Q - W) H needs H alone, neither samples nor a network.
"""

import numpy as np
from numpy.typing import NDArray

ITERATIONS = 200  # the paper has 10 000 and more, on drawn samples; a gradient of H is that of all of them
WARM_UP = 0.2  # of the iterations are without the regulariser
RATE = 0.05  # of Adam
MOMENTS = (0.9, 0.999)
WEIGHT = 1.0  # of the regulariser, against a data term with a unit mean diagonal
EXPONENT = (20.0, 2.0)  # of the regulariser, from the first iteration that has it to the last
STRETCH = 1.2  # of the sigmoid, (equation 23): from -0.1 to 1.1, so that 0 and 1 are reached

Array = NDArray[np.float64]


def adaround(rows: Array, scales: Array, hessian: Array, largest: int, iterations: int = ITERATIONS) -> Array:
    """Whole numbers [outputs, inputs] in [-largest, largest] for `rows` ~ integers * scales[:, None].

    h = clip(1.2 sigmoid(V) - 0.1, 0, 1) is how far up a weight is rounded; Adam on V, with sum(1 - |2 h - 1|^b) making
    h whole as b falls. A row that rounding to nearest serves better keeps it.
    """
    codes = np.clip(rows / scales[:, None], -largest, largest)
    moments = (hessian / np.mean(np.diag(hessian))).astype(np.float32)
    floor = np.minimum(np.floor(codes), largest - 1)
    rest = (codes - floor).astype(np.float32)
    hidden = -np.log(STRETCH / (rest + (STRETCH - 1) / 2) - 1)
    first, second = np.zeros_like(hidden), np.zeros_like(hidden)
    for iteration in range(iterations):
        gate = 1 / (1 + np.exp(-hidden))
        up = np.clip(STRETCH * gate - (STRETCH - 1) / 2, 0, 1)
        slope = np.where((up > 0) & (up < 1), STRETCH * gate * (1 - gate), 0)
        gradient = 2 * (up - rest) @ moments
        done = (iteration / iterations - WARM_UP) / (1 - WARM_UP)
        if done > 0:
            exponent = EXPONENT[1] + (EXPONENT[0] - EXPONENT[1]) * (1 + np.cos(np.pi * done)) / 2
            away = 2 * up - 1
            gradient -= WEIGHT * 2 * exponent * np.sign(away) * np.abs(away) ** (exponent - 1)
        gradient *= slope
        first += (1 - MOMENTS[0]) * (gradient - first)
        second += (1 - MOMENTS[1]) * (gradient**2 - second)
        unbiased = [m / (1 - kept ** (iteration + 1)) for m, kept in zip((first, second), MOMENTS, strict=True)]
        hidden -= RATE * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    learned, nearest = floor + (hidden > 0), np.rint(codes)
    is_better = output_error(learned - codes, hessian) < output_error(nearest - codes, hessian)
    return np.where(is_better[:, None], learned, nearest)


def output_error(error: Array, hessian: Array) -> Array:
    """Mean squared error of each output [outputs] for an error of its weights [outputs, inputs]."""
    total: Array = np.einsum("ok,ok->o", error @ hessian, error)
    return total
