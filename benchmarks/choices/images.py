"""What an int8 body wins without the mean error of its output, by what it is measured on, and what it is a number for.

    python benchmarks/choices/images.py MEMBER [--steps 8 ...] [--target openvino ...] [--seeds 256] [--work FOLDER]

The member of the zoo is calibrated as by default, its mean error left in. The mean error is measured on the first of
the seeds that choose in calibration and those behind them, for each channel, or for each position less its noise. The
judge are held-out seeds from 1000: mean PSNR and 5th percentile, the difference to the first line with its standard
error, and the share of the end error that is one image, beyond chance.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[1] / "quantization"))
sys.path.append(str(Path(__file__).parents[1] / "on_zoo"))

from counts import positive
from judging import constant_image
from zoo.bundles import exported
from zoo.members import BY_NAME, Member
from zoo_choices import plan_of
from zoo_tools import own_conditions

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.choosing.opened import open_lowered
from fewstep.calibration.choosing.output_error import Float, corrected, errors, mean_image
from fewstep.calibration.choosing.trials import CHOOSING, FIRST, MEASURING
from fewstep.calibration.options import CalibrateOptions
from fewstep.cli.progress import ProgressDisplay
from fewstep.graph import io
from fewstep.lowering.bodies import judged_plan
from fewstep.lowering.output_bias import channel_axis
from fewstep.lowering.targets import targets_by_name
from fewstep.plans.plan import regroup
from fewstep.rollouts.closed_loop import SELECTION_SEEDS, Course, open_course
from fewstep.rollouts.trajectories import HELD_OUT_SEEDS
from fewstep.runtime import load
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.bundle.platforms import body_name
from fewstep.runtime.execute import finish

JUDGES = 1000  # the first of the seeds that judge
AT_ONCE = 16
MEASURED = (CHOOSING, CHOOSING + MEASURING)  # seeds, as calibration has them
TARGETS = ("cpu-x86", "openvino", "tensorrt")


def samples(course: Course, network: LoadedGraph) -> tuple[Float, Float]:
    """PSNR [seeds] and end error [seeds, *x_shape]."""
    states = course.run([network] * course.groups)
    made, wanted = (finish(course.plan, each[-1:]).astype(np.float64) for each in (states, course.reference))
    return course.quality(states), made - wanted


def judged(courses: Sequence[Course], network: LoadedGraph) -> tuple[Float, Float]:
    psnr, ends = zip(*(samples(course, network) for course in courses), strict=True)
    return np.concatenate(psnr), np.concatenate(ends)


def by_channel(images: Float, axis: int) -> Float:
    """Images [groups, *x_shape] with the mean of each channel at all its positions; `axis` counts the groups."""
    inner = tuple(each for each in range(1, images.ndim) if each != axis)
    return np.broadcast_to(images.mean(axis=inner, keepdims=True), images.shape)


def lines(member: Member, steps: int, targets: Sequence[str], seeds: int, work: Path) -> Iterator[str]:
    """Markdown: of each target a line for each measurement."""
    plan, own = plan_of(member, steps, None), own_conditions(member, range(JUDGES, JUDGES + seeds))
    bundle = exported(member, work, plan, member.guidance, "mean error left in", targets)
    if not {body_name("int8", target) for target in targets} <= load(bundle).bundle.manifest.bodies.keys():
        options = CalibrateOptions(bundle, plan, tuple(targets), guidance=member.guidance, bias="none")
        if own is not None:
            options = replace(options, conditions=work / f"{member.name}.npz")
            np.savez(work / f"{member.name}.npz", **own.followed)  # type: ignore[arg-type]
        with ProgressDisplay() as progress:
            calibrate(options, progress)
    sampler = load(bundle, body="float32")
    followed, held_out = (None, None) if own is None else (own.followed, own.held_out)
    for target in targets:
        body = sampler.bundle.manifest.bodies[body_name("int8", target)]
        grouped = regroup(judged_plan(sampler, body), body.groups)

        def courses(seeds: range, rows, grouped=grouped) -> list[Course]:  # type: ignore[no-untyped-def]
            parts = [seeds[start : start + AT_ONCE] for start in range(0, len(seeds), AT_ONCE)]
            return [open_course(sampler, grouped, part, rows) for part in parts]

        graph = io.load(sampler.bundle.graph(body.graph), root=bundle)
        network, axis = open_lowered(graph, targets_by_name()[target]), channel_axis(graph)
        judges = courses(HELD_OUT_SEEDS[JUDGES : JUDGES + seeds], held_out)
        usual, ends = judged(judges, network)
        start = f"| {member.name} | {steps} | {target} |"
        yield f"{start} left in | {shown(usual)} | | {100 * constant_image(ends):.1f} % |"
        measuring = courses(SELECTION_SEEDS[FIRST:][: max(MEASURED)], followed)
        found = [errors(each, network) for each in measuring]
        together = [np.concatenate(parts) for parts in zip(*found, strict=True)]
        for count in MEASURED:
            images = mean_image(grouped.steps, [[each[:count] for each in together]], axis, len(body.groups) + 1)
            for name, numbers in (("channel", by_channel(images, axis)), ("position", images)):
                psnr, ends = judged(judges, corrected(network, graph.outputs[0].name, numbers, axis))
                won = psnr - usual
                gain = f"{won.mean():+.2f} ± {won.std(ddof=1) / len(won) ** 0.5:.2f}"
                tail = np.percentile(psnr, 5) - np.percentile(usual, 5)
                image = f"{100 * constant_image(ends):.1f} %"
                yield f"{start} each {name}, {count} seeds | {shown(psnr)} | {gain} / {tail:+.2f} | {image} |"


def shown(psnr: Float) -> str:
    return f"{psnr.mean():.1f} / {np.percentile(psnr, 5):.1f}"


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("member", choices=list(BY_NAME))
    parser.add_argument("--steps", action="append", type=positive, help="of the plan; several times for several")
    parser.add_argument("--target", action="append", choices=TARGETS, help="default: all")
    parser.add_argument("--seeds", type=positive, default=256, help="held-out seeds")
    parser.add_argument("--work", type=Path, default=Path(gettempdir()) / "fewstep-zoo", help="bundles")
    arguments = parser.parse_args(given)
    arguments.work.mkdir(parents=True, exist_ok=True)
    print(
        "| denoiser | steps | target | mean error | dB | difference | image |",
        "|---|---|---|---|---|---|---|",
        sep="\n",
    )
    for steps in arguments.steps or (8,):
        targets = arguments.target or TARGETS
        for line in lines(BY_NAME[arguments.member], steps, targets, arguments.seeds, arguments.work):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
