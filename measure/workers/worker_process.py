"""A worker process: it reads calls until stdin ends, and writes their results or errors to stdout.

    python worker_process.py PATHS

PATHS is the parent's `sys.path` as JSON. A message is a pickle, preceded by its length in 8 bytes.
"""

import json
import os
import pickle
import sys
from typing import IO, Any

LENGTH = 8  # bytes of a message's length


def send(stream: IO[bytes], message: Any) -> None:
    write(stream, pickle.dumps(message, protocol=5))


def write(stream: IO[bytes], content: bytes) -> None:
    """Send a message that is already pickled."""
    stream.write(len(content).to_bytes(LENGTH, "little") + content)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes:
    """Return the next message, pickled. Raises EOFError if the other process has ended."""
    head = stream.read(LENGTH)
    content = stream.read(int.from_bytes(head, "little"))
    if len(head) < LENGTH or len(content) < int.from_bytes(head, "little"):
        raise EOFError
    return content


def picklable_error(error: Exception) -> Exception:
    """Return an error if it can be pickled and unpickled; otherwise a RuntimeError with its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints of libraries must not mix with answers
    while True:
        try:
            call = receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            function, arguments, named = pickle.loads(call)
            answer = pickle.dumps((True, function(*arguments, **named)), protocol=5)
        except Exception as error:  # an error of the call, or of a result that cannot be pickled
            answer = pickle.dumps((False, picklable_error(error)), protocol=5)
        write(answers, answer)


if __name__ == "__main__":
    sys.path[:] = json.loads(sys.argv[1])  # without this file's folder: its modules are not top-level modules
    main()
