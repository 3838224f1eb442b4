"""`fewstep run`: refusals before sampling, sizes, and samples larger than the engine's windows."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from fewstep.cli.conditions import parse_sizes
from fewstep.cli.run import pictures as drawing
from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.pictures import check_picture
from fewstep.cli.run.request import open_request
from fewstep.cli.run.sampling import run
from fewstep.cli.verbs.run import verb
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.plans.errors import UserError
from fewstep.runtime import AllSteps, load
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.memory_size import format_bytes
from fewstep.runtime.progress import SILENT
from fewstep.runtime.runs import Tiles, sample_tiles
from tests.bundles import change_bundle, with_bodies
from tests.free_size_bundle import free
from tests.refusals import Words, refuses

NO_SIZES = ("height", "height=", "=4", "height=-4", "height=4.5", "height=a")


def options_of_size(folder: Path, bundle: Path, height: int, *size: str) -> RunOptions:
    np.save(folder / "picture.npy", np.zeros((1, 2 * height, 8), np.float32))
    condition = ("class=bag", f"picture=@{folder / 'picture.npy'}")
    return RunOptions(bundle, "ddim:2", samples=2, condition=condition, size=size, output=folder / "x.npy")


def test_samples_have_the_sizes_that_were_asked_for(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = free(tiny_bundle)
    asked = options_of_size(tmp_path, bundle, 6, "height=6", "width=8")
    x = run(asked).x
    picture = np.zeros((2, 1, 12, 8), np.float32)
    sampler = load(bundle).with_options(height=6, width=8)
    expected = sampler.sample("ddim:2", [0, 1], {"class": ["bag"] * 2, "picture": picture})
    assert np.array_equal(x, expected) and np.array_equal(np.load(asked.output), expected)


def test_a_condition_of_another_shape_is_no_start(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = free(tiny_bundle)
    label, picture = open_bundle(bundle).manifest.conditions
    change_bundle(bundle, conditions=(label, msgspec.structs.replace(picture, name="image")))
    with load(bundle) as sampler, refuses(("'image'", "another shape", "[1, 8, 4]"), "given={'image'"):
        values = {"class": ["bag"], "image": np.zeros((1, 1, 8, 4), np.float32)}
        sampler.sample("ddim:2", [0], values, strength=0.5)
    with refuses(("'image'", "another shape")):
        bake(BakeOptions(bundle, "ddim:2", tmp_path / "s.onnx", strength=0.5))


def test_a_start_of_16_bits_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    picture = tmp_path / "deep.png"
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(picture)
    with refuses(("deep.png", "more than 8 bits")):
        run(RunOptions(tiny_bundle, "ddim:2", condition=("class=bag",), image=picture, strength=0.5))


def test_the_size_that_an_array_needs_is_named(tiny_bundle: Path, tmp_path: Path) -> None:
    asked = options_of_size(tmp_path, free(tiny_bundle), 6)
    with refuses("picture.npy has the shape [1, 12, 8]", "--size height=6 --size width=8"):
        verb(asked, SILENT)


def test_sizes_are_written_as_conditions_are() -> None:
    assert parse_sizes(("height=96", "width=64")) == {"height": 96, "width": 64}


@pytest.mark.parametrize(
    ("size", "tiles", "said"),
    [
        *(
            ((text,), None, "is not NAME=NUMBER; write it as --size height=96, or leave it out if x has one size")
            for text in NO_SIZES
        ),
        (("height=99999999999",), None, "size 'height=99999999999' is too large; give at most 16777216"),
        (("height=" + "9" * 5000,), None, "99' is too large; give at most 16777216"),
        (("height=8", "width=8", "height=9"), None, "size 'height' is given twice; give it once"),
        (("height=7",), None, "height 7 is not a multiple of 2; give height 2 to 12 in steps of 2"),
        (("depth=2",), None, "unknown size 'depth'; it has height 2 to 12 in steps of 2, width 4 to 8 in steps of 4"),
        (("height=10",), "4", "tiles '4' are not WINDOW:OVERLAP; write it as --tiles 256:64"),
        (("height=10",), "4:x", "tiles '4:x' are not WINDOW:OVERLAP"),
        ((), "4:2", "the size of the whole sample; give it by --size height=N --size width=N"),
        (("depth=10",), "4:2", "the whole sample (--size gives depth 10); give it by --size height=N --size width=N"),
        (
            ("height=20",),
            None,
            "height 20 is outside its range; give height 2 to 12 in steps of 2, or sample it in windows of up to 12"
            " (--size height=20 --tiles WINDOW:OVERLAP), or in pieces (docs/compose.md)",
        ),
        (("height=10",), "8:2", "windows of 8 do not fit a bundle whose height is 4; give --tiles 4:2"),
        (("height=3",), "4:2", "samples [1, 3, 4] cannot be cut into windows [1, 4, 4]"),
    ],
)
def test_a_size_that_cannot_be_is_one_line(
    tiny_bundle: Path, tmp_path: Path, size: tuple[str, ...], tiles: str | None, said: str
) -> None:
    with pytest.raises(UserError) as caught:
        run(options_of_tiles(tmp_path, tiny_bundle if tiles else free(tiny_bundle), *size, tiles=tiles))
    assert said in str(caught.value)


def test_a_condition_that_cannot_be_is_named_before_a_body_that_is_not_there(tiny_bundle: Path, tmp_path: Path) -> None:
    with_bodies(tiny_bundle, "int8-cpu-x86")
    too_large = {"output": tmp_path / "x.png", "scale": 64, "samples": 4096}
    for value, more, names, fix in (
        ("hat", {}, "'hat'", "0 shirt"),
        ("hat", too_large, "'hat'", "0 shirt"),
        ("bag", {"precision": "float32"}, ("float32", "int8-cpu-x86"), ()),
    ):
        with refuses(names, fix):
            run(RunOptions(tiny_bundle, condition=(f"class={value}",), **{"output": tmp_path / "x.npy", **more}))


def test_an_array_that_is_missing_is_asked_for_as_a_file(tiny_bundle: Path, tmp_path: Path) -> None:
    label, *_ = open_bundle(tiny_bundle).manifest.conditions
    change_bundle(tiny_bundle, conditions=(label, Condition("text", "text", (77, 16), "float32")))
    with refuses(names="'text'", fix=("[77, 16]", "--condition text=@FILE.npy")):
        run(RunOptions(tiny_bundle, condition=("class=bag",), output=tmp_path / "x.npy"))


@pytest.mark.parametrize("shape", [(2, 4, 4), (16, 3), (7,)])
def test_samples_that_are_no_pictures(shape: tuple[int, ...], tmp_path: Path) -> None:
    with refuses(names=str(list(shape)), fix="array"):
        check_picture(RunOptions(tmp_path, output=tmp_path / "x.png"), shape)


def test_a_file_that_cannot_be_written(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.cli.run.sampling.sample_request", lambda *_: pytest.fail("samples were made"))
    with refuses(names="/proc/x.npy"):
        run(RunOptions(tiny_bundle, plan="ddim:2", output=Path("/proc/x.npy")))


def options_of_tiles(folder: Path, bundle: Path, *size: str, tiles: str | None = "4:2", **more: object) -> RunOptions:
    return RunOptions(bundle, "ddim:2", samples=2, condition=("class=bag",), size=size, tiles=tiles,
                      output=folder / "x.npy", **more)  # type: ignore[arg-type]  # fmt: skip


def test_a_picture_is_larger_than_the_network_s(tiny_bundle: Path, tmp_path: Path) -> None:
    asked = options_of_tiles(tmp_path, tiny_bundle, "height=10", "width=8")
    made = run(asked)
    sampler = load(tiny_bundle)
    condition = {"class": ["bag", "bag"]}
    expected = sample_tiles(sampler, sampler.compile(made.plan), (1, 10, 8), Tiles(2), [0, 1], condition=condition)
    np.testing.assert_array_equal(made.x, expected)
    np.testing.assert_array_equal(np.load(asked.output), expected)


def test_the_peak_of_memory_is_shown(tiny_bundle: Path, tmp_path: Path) -> None:
    made = verb(options_of_tiles(tmp_path, tiny_bundle, "height=10", "width=8"), SILENT)
    assert isinstance(made.value, dict) and made.value["peak_bytes"] > 2**20
    assert str(made.shown[0]).endswith(f", {format_bytes(made.value['peak_bytes'])} peak memory")


def test_a_drawing_and_a_start_are_those_of_the_whole(tiny_bundle: Path, tmp_path: Path) -> None:
    from fewstep.report.drawing import pictures

    grey = np.zeros((1, 1, 10, 8), np.float32)
    (tmp_path / "grey.png").write_bytes(pictures.encode_png(pictures.draw_grid(grey, 1)))
    asked = options_of_tiles(tmp_path, tiny_bundle, "height=10", "width=8", image=tmp_path / "grey.png", strength=0.5)
    assert run(asked).x.shape == (2, 1, 10, 8)


def test_a_picture_of_latents_is_decoded_in_windows(tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    from tests.runtime.text_bundle import with_companions

    asked = options_of_tiles(tmp_path, with_companions(tiny_bundle), "height=10", "width=8")
    shown = replace(asked, output=tmp_path / "x.png", prompt=("a cat",))
    latents, images = run(replace(asked, prompt=("a cat",))).x, run(shown).x
    assert images.shape == (2, 3, 20, 16) and shown.output.is_file()
    np.testing.assert_allclose(images[:, 1, ::2, 1::2], 2 * latents[:, 0], rtol=1e-5)
    with refuses(names=("[1, 4, 4]", "[1, 10, 8]"), fix="leave --size out"):
        run(replace(shown, image=tmp_path / "x.png", strength=0.5))


@pytest.mark.parametrize("text", ["text=a red cat", "prompt=a red cat"])
def test_a_text_in_place_of_a_prompt_names_the_option(text: str, tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    from tests.runtime.text_bundle import with_companions

    options = RunOptions(with_companions(tiny_bundle), condition=(text,), output=tmp_path / "x.npy")
    with refuses(f"{text!r} is a text", "give --prompt 'a red cat'"):
        open_request(options)


def test_a_damaged_decoder_is_named_before_the_steps(tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    from tests.runtime.text_bundle import with_companions

    bundle, steps = with_companions(tiny_bundle), list[int]()
    (bundle / "graphs/decoder.onnx").write_bytes(b"")
    asked = RunOptions(bundle, "ddim:2", condition=("class=bag",), prompt=("a cat",), output=tmp_path / "x.png")
    with refuses(names=("graphs/decoder.onnx", "damaged"), fix="copy the bundle again"):
        run(asked, lambda what, done, total: steps.append(done))
    assert steps == []


def test_windows_of_free_sizes_and_a_picture_that_is_cut(tiny_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "picture.npy", np.zeros((1, 40, 4), np.float32))
    asked = options_of_tiles(tmp_path, free(tiny_bundle), "height=20", tiles="12:4")
    condition = (*asked.condition, f"picture=@{tmp_path}/picture.npy")
    assert run(replace(asked, condition=condition)).x.shape == (2, 1, 20, 4)


def file_of_pictures(folder: Path) -> Path:
    """A file with two records of conditions, and those of the unconditional branch."""
    picture = np.random.default_rng(0).uniform(-1, 1, (2, 1, 8, 4)).astype(np.float32)
    np.savez(folder / "c.npz", **{"class": np.array([1, 2]), "picture": picture, "uncond.picture": 0 * picture})
    return folder / "c.npz"


def test_records_of_a_file_are_the_conditions(tiny_bundle: Path, tmp_path: Path) -> None:
    file, bundle = file_of_pictures(tmp_path), free(tiny_bundle)
    options = RunOptions(bundle, "ddim:2", conditions=file, guidance=2.0, output=tmp_path / "x.npy")
    stored = np.load(file)
    expected = load(bundle).sample(
        "ddim:2",
        [0, 1],
        {name: stored[name] for name in ("class", "picture")},
        guidance=2.0,
        branches={"uncond": {"picture": stored["uncond.picture"]}},
    )
    np.testing.assert_array_equal(run(options).x, expected)


def test_a_file_for_an_unknown_condition_names_the_conditions(tiny_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.zeros((4, 96), np.float32))
    options = RunOptions(tiny_bundle, condition=(f"pitch=@{tmp_path / 'f.npy'}",), output=tmp_path / "x.npy")
    with pytest.raises(UserError, match="unknown condition 'pitch'; it takes 'class'"):
        open_request(options)


def test_rows_that_are_repeated_are_reported(
    tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.save(tmp_path / "c.npy", np.array([0, 1, 2, 3]))
    given = {"condition": (f"class=@{tmp_path / 'c.npy'}",), "output": tmp_path / "x.npy"}
    open_request(RunOptions(tiny_bundle, samples=4, **given))
    assert "repeated" not in caplog.text
    open_request(RunOptions(tiny_bundle, samples=6, **given))
    assert "4 rows of condition 'class' for 6 samples: the rows are repeated" in caplog.text


@pytest.mark.parametrize(("rows", "samples"), [(20, 20), (3, 3), (1, 1)])
def test_the_rows_of_a_file_of_a_condition_are_sampled(
    rows: int, samples: int, tiny_bundle: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "c.npy", np.arange(rows) % 3)
    options = RunOptions(tiny_bundle, condition=(f"class=@{tmp_path / 'c.npy'}",), output=tmp_path / "x.npy")
    assert open_request(options).options.count == samples


@pytest.mark.parametrize(("classes", "samples"), [(("bag",), 1), (("bag", "1"), 2)])
def test_each_value_of_a_condition_is_sampled(
    classes: tuple[str, ...], samples: int, tiny_bundle: Path, tmp_path: Path
) -> None:
    given = tuple(f"class={value}" for value in classes)
    assert len(run(RunOptions(tiny_bundle, output=tmp_path / "x.npy", plan="ddim:2", condition=given)).x) == samples


def test_records_decide_over_the_rows_of_another_file(tiny_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.arange(2))
    np.savez(tmp_path / "c.npz", picture=np.zeros((5, 1, 8, 4), np.float32))
    given = {"condition": (f"class=@{tmp_path / 'c.npy'}",), "conditions": tmp_path / "c.npz"}
    assert open_request(RunOptions(free(tiny_bundle), output=tmp_path / "x.npy", **given)).options.count == 5


def test_rows_of_a_file_beyond_the_records_are_not_left_out_in_silence(
    tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.save(tmp_path / "c.npy", np.zeros(7, np.int64))
    np.savez(tmp_path / "c.npz", picture=np.zeros((5, 1, 8, 4), np.float32))
    given = {"condition": (f"class=@{tmp_path / 'c.npy'}",), "conditions": tmp_path / "c.npz"}
    options = RunOptions(free(tiny_bundle), output=tmp_path / "x.npy", **given)
    open_request(options)
    assert "7 rows of condition 'class' for 5 samples: the others are left out" in caplog.text
    caplog.clear()
    open_request(replace(options, samples=5))
    assert not caplog.text


def test_an_array_of_a_file_that_is_no_condition_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", uncond=np.zeros(2))
    bundle = free(tiny_bundle)
    with refuses(names=("c.npz", "'uncond', which is not a condition"), fix="'class'"):
        run(RunOptions(bundle, conditions=tmp_path / "c.npz", output=tmp_path / "x.npy"))


def test_a_record_of_another_shape_is_refused_by_name(tiny_bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", picture=np.zeros((2, 1, 8, 5), np.float32))
    bundle = free(tiny_bundle)
    with refuses(names=("c.npz: condition 'picture'", "has the shape [1, 8, 5]")):
        run(RunOptions(bundle, conditions=tmp_path / "c.npz", output=tmp_path / "x.npy"))


def test_a_condition_of_an_option_and_of_a_file_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    file, bundle = file_of_pictures(tmp_path), free(tiny_bundle)
    with refuses(names=("condition 'class' is given", "c.npz has it too")):
        run(RunOptions(bundle, conditions=file, condition=("class=bag",), output=tmp_path / "x.npy"))


def test_a_negative_prompt_of_a_file_needs_guidance(tiny_bundle: Path, tmp_path: Path) -> None:
    file, bundle = file_of_pictures(tmp_path), free(tiny_bundle)
    with refuses(names=("negative prompt", "c.npz", "guidance")):
        run(RunOptions(bundle, "ddim:2", conditions=file, output=tmp_path / "x.npy"))


def test_a_file_without_arrays_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz")
    with refuses(names="c.npz has no arrays"):
        run(RunOptions(tiny_bundle, conditions=tmp_path / "c.npz", output=tmp_path / "x.npy"))


def draw(folder: Path, name: str, value: float, left: float) -> Path:
    """Write a picture of 4 x 4 pixels in two shades from 0 to 255: `left` in the left half, and another."""
    pixels = np.full((4, 4), value, np.uint8)
    pixels[:, :2] = left
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def test_a_mask_keeps_the_black_part_of_a_picture(tiny_bundle: Path, tmp_path: Path) -> None:
    picture, mask = draw(tmp_path, "picture.png", 204, 204), draw(tmp_path, "mask.png", 255, 0)
    asked = options_of_tiles(tmp_path, tiny_bundle, tiles=None, image=picture, known=mask)
    x = run(asked).x
    np.testing.assert_allclose(x[..., :2], 0.6, atol=1e-6)
    assert np.abs(x[..., 2:] - 0.6).min() > 1e-3


def test_an_element_of_a_latent_is_kept_where_its_first_pixel_is_black(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.full((8, 8), 255, np.uint8)
    pixels[0, 4] = pixels[4, 0] = 0  # the first of their blocks of 4 x 4
    pixels[1:4, 1:4] = 0  # not the first
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    monkeypatch.setattr(drawing, "image_shape", lambda manifest: (3, 8, 8))
    bundle: Any = SimpleNamespace(manifest=None)
    hold = drawing._read_hold(tmp_path / "mask.png", np.zeros((4, 2, 2), np.float32), bundle)
    np.testing.assert_array_equal(hold.mask, np.broadcast_to([[0, 1], [1, 0]], (1, 4, 2, 2)))


def test_each_sample_keeps_the_part_also_from_a_noised_picture(tiny_bundle: Path, tmp_path: Path) -> None:
    picture, mask = draw(tmp_path, "picture.png", 204, 204), draw(tmp_path, "mask.png", 255, 0)
    asked = options_of_tiles(tmp_path, tiny_bundle, tiles=None, image=picture, known=mask)
    x = run(replace(asked, samples=3, strength=0.5, plan="ddim:4")).x
    assert x.shape[0] == 3 and np.abs(x[0] - x[1]).max() > 1e-3
    np.testing.assert_allclose(x[..., :2], 0.6, atol=1e-6)


def test_all_steps_run_from_a_picture(tiny_bundle: Path, tmp_path: Path) -> None:
    picture = draw(tmp_path, "picture.png", 204, 204)
    asked = options_of_tiles(tmp_path, tiny_bundle, tiles=None, image=picture, strength=0.2)
    asked = replace(asked, samples=1, plan="ddim:4")
    all_steps, share = run(replace(asked, keep_steps=True)).x, run(asked).x
    with load(tiny_bundle) as sampler:
        plan = sampler.compile("ddim:4", strength=AllSteps(0.2))
    assert len(plan.steps) == 4 and np.abs(all_steps - share).max() > 1e-3
    noise = plan.steps[0].sigma
    np.testing.assert_array_equal(run(replace(asked, strength=None, start_noise=noise)).x, all_steps)
    with refuses("'scheduler:4' has its own steps", "SOLVER:STEPS"):
        run(replace(asked, keep_steps=True, plan="scheduler:4"))


@pytest.mark.parametrize(
    ("more", "names", "fix"),
    [
        ({"strength": 0.6}, "--strength", "--image FILE"),
        ({"start_noise": 0.6}, "--start-noise", "--image FILE"),
        ({"keep_steps": True}, "--keep-steps", "--strength 0.6"),
        ({"strength": 0.6, "start_noise": 0.6}, ("--strength", "--start-noise"), "leave one of them out"),
        ({"start_noise": -0.6}, "noise -0.6", "such as 0.3"),
        ({"image": Path("p.png")}, "--image", ("--strength 0.6", "--known MASK")),
        ({"image": Path("p.png"), "known": Path("m.png"), "tiles": "4:2"}, ("--known", "--tiles"), "leave out"),
    ],
)
def test_a_picture_without_what_it_needs_is_refused(
    more: dict[str, object], names: Words, fix: Words, tmp_path: Path
) -> None:
    with refuses(names, fix):
        RunOptions(tmp_path, **more)  # type: ignore[arg-type]
