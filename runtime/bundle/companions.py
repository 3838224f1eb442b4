"""Companions are a bundle's networks next to its denoiser; their entries in a manifest are checked here."""

from collections.abc import Iterator

from fewstep.runtime.bundle.manifest import AutoencoderEntry, GraphEntry, Manifest, Role, TensorEntry, TextEncoderEntry

LENGTH_LIMIT = 2**16  # ids of one prompt
IMAGE_LIMIT = 2**28  # elements of one image


def companions(manifest: Manifest) -> Iterator[tuple[str, GraphEntry]]:
    """The graphs of companions, each with the name of its field."""
    if manifest.text is not None:
        yield "text.graph", manifest.text.graph
    if manifest.autoencoder is not None:
        yield "autoencoder.decoder", manifest.autoencoder.decoder
        if manifest.autoencoder.encoder is not None:
            yield "autoencoder.encoder", manifest.autoencoder.encoder


def image_shape(manifest: Manifest) -> tuple[int, ...]:
    """The shape of the image of a sample: x's own, where no autoencoder makes an image of it."""
    if manifest.autoencoder is None:
        return manifest.x_shape
    return tuple(int(size) for size in manifest.autoencoder.decoder.outputs[0].shape[1:])


def companion_problem(manifest: Manifest) -> tuple[str, str] | None:
    """(field, what is wrong with it), or None."""
    for problem in (
        None if manifest.text is None else _text_problem(manifest.text, manifest),
        None if manifest.autoencoder is None else _autoencoder_problem(manifest.autoencoder, manifest),
    ):
        if problem is not None:
            return problem
    return None


def _text_problem(text: TextEncoderEntry, manifest: Manifest) -> tuple[str, str] | None:
    """(field, fault) of the text encoder, which takes token ids and makes conditions of the denoiser; or None."""
    wanted: list[TensorEntry] = []
    for index, tokens in enumerate(text.tokens):
        if not 1 <= tokens.length <= LENGTH_LIMIT or tokens.pad < 0:
            return f"text.tokens[{index}]", f"{tokens.length} ids, the padding being {tokens.pad}"
        wanted.append(TensorEntry(tokens.input, "ids", ("batch", tokens.length), "int64"))
        if tokens.mask is not None:
            wanted.append(TensorEntry(tokens.mask, "mask", ("batch", tokens.length), "int64"))
    if sorted(map(str, wanted)) != sorted(map(str, text.graph.inputs)) or not wanted:
        return "text.graph.inputs", "they are not what the tokenizers make"
    if not text.graph.outputs:
        return "text.graph.outputs", "there are none"
    takes = {
        each.name: TensorEntry(each.name, "condition", ("batch", *each.shape), each.dtype)
        for each in manifest.conditions
    }
    for tensor in text.graph.outputs:
        if takes.get(tensor.name) != tensor:
            return "text.graph.outputs", f"the denoiser takes no condition {tensor.name!r} of that shape and type"
    return None


def _autoencoder_problem(autoencoder: AutoencoderEntry, manifest: Manifest) -> tuple[str, str] | None:
    """One side of each graph is x, the other one an image."""
    x, image = ("batch", *manifest.x_shape), _only(autoencoder.decoder.outputs, "image")
    if image is None or len(image) != 4 or not _is_size(image[1:]):
        return "autoencoder.decoder", "it returns no image [batch, channels, height, width]"
    if _only(autoencoder.decoder.inputs, "latent") != x:
        return "autoencoder.decoder", f"it does not take latents {list(x)}"
    encoder = autoencoder.encoder
    if encoder is not None and (_only(encoder.inputs, "image"), _only(encoder.outputs, "latent")) != (image, x):
        return "autoencoder.encoder", "it is not the other way of the decoder"
    return None


def _only(tensors: tuple[TensorEntry, ...], role: Role) -> tuple[int | str, ...] | None:
    """The shape of the one tensor that there is, if it has that role and is float32."""
    fits = len(tensors) == 1 and (tensors[0].role, tensors[0].dtype, tensors[0].shape[:1]) == (
        role,
        "float32",
        ("batch",),
    )
    return tensors[0].shape if fits else None


def _is_size(sizes: tuple[int | str, ...]) -> bool:
    elements = 1
    for size in sizes:
        if not isinstance(size, int) or size < 1:
            return False
        elements *= size
    return elements <= IMAGE_LIMIT
