"""The page's section on a policy's actions: how far each joint is from float32, in the robot's units."""

from collections.abc import Sequence

import numpy as np

from fewstep.measure.results import JointError, Quality, Results
from fewstep.report.elements import Html, count, data, join, paragraph, percent, section, table
from fewstep.report.glossary import lead_paragraph
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.kinds.policies import actions_to_execute
from fewstep.runtime.sampling.execute import Array

HEAD = ("joint", "RMS error", "99th percentile", "largest", "RMS, of its spread")
LEVELS = ("joint", "levels", "actions on another level")


def joint_errors(manifest: Manifest, samples: Array, reference: Array) -> tuple[JointError, ...]:
    """Return the errors of int8's actions against float32's for each joint.

    samples, reference: [seeds, horizon, joints] in model range. Returns an empty tuple for a bundle without a policy of
    joints.
    """
    policy = manifest.policy
    if policy is None or len(manifest.x_shape) != 2:
        return ()
    ours, exact = (actions_to_execute(manifest, actions) for actions in (samples, reference))
    levels = {place: np.asarray(values) for place, values in policy.discrete.items()}
    error, moved = np.abs(ours - exact), policy.snap_discrete(ours) != policy.snap_discrete(exact)
    return tuple(
        JointError(
            place,
            rms=float(np.sqrt(np.mean(error[..., place] ** 2))),
            p99=float(np.percentile(error[..., place], 99)),
            largest=float(error[..., place].max()),
            spread=float(exact[..., place].std()),
            levels=len(levels[place]) if place in levels else 0,
            moved=float(moved[..., place].mean()) if place in levels else 0.0,
        )
        for place in range(ours.shape[2])
    )


def joints_section(results: Results) -> Html | None:
    """Return the section with the errors of a policy's actions: a table for each body, and a separate one for joints
    that take discrete levels, such as grippers. None if samples are not actions."""
    parts = [part for quality in results.qualities if quality.joints for part in _body(quality)]
    if not parts:
        return None
    lead = lead_paragraph(
        "Errors of the executed actions: int8 against float32 from the same noise and observations, in the robot's "
        "units. The spread is the standard deviation of float32's actions. For a joint with discrete levels, such as a "
        "gripper, the table counts the actions that change their level."
    )
    return section("Actions", lead, *parts)


def _body(quality: Quality) -> list[Html]:
    moving = [joint for joint in quality.joints if not joint.levels]
    stepped = [joint for joint in quality.joints if joint.levels]
    parts = []
    if moving:
        worst = max(moving, key=lambda each: each.share)
        title = join([Html("<b>"), quality.body, Html("</b>: the worst joint is "), count(worst.place)])
        parts += [paragraph(title), table(HEAD, _rows(moving))]
    if stepped:
        rows = [(count(joint.place), count(joint.levels), percent(joint.moved)) for joint in stepped]
        parts += [paragraph(join([Html("<b>"), quality.body, Html("</b>: joints with levels")])), table(LEVELS, rows)]
    return parts


def _rows(joints: Sequence[JointError]) -> list[Sequence[Html]]:
    return [
        (count(joint.place), *map(_format_figure, (joint.rms, joint.p99, joint.largest)), percent(joint.share))
        for joint in joints
    ]


def _format_figure(value: float) -> Html:
    """Format a number with three significant digits, because units may be meters or degrees."""
    return data(value, f"{value:.3g}")
