"""Decoders in bands of rows: the pictures are those of the whole graph."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers")
pytest.importorskip("torch")
from fewstep.graph.files.io import save
from fewstep.graph.graph import Graph, Node, Value
from fewstep.plans.errors import UserError
from fewstep.runtime.arrays import Float32
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bands import banded_decoder
from fewstep.runtime.bands import decoder as decoder_module
from fewstep.runtime.bands.banded_decoder import BandedDecoder
from fewstep.runtime.bands.cut import cut
from fewstep.runtime.bands.decoder import DecoderOfSizes, largest_image
from fewstep.runtime.bands.onnx_file import read_onnx
from fewstep.runtime.bundle.manifest import GraphEntry, TensorEntry
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.kinds.companions import DECODER
from tests.runtime.bands.autoencoders import LATENTS, write_decoder
from tests.runtime.text_bundle import with_companions

RELATIVE = 1e-5  # of the largest value: sums in another order
STEP = 0.05  # one code of an int8 decoder


def open_banded(path: Path) -> BandedDecoder:
    file = read_onnx(path)
    parts = cut(file, "latent", LATENTS[1])
    assert parts is not None
    return BandedDecoder(file, parts, OnnxRuntime(1), "latent", False, lambda: OnnxRuntime(1).open(path))


def latents(batch: int = 1) -> Float32:
    return np.random.default_rng(0).standard_normal((batch, *LATENTS[1:])).astype(np.float32)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("decoder") / "decoder.onnx")


@pytest.fixture(scope="module")
def whole(decoder: Path) -> Float32:
    return OnnxRuntime(1).open(decoder)({"latent": latents()})["image"]


@pytest.mark.parametrize("size", [1, 20_000, 100_000, 2**24])
def test_bands_of_any_size_give_the_picture_of_the_whole_graph(
    decoder: Path, whole: Float32, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(banded_decoder, "BAND_BYTES", size)
    banded = open_banded(decoder)({"latent": latents()})["image"]
    np.testing.assert_allclose(banded, whole, atol=RELATIVE * np.abs(whole).max(), rtol=0)


def test_a_decoder_of_free_sizes_runs_in_bands_for_large_images_only(decoder: Path) -> None:
    banded = replace(open_banded(decoder), load_whole=lambda: lambda feeds: {"image": np.zeros(1, np.float32)})
    largest = largest_image(banded, *LATENTS[2:])
    assert largest == 4 * 64 * 48 * 32  # of the last level: 64 channels, four times as high and wide as the latents
    shapes = [DecoderOfSizes(banded, least)({"latent": latents()})["image"].shape for least in (largest, largest + 1)]
    assert shapes == [(1, 3, 48, 32), (1,)]


def test_each_sample_of_a_batch_is_decoded(decoder: Path) -> None:
    banded, batch = open_banded(decoder), latents(2)
    both = banded({"latent": batch})["image"]
    np.testing.assert_array_equal(both[1:], banded({"latent": batch[1:]})["image"])


def test_attention_is_in_the_head_and_every_later_convolution_in_a_segment(decoder: Path) -> None:
    parts = open_banded(decoder).cut
    assert "Softmax" in {node.op for node in parts.head}
    assert all(segment.margins for segment in parts.segments)
    convolutions = [
        node for segment in parts.segments for node in segment.operations if getattr(node, "op", "") == "Conv"
    ]
    assert len(convolutions) == 18  # one block in the middle, 3 x 2 later, one beside, 2 for upsampling, the last


def test_an_operand_of_another_shape_than_assumed_runs_the_whole_graph(tmp_path: Path) -> None:
    float32 = np.dtype(np.float32)
    x, y = Value("latent", float32, LATENTS), Value("image", float32, LATENTS)
    nodes = (
        Node("ReduceMean", ("latent", "axes"), ("mean",), {"keepdims": 1}),
        Node("Sub", ("latent", "mean"), ("image",)),
    )
    path = tmp_path / "mean.onnx"
    save(Graph("g", (x,), (y,), nodes, {"axes": np.array([2, 3])}), path)
    values, banded, loaded = latents(3), open_banded(path), list[Path]()
    once = replace(banded, load_whole=lambda: loaded.append(path) or banded.load_whole())  # type: ignore[func-returns-value]
    expected = values - values.mean(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(once({"latent": values})["image"], expected, atol=1e-6)
    assert loaded == [path]


def test_weights_of_8_bits_are_decoded_in_each_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    float32, rng = np.dtype(np.float32), np.random.default_rng(0)
    x, y = Value("latent", float32, LATENTS), Value("image", float32, LATENTS)
    weights = rng.integers(-127, 127, (4, 4, 3, 3)).astype(np.int8)
    nodes = (
        Node("DequantizeLinear", ("w", "scale"), ("weights",)),
        Node("Conv", ("latent", "weights"), ("image",), {"pads": [1, 1, 1, 1]}),
    )
    path = tmp_path / "int8.onnx"
    save(Graph("g", (x,), (y,), nodes, {"w": weights, "scale": np.float32(0.01)}), path)
    monkeypatch.setattr(banded_decoder, "BAND_BYTES", 300)
    values = latents()
    whole = OnnxRuntime(1).open(path)({"latent": values})["image"]
    np.testing.assert_allclose(open_banded(path)({"latent": values})["image"], whole, atol=1e-5)


def write_int8_decoder(path: Path, affine: bool) -> Path:
    """Write a decoder as calibration lowers it: a float convolution, GroupNorm with or without BatchNormalization for
    its weight and bias, SiLU, and a convolution of integers with its bias as a BatchNormalization."""
    float32, rng = np.dtype(np.float32), np.random.default_rng(0)
    height, width = LATENTS[2:]
    normal = Node("BatchNormalization", ("joined", "gamma", "beta", "zeros", "ones"), ("n",), {"epsilon": 0.0})
    nodes = (
        Node("Conv", ("latent", "first"), ("c",), {"pads": [1, 1, 1, 1]}),
        Node("Reshape", ("c", "split"), ("groups",)),
        Node("InstanceNormalization", ("groups", "own", "shift"), ("normal",), {"epsilon": 1e-5}),
        Node("Reshape", ("normal", "shape"), ("joined" if affine else "n",)),
        *((normal,) if affine else ()),
        Node("Sigmoid", ("n",), ("gate",)),
        Node("Mul", ("n", "gate"), ("silu",)),
        Node("QuantizeLinear", ("silu", "scale", "zero"), ("codes",)),
        Node(
            "QLinearConv",
            ("codes", "scale", "zero", "second", "scales", "zeros8", "scale", "middle"),
            ("sums",),
            {"pads": [1, 1, 1, 1]},
        ),
        Node("DequantizeLinear", ("sums", "scale", "middle"), ("product",)),
        Node("BatchNormalization", ("product", "ones", "beta", "zeros", "ones"), ("image",), {"epsilon": 0.0}),
    )
    constants = {
        **{"first": rng.standard_normal((16, 4, 3, 3)).astype(np.float32), "split": np.array([0, 4, -1])},
        **{"own": np.ones(4, np.float32), "shift": np.zeros(4, np.float32), "shape": np.array([1, 16, height, width])},
        **{"gamma": rng.uniform(1, 2, 16).astype(np.float32), "beta": rng.standard_normal(16).astype(np.float32)},
        **{"second": rng.integers(-127, 127, (16, 16, 3, 3)).astype(np.int8), "scale": np.float32(STEP)},
        **{"scales": np.full(16, 0.001, np.float32), "zeros8": np.zeros(16, np.int8)},
        **{"zero": np.uint8(8), "middle": np.uint8(128)},
        **{"zeros": np.zeros(16, np.float32), "ones": np.ones(16, np.float32)},
    }
    x, y = Value("latent", float32, LATENTS), Value("image", float32, (1, 16, height, width))
    save(Graph("g", (x,), (y,), nodes, constants), path)
    return path


@pytest.mark.parametrize("affine", [True, False])
def test_bands_of_an_int8_decoder_differ_by_the_rounding_of_few_codes(
    affine: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_int8_decoder(tmp_path / "int8.onnx", affine)
    monkeypatch.setattr(banded_decoder, "BAND_BYTES", 2000)
    banded, whole = open_banded(path), OnnxRuntime(1).open(path)({"latent": latents()})["image"]
    assert not banded.cut.head and len(banded.cut.segments) == 2
    apart = np.abs(banded({"latent": latents()})["image"] - whole)
    assert apart.max() < 1.1 * STEP and (apart > 0.1 * STEP).mean() < 0.01


@pytest.mark.parametrize("in_bands", [False, True])
def test_an_int8_decoder_runs_in_bands_only_if_asked(in_bands: bool, tiny_bundle: Path, tmp_path: Path) -> None:
    path = write_int8_decoder(tmp_path / "int8.onnx", True)
    latent = TensorEntry("latent", "latent", ("batch", *LATENTS[1:]), "float32")
    image = TensorEntry("image", "image", ("batch", 16, *LATENTS[2:]), "float32")
    described = GraphEntry("graphs/int8.onnx", (latent,), (image,))
    given = open_bundle(tiny_bundle), described, OnnxRuntime(1), path, False
    assert (decoder_module._cut_decoder(*given, in_bands) is not None) == in_bands


def test_a_decoder_that_takes_a_condition_does_not_run_in_bands(decoder: Path, tiny_bundle: Path) -> None:
    latent = TensorEntry("latent", "latent", ("batch", *LATENTS[1:]), "float32")
    image = TensorEntry("image", "image", ("batch", 3, 48, 32), "float32")
    frame = TensorEntry("frame", "condition", ("batch", 3, 48, 32), "float32")
    cuts = []
    for inputs in ((latent,), (latent, frame)):
        described = GraphEntry("graphs/decoder.onnx", inputs, (image,))
        given = open_bundle(tiny_bundle), described, OnnxRuntime(1), decoder, False
        cuts.append(decoder_module._cut_decoder(*given, True) is not None)
    assert cuts == [True, False]


def test_weights_in_a_separate_file_are_read_from_there(decoder: Path, whole: Float32, tmp_path: Path) -> None:
    from fewstep.graph.files.io import load

    path = tmp_path / "decoder.onnx"
    save(load(decoder), path, external_above=0)
    assert len(list(tmp_path.iterdir())) == 2
    banded = open_banded(path)({"latent": latents()})["image"]
    np.testing.assert_allclose(banded, whole, atol=RELATIVE * np.abs(whole).max(), rtol=0)


def one_convolution(path: Path, weights: tuple[int, ...], padding: dict[str, object], cast: int | None = None) -> Path:
    """Write a decoder of one convolution, whose weights a Cast to an ONNX type may follow."""
    float32, rng = np.dtype(np.float32), np.random.default_rng(1)
    x, y = Value("latent", float32, LATENTS), Value("image", float32, LATENTS)
    nodes = [Node("Conv", ("latent", "w"), ("image",), padding)]
    if cast is not None:
        nodes = [Node("Cast", ("latent",), ("h",), {"to": cast}), Node("Conv", ("h", "w"), ("c",), padding)]
        nodes.append(Node("Cast", ("c",), ("image",), {"to": 1}))
    w = rng.standard_normal(weights).astype(np.float16 if cast else np.float32)
    save(Graph("g", (x,), (y,), tuple(nodes), {"w": w}), path)
    return path


def test_a_convolution_without_padding_runs_in_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = one_convolution(tmp_path / "d.onnx", (4, 4, 1, 1), {})
    monkeypatch.setattr(banded_decoder, "BAND_BYTES", 300)
    whole = OnnxRuntime(1).open(path)({"latent": latents()})["image"]
    np.testing.assert_allclose(open_banded(path)({"latent": latents()})["image"], whole, atol=1e-6)


@pytest.mark.parametrize("pads", [[1, 1, 0, 0], [0, 0, 1, 1]])
def test_a_convolution_that_pads_one_side_does_not_run_in_bands(pads: list[int], tmp_path: Path) -> None:
    path = one_convolution(tmp_path / "d.onnx", (4, 4, 2, 2), {"pads": pads})
    assert cut(read_onnx(path), "latent", LATENTS[1]) is None


def first_sample(path: Path, sample: int, axis: int) -> Path:
    """Write a decoder of a convolution, one sample of whose images is halved, and put into a batch at an axis."""
    float32 = np.dtype(np.float32)
    x, y = Value("latent", float32, LATENTS), Value("image", float32, LATENTS)
    nodes = (
        Node("Conv", ("latent", "w"), ("h",), {"pads": [1, 1, 1, 1]}),
        Node("Gather", ("h", "sample"), ("one",), {"axis": 0}),
        Node("Mul", ("one", "half"), ("halved",)),
        Node("Unsqueeze", ("halved", "axes"), ("image",)),
    )
    weights = {"w": np.random.default_rng(1).standard_normal((4, 4, 3, 3)).astype(np.float32)}
    weights |= {"sample": np.array(sample), "half": np.array(0.5, np.float32), "axes": np.array([axis])}
    save(Graph("g", (x,), (y,), nodes, weights), path)
    return path


def test_a_decoder_that_takes_a_sample_out_of_its_batch_runs_in_bands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = first_sample(tmp_path / "d.onnx", 0, 0)
    monkeypatch.setattr(banded_decoder, "BAND_BYTES", 300)
    whole = OnnxRuntime(1).open(path)({"latent": latents()})["image"]
    np.testing.assert_allclose(open_banded(path)({"latent": latents()})["image"], whole, atol=1e-5)


@pytest.mark.parametrize(("sample", "axis"), [(1, 0), (0, 1)])
def test_other_samples_and_axes_do_not_run_in_bands(sample: int, axis: int, tmp_path: Path) -> None:
    assert cut(read_onnx(first_sample(tmp_path / "d.onnx", sample, axis)), "latent", LATENTS[1]) is None


def test_images_in_float16_do_not_run_in_bands(tmp_path: Path) -> None:
    path = one_convolution(tmp_path / "d.onnx", (4, 4, 1, 1), {"pads": [0, 0, 0, 0]}, cast=10)
    assert cut(read_onnx(path), "latent", LATENTS[1]) is None


def test_a_constant_that_is_turned_to_the_rows_is_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    float32, rng = np.dtype(np.float32), np.random.default_rng(2)
    x, y = Value("latent", float32, LATENTS), Value("image", float32, LATENTS)
    nodes = (
        Node("Transpose", ("table",), ("rows",), {"perm": [0, 1, 3, 2]}),  # [1, 1, H, 1]
        Node("Add", ("latent", "rows"), ("image",)),
    )
    path, table = tmp_path / "d.onnx", rng.standard_normal((1, 1, 1, LATENTS[2])).astype(np.float32)
    save(Graph("g", (x,), (y,), nodes, {"table": table}), path)
    monkeypatch.setattr(banded_decoder, "BAND_BYTES", 1)  # a row in each band, which a table of all rows would extend
    banded = open_banded(path)({"latent": latents()})["image"]
    np.testing.assert_allclose(banded, latents() + table.transpose(0, 1, 3, 2), atol=1e-6)


def test_a_file_that_was_replaced_since_it_was_loaded_is_refused(tmp_path: Path) -> None:
    path = one_convolution(tmp_path / "d.onnx", (4, 4, 1, 1), {})
    banded = open_banded(path)
    other = one_convolution(tmp_path / "other.onnx", (4, 4, 1, 1), {})
    other.replace(path)
    with pytest.raises(UserError, match=r"d\.onnx has changed since it was loaded"):
        banded({"latent": latents()})
    path.unlink()
    with pytest.raises(UserError, match=r"d\.onnx has changed since it was loaded"):
        banded({"latent": latents()})


def test_int8_that_onnxruntime_multiplies_incorrectly_is_refused(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, checked = open_bundle(with_companions(tiny_bundle)), list[str]()
    monkeypatch.setattr(decoder_module, "_cut_decoder", lambda *_: "in bands")
    monkeypatch.setattr(decoder_module, "largest_image", lambda *_: 2**30)
    monkeypatch.setattr(decoder_module, "refuse_wrong_int8", lambda _, name: checked.append(name))
    assert bundle.manifest.autoencoder is not None
    assert decoder_module.load_decoder(bundle, bundle.manifest.autoencoder.decoder, 1) == "in bands"
    assert checked == [DECODER]
