"""Check a sealed file against its metadata: its bytes are intact, and it computes its test vector here.

The checksum is the SHA-256 of the file with zeros in place of the checksum's 64 digits. So a program can check it
without a protobuf parser, and this module needs only onnxruntime. The name of a separate weight file contains the hash
of its content.
"""

import json
import math
import mmap
import re
from hashlib import sha256
from pathlib import Path
from threading import TIMEOUT_MAX, Timer
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from fewstep.graph.bake.draws import DRAWN, NOISE, draw_input
from fewstep.graph.bake.metadata import NO_CHECKSUM, Baked, BakedPort, BakedSample
from fewstep.plans.errors import UserError, first_line
from fewstep.runtime.backends.checks import path_text
from fewstep.runtime.backends.onnxruntime import WIDE_SUMS
from fewstep.runtime.bundle.onnx_references import external_data_files
from fewstep.runtime.bundle.platforms import needs_wide_sums
from fewstep.runtime.bundle.reading import file_sha256
from fewstep.runtime.kinds.sizes import resolve_dimension

BAKE_AGAIN = "copy it again, or bake it again"
MARK = b'{"file_sha256":"'  # precedes the digits, at the start of the metadata
UNSEALED = b'{"model":"'  # the start of the metadata in files without a checksum
METADATA_LIMIT = 2**22  # bytes
STORED = 64  # how many numbers of a sample the metadata stores
HASH = re.compile(r"-([0-9a-f]{12})\.onnx\.data")  # hash of the content, in the name of a weight file


def read_metadata(file: Path) -> Baked:
    """Return the metadata of a baked file. Raises UserError for any other file."""
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = data.find(MARK) if data.find(MARK) >= 0 else data.rfind(UNSEALED)
            text = data[at : at + METADATA_LIMIT].decode(errors="replace") if at >= 0 else ""
        return msgspec.convert(json.JSONDecoder().raw_decode(text)[0], Baked, str_keys=True)  # axes are keys
    except (ValueError, RecursionError, msgspec.ValidationError):  # an empty file cannot be mapped
        what = f"{file} is damaged or not a file of `fewstep bake`: it has no fewstep metadata"
        raise UserError(what, BAKE_AGAIN) from None


def is_whole(file: Path) -> bool:
    """Return True if the bytes of a baked file are unchanged. Raises UserError for a file without a checksum."""
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(MARK) + len(MARK)
        if at < len(MARK):
            raise UserError(f"{file} was baked without a checksum", "bake it again to have one")
        hashed = sha256(data[:at])
        hashed.update(NO_CHECKSUM.encode())
        hashed.update(data[at + len(NO_CHECKSUM) :])
        return data[at : at + len(NO_CHECKSUM)].decode("latin1") == hashed.hexdigest()


def find_damaged_weights(file: Path) -> tuple[str, ...]:
    """Return the weight files of a baked file that are missing or do not match the hash in their name."""
    paths = {name: file.parent / name for name in sorted(external_data_files(file))}
    hashes = {name: HASH.search(name) for name in paths}
    return tuple(
        name
        for name, path in paths.items()
        if not path.is_file() or ((match := hashes[name]) and not file_sha256(path).startswith(match[1]))
    )


def compute_sample(file: Path, baked: Baked, longest: float = math.inf) -> NDArray[Any]:
    """Compute the sample [B, ...] of the file's test vector with onnxruntime, on one thread.

    Raises UserError if that fails or takes longer than `longest` seconds.
    """
    vector = baked.sample
    if vector is None:
        raise UserError(f"{file} has no test vector", "bake it again to have one")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # log fatal errors only, since failures are raised
    options.intra_op_num_threads = 1
    options.add_session_config_entry(WIDE_SUMS, str(int(needs_wide_sums(baked.target))))
    feeds = {port.name: _feed(port, baked, vector) for port in baked.inputs}
    call = ort.RunOptions()
    timer = Timer(min(longest, TIMEOUT_MAX), setattr, (call, "terminate", True))
    timer.daemon = True
    try:
        session = ort.InferenceSession(path_text(file), options, providers=["CPUExecutionProvider"])
        timer.start()
        (output,) = session.run([baked.output.name], feeds, call)
    except Exception as error:  # its exceptions share no base class but Exception
        if call.terminate:
            raise UserError(f"a run of {file.name} takes longer than {longest:g} seconds", BAKE_AGAIN) from None
        raise UserError(
            f"onnxruntime {ort.__version__} cannot run the baked file: {first_line(error)}", BAKE_AGAIN
        ) from error
    finally:
        timer.cancel()
    if not np.isfinite(output).all():
        raise UserError("the file returns NaN or infinity", BAKE_AGAIN)
    return np.asarray(output)


def digest(output: NDArray[Any]) -> str:
    """Return the SHA-256 of a sample's elements as little-endian float32."""
    return sha256(output.astype("<f4").tobytes()).hexdigest()


def select_stored(output: NDArray[Any]) -> NDArray[Any]:
    """Return those elements of a sample that a baked file stores for comparison: the elements with index `k * size //
    STORED` for each k, or all elements of a smaller sample."""
    flat = output.reshape(-1)
    return flat[np.arange(min(STORED, flat.size)) * flat.size // min(STORED, flat.size)]


def _feed(port: BakedPort, baked: Baked, vector: BakedSample) -> NDArray[Any]:
    shape = tuple(resolve_dimension(size, vector.sizes) for size in port.shape)
    if port.meaning in DRAWN:
        batch, *sample = shape[port.meaning != NOISE :]
        return draw_input(port.meaning, baked.draws, range(vector.seed, vector.seed + batch), sample)
    return np.full(shape, vector.inputs[port.name], port.dtype)
