"""GDCM in processes of its own, because damaged files make it end the process that calls it."""

import atexit
import json
import os
import subprocess
import sys
import threading
from collections import deque
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medvision.errors import BadImage

_SECONDS = 30  # far more than a sound frame of the largest size takes
_idle: deque[subprocess.Popen[bytes]] = deque()


def decode_frame(frame: bytes, syntax: str, options: dict[str, Any]) -> tuple[NDArray[Any], dict[str, Any]]:
    """Stored values of one encapsulated frame; a process is started for each thread and used again.

    Args:
        frame: the encapsulated frame.
        syntax: UID of the transfer syntax.
        options: of pydicom's `Decoder.as_array` for a buffer, as values that JSON has.

    Returns:
        (H, W) or (H, W, 3), and what pydicom says of them.

    Raises:
        BadImage: if GDCM cannot decode it, ends its process, or takes longer than `_SECONDS`.
    """
    try:
        process = _idle.pop()
    except IndexError:
        process = _start()
    watch = threading.Timer(_SECONDS, process.kill)
    watch.start()
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        _send(process.stdin, {"syntax": syntax, "options": options}, frame)
        answer, values = _receive(process.stdout)
    except (OSError, EOFError) as error:
        _end(process)
        raise BadImage("DICOM is so damaged that GDCM broke off") from error
    except BaseException:  # an interruption, which leaves half an answer in the pipe
        _end(process)
        raise
    finally:
        watch.cancel()
    _idle.append(process)
    if "error" in answer:
        raise BadImage(f"DICOM is damaged or not supported: {answer['error']}")
    return np.frombuffer(values, answer["dtype"]).reshape(answer["shape"]), answer["facts"]


def _start() -> subprocess.Popen[bytes]:
    # -P: a file in the working folder must not be taken for a library. The path finds what this process found.
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is for this process, which then ends the other
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _end_all() -> None:
    while _idle:
        _end(_idle.pop())


atexit.register(_end_all)
if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(after_in_child=_idle.clear)  # two processes must not talk to one


def _send(pipe: IO[bytes], facts: dict[str, Any], content: bytes) -> None:
    head = json.dumps(facts).encode()
    pipe.write(len(head).to_bytes(8, "big") + len(content).to_bytes(8, "big") + head)
    pipe.write(content)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    lengths = _read(pipe, 16)
    head = _read(pipe, int.from_bytes(lengths[:8], "big"))
    return json.loads(head), _read(pipe, int.from_bytes(lengths[8:], "big"))


def _read(pipe: IO[bytes], size: int) -> bytes:
    content = pipe.read(size)
    if len(content) < size:
        raise EOFError
    return content


def _serve() -> None:
    """Answer requests until the input ends."""
    from pydicom.pixels.decoders.base import get_decoder

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the library prints is no answer
    while True:
        try:
            request, frame = _receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            decoder = get_decoder(request["syntax"])
            values, facts = decoder.as_array(frame, index=0, decoding_plugin="gdcm", **request["options"])
        except Exception as error:
            _send(answers, {"error": (str(error) or type(error).__name__).splitlines()[-1].strip()}, b"")
        else:
            _send(answers, {"dtype": values.dtype.str, "shape": values.shape, "facts": facts}, values.tobytes())


if __name__ == "__main__":
    _serve()
