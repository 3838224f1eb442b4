"""The measurements on a lent GPU: for each item its command, and the files that the command reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ORT = "onnxruntime-gpu==1.31.1"
CUDNN = "nvidia-cudnn-frontend==1.32.0"
DIFFUSERS = "diffusers==0.42.1"  # of sd15_block
# Packages of the machine: torch for CUDA, onnx, onnxruntime, onnxscript, safetensors, typer, rich, Pillow and pytest.
BASE = ("msgspec",)
DENOISERS = ("fashion_mnist", "dit_flow", "policy_unet1d", "cifar10", "text_unet_flow", "convnext_v_cosine")
OTHER_DENOISERS = ("sd15_block", "unet_edm_cifar", "residual_outliers", "score_wide")
PROGRAMS = ("fashion_mnist", "dit_flow", "policy_unet1d", "cifar10")
OTHER_PROGRAMS = (
    *("sd15_block", "text_unet_flow", "unet_edm_cifar", "convnext_v_cosine", "score_wide", "residual_outliers"),
)
RECIPE = "cifar10_unet"

Make = Callable[[Path, Path, Path | None], None]  # work folder, output folder, the folder of --data


@dataclass(frozen=True)
class Item:
    """A command for the machine, and what it needs besides the text of the tree.

    command, rehearsal: of bash, with the variables PYTHON, FILES (the folder of `make`), WORK (kept between commands)
    and OUT (the results). A rehearsal is short, and runs on a CPU.
    wheels: packages that the machine lacks. weights: denoisers whose weights are sent.
    make: writes files into a folder. page: the command that publishes the results, on any machine.
    """

    command: str
    rehearsal: str
    page: str
    wheels: Sequence[str] = BASE
    weights: Sequence[str] = ()
    make: Make | None = None


def _prepare_programs(names: Sequence[str]) -> Make:
    """Return a function that writes the fused graphs and the CPU's samples of `benchmarks.nvidia.cudnn run`."""

    def make(work: Path, output: Path, data: Path | None) -> None:
        from benchmarks.nvidia.cudnn.prepare import prepare

        for name in names:
            prepare(name, work, output / "programs")

    return make


def _pack_images(work: Path, output: Path, data: Path | None) -> None:
    """Write CIFAR-10's training images in two files. data: the folder of the npm package."""
    from fewstep.models.cifar10.data import read
    from zoo.packed_images import PARTS, write_parts

    write_parts(*read(data), output / "images", "train", PARTS)


def _models(names: Sequence[str]) -> str:
    return " ".join(f"--model {name}" for name in names)


MEASURE = '$PYTHON -m benchmarks.gpu --part denoisers --output "$OUT" --work "$WORK/bundles"'
# A test file that imports a package which the machine lacks does not keep the others from running.
OPTIONS = '-p no:cacheprovider -v -o addopts="" --continue-on-collection-errors'
TEST = f"$PYTHON -m pytest {OPTIONS} tests/runtime tests/benchmarks/gpu"
FORMS = """end=$((SECONDS + TOTAL))
run_fewstep() {
    local left=$((end - SECONDS))
    if [ $left -le 0 ]; then echo "no time is left for fewstep $*" >&2; return 1; fi
    timeout -k 5 $((left < EACH ? left : EACH)) $PYTHON -m fewstep.cli "$@" && return
    echo "exit status $? of fewstep $* (124: it took longer than its limit)" >&2
    return 1
}
build_forms() {
    local name bundle precision failed=
    for name in fashion_mnist zoo/dit_flow.py:make; do
        bundle="$WORK/forms/$(basename "$name" .py:make)"
        [ -f "$bundle/manifest.json" ] || run_fewstep export $name -o "$bundle" >&2 || { failed=1; continue; }
        for precision in float16 bfloat16 float32; do
            run_fewstep build "$bundle" --backend onnxruntime-cuda --json --precision $precision || failed=1
        done
    done
    [ -z "$failed" ]
}
build_forms 2>&1 >> "$OUT/forms.txt" | tee -a "$OUT/forms_messages.txt" ||
    { echo "not every form was built: forms_messages.txt says why"; exit 1; }"""
