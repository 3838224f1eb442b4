"""The limit of a safetensors header, which a reader parses whole before anything else can be said of a file."""

HEADER_LIMIT = 4 * 2**20  # bytes: some 40 000 tensors; LoRA files and tables have a few thousand


def check_header(content: bytes) -> None:
    """ValueError for a file whose header is longer than HEADER_LIMIT. `content` begins with its first 8 bytes."""
    size = int.from_bytes(content[:8], "little")
    if size > HEADER_LIMIT:
        raise ValueError(f"its header has {size} bytes, and at most {HEADER_LIMIT} are read")
