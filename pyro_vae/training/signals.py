"""What ends training before its time: signals, and a limit of time."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

OUT_OF_TIME = 75
"""Exit code of a run that its time limit stopped: call again."""


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal, or by its time limit (None); the message says how to go on."""

    def __init__(self, message: str, signum: int | None):
        super().__init__(message)
        self.signum = signum

    @property
    def code(self) -> int:
        """Exit code of a process that it ends."""
        return OUT_OF_TIME if self.signum is None else 128 + self.signum


class Stops:
    """Whether training is to end at the next step: a signal came, or so many minutes are over."""

    def __init__(self, minutes: float | None = None):
        self.received: list[int] = []
        self.end = math.inf if minutes is None else time.monotonic() + 60 * minutes

    def __bool__(self) -> bool:
        return bool(self.received) or time.monotonic() >= self.end

    def interrupted(self, message: str) -> Interrupted:
        """What to raise."""
        return Interrupted(message, self.received[0] if self.received else None)


@contextmanager
def collected(minutes: float | None = None) -> Iterator[Stops]:
    """Collects SIGINT, SIGTERM and SIGUSR1, to finish the step in progress; a second one acts as ever.

    Not of a process of ``torchrun``, which passes on what a cluster may have sent to all processes already:
    that kills after 30 seconds what does not end.
    """
    stops = Stops(minutes)
    if threading.current_thread() is not threading.main_thread():
        yield stops
        return

    def handle(signum: int, frame: Any) -> None:
        stops.received.append(signum)
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            signal.signal(signum, previous[signum])

    wanted: list[int] = [signal.SIGINT, signal.SIGTERM]
    # By which schedulers of clusters tell that time is nearly up; unless the program has its own use for it.
    told = getattr(signal, "SIGUSR1", None)
    if told is not None and signal.getsignal(told) == signal.SIG_DFL:
        wanted.append(told)
    previous: dict[int, Any] = {}
    for signum in wanted:
        previous[signum] = signal.getsignal(signum) or signal.SIG_DFL
        signal.signal(signum, handle)
    try:
        yield stops
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