RACE = '$PYTHON -m benchmarks.nvidia.cudnn run --programs "$FILES/programs" --output "$OUT"'
GPU_PAGE = "python -m benchmarks.gpu --page lab/measured/gpu.jsonl RESULTS/results.jsonl"
CUDNN_PAGE = "python -m benchmarks.nvidia.cudnn page lab/measured/cudnn.jsonl RESULTS/results.jsonl"
TRAIN = f'$PYTHON -m lab.train zoo/{RECIPE} --data "$FILES/images" --work "$WORK/training"'
COLLECT = f"""cp "$WORK/training/loss.csv" "$OUT"
split -b 15m "$WORK/training/{RECIPE}.safetensors" "$OUT/{RECIPE}.safetensors."  # files that come back are small"""


def build_forms(each: int, total: int) -> str:
    """Return commands that build the forms of two denoisers in three precisions, and fail at the end if one of them
    fails. A build that fails or hangs keeps no other from running. each, total: limits in seconds of one command of
    fewstep and of all."""
    return FORMS.replace("EACH", str(each)).replace("TOTAL", str(total))


def _measure(denoisers: tuple[str, ...], rehearsed: str, wheels: tuple[str, ...]) -> Item:
    """Return the item that times denoisers. `rehearsed` is the one that a rehearsal on a CPU times."""
    return Item(
        command=f"{MEASURE} --minutes 7.5 {_models(denoisers)}",
        rehearsal=f"{MEASURE} --minutes 6 --rehearse --model {rehearsed}",
        page=GPU_PAGE,
        wheels=wheels,
        weights=denoisers,
    )


def _race(programs: tuple[str, ...], rehearsed: str) -> Item:
    """Return the item that runs whole steps by cuDNN. `rehearsed` is the program that a rehearsal on a CPU runs."""
    return Item(
        command=f"{RACE} --minutes 7.5 {_models(programs)}",
        rehearsal=f"{RACE} --minutes 2 --rehearse --model {rehearsed} --batch 2 --workers 1",
        page=CUDNN_PAGE,
        wheels=(*BASE, CUDNN),
        make=_prepare_programs(programs),
    )


SLOW_BUILDS = build_forms(180, 480)  # of a rehearsal, whose machine may have few cores
ITEMS = {
    "denoisers": _measure(DENOISERS, rehearsed="dit_flow", wheels=(*BASE, ORT)),
    "denoisers-others": _measure(OTHER_DENOISERS, rehearsed="residual_outliers", wheels=(*BASE, ORT, DIFFUSERS)),
    "tests": Item(
        command=f'timeout 300 {TEST} -m gpu 2>&1 | tee "$OUT/tests.txt" || true\n{build_forms(60, 180)}',
        rehearsal=f'{TEST} -m "not gpu" -k "lru or whole_run_on" 2>&1 | tee "$OUT/tests.txt" || true\n{SLOW_BUILDS}',
        page="none: say in lab/verified.md what ran, and correct the rule if a line of forms.txt differs",
        wheels=(*BASE, ORT),
        weights=("fashion_mnist", "dit_flow"),
    ),
    "cudnn": _race(PROGRAMS, rehearsed="dit_flow"),
    "cudnn-others": _race(OTHER_PROGRAMS, rehearsed="score_wide"),
    "training": Item(
        command=f"{TRAIN} --device cuda --minutes 7\n{COLLECT}",
        rehearsal=f"{TRAIN} --minutes 0.2\n{COLLECT}",
        page=f"cat RESULTS/{RECIPE}.safetensors.* > WORK/{RECIPE}.safetensors, then "
        f"python -m lab.model_card zoo/{RECIPE} --work WORK --data package",
        make=_pack_images,
    ),
}
