"""SIGINT and SIGTERM as a wish to stop at the next safe moment."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from medvision.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """Remembers the first signal while training defers it, and raises `Interrupted` at once otherwise.

    Lightning turns SIGINT into exit code 1 and SIGTERM into an exception between hooks, where no checkpoint can be
    taken any more. These handlers only set a flag; the `Checkpoints` callback reads it at the edge of a batch.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._deferring = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals within the block and restore the previous handlers after it."""
        previous = [signal.getsignal(signum) for signum in SIGNALS]
        self.install()
        try:
            yield
        finally:
            if _in_main_thread():
                for signum, handler in zip(SIGNALS, previous, strict=True):
                    signal.signal(signum, handler)

    def install(self) -> None:
        """Handle the signals; only the main thread of a process may, in others nothing happens."""
        if _in_main_thread():
            for signum in SIGNALS:
                signal.signal(signum, self._handle)

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Within the block the first signal only sets `signum`; a second one still stops at once."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self.signum is not None:
            raise Interrupted(self.signum)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        insistent = self.signum is not None
        self.signum = signum
        if insistent or not self._deferring:
            raise Interrupted(signum)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
