"""The thresholds by which calibration decides which operations stay in float, how many graphs a body has, and when to
stop.

The limits below which a body is refused are in `measure/rollouts/nearness.py`, since other commands have them too.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class CalibrationPolicy:
    """The thresholds by which a calibration decides. Times are fractions of the time of one step of the body that is
    all in int8.

    How many graphs a body has, each of which has its own weights:

    enough_psnr: mean PSNR in dB at which no more graphs are tried.
    tolerated_loss: by how many dB a body with fewer graphs may be below the best body tried. A smaller gain is not
        worth the additional weights.

    Which operations stay in float (`lab/trials.md` has what this rule gained):

    price: the dB that operations must gain to stay in float, if they add the time of a whole step: 0.5 dB for each 1 %.
    nearly_free: the maximum time that float operations may add if the user sets no bound.
    furthest: the maximum time that float operations may add to reach the minimum quality. Beyond, int8 gains little.
    byte_price: as price, for the bytes of finer weights where only weights are quantized: 0.25 dB for each 1 %.
    nearly_free_bytes: the maximum share of bytes that they may add.
    most_graph_loss: the dB that the graphs of a body besides its steps may cost together. Errors that they add to those
        of `enough_psnr` may cost as much, if no form costs less.
    margin: dB above the minimum quality that an estimate must have, since the judged quality differs from the estimate.

    Estimated times of float, since nothing is timed:

    float_slowdown: the additional time of all multiply-accumulates in float.
    least_time: the time that each operation takes for the conversions around it. thin_share, thin_products, thin_time:
        limits of thin operations, in which int8 saves no time: at most this fraction of all multiply-accumulates, and
        at most this number of products for each value. In float, such an operation adds only `thin_time`. Without the
        limit of the share, a network with 22 % of its work in such operations took 1.17 times as long.

    When to stop:

    most_error_runs: maximum number of runs, of two samples each, that measure the errors of operations. (Counting
        follows 64 trajectories.)
    fewest_error_runs: the minimum for a large network, where these runs take most of the time.
    remainder: a fraction of a group's error. If the first half of the group has less than this, the rest is attributed
        to the other half, which saves its run.
    timing_rounds: turns in which two graphs are timed against each other for a bound.
    time_tolerance: relative tolerance of a time that just meets a bound, for rounding errors.
    """

    enough_psnr: float = 44.0
    tolerated_loss: float = 0.5
    price: float = 50.0
    nearly_free: float = 0.08
    furthest: float = 0.5
    margin: float = 2.0
    most_graph_loss: float = 1.5
    byte_price: float = 25.0
    nearly_free_bytes: float = 0.15
    float_slowdown: float = 1.3
    least_time: float = 2e-3
    thin_share: float = 0.01
    thin_products: int = 64
    thin_time: float = 2e-4
    most_error_runs: int = 40
    fewest_error_runs: int = 4
    remainder: float = 0.5
    timing_rounds: int = 15
    time_tolerance: float = 1e-9


POLICY = CalibrationPolicy()
