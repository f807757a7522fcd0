"""How a training worker is asked to stop, and how it stops when it cannot listen."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

STOP = signal.SIGTERM
"""Save the state and end: the job goes on another time."""
CANCEL = signal.SIGUSR1
"""End for good."""

_PATIENCE_S = 1.0


class StopRequest:
    """Waits for the signals in a thread of its own, so that long work in C does not delay them."""

    def __init__(self) -> None:
        self.is_cancel = False
        self._asked = threading.Event()
        self._last_words: Callable[[], None] | None = None
        # blocked for this thread and all later ones: the thread that waits for them takes them
        signal.pthread_sigmask(signal.SIG_BLOCK, (STOP, CANCEL))
        threading.Thread(target=self._listen, name="stop-request", daemon=True).start()

    def is_asked(self) -> bool:
        return self._asked.is_set()

    def may_interrupt(self, last_words: Callable[[], None]) -> None:
        """From now on the process may end at any moment, after its last words.

        For work that keeps what it has done and looks up seldom: unpacking, loading a model, a clip's features.
        """
        self._last_words = last_words

    def may_not_interrupt(self) -> None:
        """From now on whoever works looks often whether to stop, and saves first."""
        self._last_words = None

    def _listen(self) -> None:
        while True:
            if signal.sigwait((STOP, CANCEL)) == CANCEL:
                self.is_cancel = True
            if not self._asked.is_set():
                self._asked.set()
                threading.Thread(target=self._leave, name="stop-leave", daemon=True).start()

    def _leave(self) -> None:
        """End the process as soon as it may be, after a moment for a stop at a convenient place."""
        time.sleep(_PATIENCE_S)
        while True:
            last_words = self._last_words
            if last_words is not None:
                last_words()
                os._exit(0)
            time.sleep(0.1)
