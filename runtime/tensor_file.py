"""A limit on the size of the safetensors header, which must be parsed completely before anything else in a file."""

HEADER_LIMIT = 4 * 2**20  # bytes: about 40 000 tensors; LoRA files and tables have a few thousand


def check_header(content: bytes) -> None:
    """Raise ValueError if a file's header is longer than HEADER_LIMIT. `content` begins with its first 8 bytes."""
    size = int.from_bytes(content[:8], "little")
    if size > HEADER_LIMIT:
        raise ValueError(f"its header has {size} bytes, more than the limit of {HEADER_LIMIT}")
