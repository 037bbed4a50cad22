"""Ends a program in an orderly way after SIGTERM and SIGINT.

The first signal ends training after the step, with a checkpoint; a second one ends the process at
once, even inside a step that takes minutes.
"""

import contextlib
import os
import signal
import threading
import time
from typing import Optional

from common import files
from common.runtime import tf

# EX_TEMPFAIL of sysexits.h: start the same command again later.
EXIT_STATUS = 75

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Launchers send the same signal twice, to the process and to its group.
_TOGETHER_SECONDS = 0.5


class Interrupted(Exception):  # noqa: N818 (it is no error)
    """A signal asked the program to end, and its state has been saved."""


class Stopper:
    """Notices the signals; `name` is that of the first one, or None.

    `ended_training` becomes true at the step after which a training ends for a signal.

    While TensorFlow computes, Python runs no handlers. A thread reads the signals instead, from
    the pipe that Python's own C handler writes their numbers to.
    """

    def __init__(self):
        self.name = None
        self.ended_training = False
        self._time = None

    @contextlib.contextmanager
    def listening(self):
        """Handles the signals while the body runs; ignored signals stay ignored (nohup).

        Outside the main thread Python lets nobody handle them; then they are left to others.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        signals = [s for s in SIGNALS if signal.getsignal(s) != signal.SIG_IGN]
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        old = {s: signal.signal(s, lambda number, frame: None) for s in signals}
        old_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._listen, args=(reader, signals), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            signal.set_wakeup_fd(old_writer)
            for number, handler in old.items():
                signal.signal(number, handler)
            os.close(writer)  # Ends the thread.
            thread.join()
            os.close(reader)

    def check(self):
        """Raises Interrupted after a signal."""
        if self.name:
            raise Interrupted(f"Stopped by {self.name}.")

    def _listen(self, reader: int, signals):
        for number in iter(lambda: os.read(reader, 1), b""):
            if number[0] in signals:
                self._receive(number[0])

    def _receive(self, number: int):
        now = time.monotonic()
        if self._time is None:  # If there is a name, another process has had a signal before.
            self._time = now
            self.name = self.name or signal.Signals(number).name
            tf.logging.warning(
                "%s: stopping after this step, with a checkpoint. Another one ends at once.",
                self.name,
            )
        elif now - self._time >= _TOGETHER_SECONDS:
            # Not sys.exit, which would wait for the main thread.
            os.write(2, b"A second signal: ending at once.\n")
            os._exit(128 + number)


class StopHook(tf.train.SessionRunHook):
    """Ends training after the step in which a signal came, so that the saver's hook saves.

    Processes that train together have to end at the same step, or the others would wait for ever.
    They do the same session runs at the same time, so the first to notice writes into a file that
    all can see which run shall be the last, one that none of them has begun yet. Runs are counted
    and not the global step, which a run may fetch before or after the step is in it.

    Args:
        stopper: notices the signals.
        stop_file: path of that file; None for a process that trains alone.
    """

    def __init__(self, stopper: Stopper, stop_file: Optional[str] = None):
        self._stopper = stopper
        self._stop_file = stop_file
        self._runs = 0
        self._last_run = None

    def begin(self):
        # The file of an earlier run. No process reaches a step before all of them are here.
        if self._stop_file:
            with contextlib.suppress(FileNotFoundError):
                os.remove(self._stop_file)

    def after_create_session(self, session, coord):
        if not self._stop_file:
            self._stopper.check()  # There is nothing new to save.

    def after_run(self, run_context, run_values):
        self._runs += 1
        if not self._stop_file:
            if self._stopper.name:
                self._stop(run_context)
            return
        if self._last_run is None:
            self._last_run = self._agreed_run()
        if self._last_run is not None and self._runs >= self._last_run:
            self._stopper.name = self._stopper.name or "a signal to another process"
            self._stop(run_context)

    def _stop(self, run_context):
        self._stopper.ended_training = True
        run_context.request_stop()

    def _agreed_run(self) -> Optional[int]:
        """Returns the run after which all processes end, if one of them has received a signal."""
        if self._stopper.name and not os.path.exists(self._stop_file):
            own = files.temporary_path(self._stop_file)
            with open(own, "w") as file:
                # The others may be in the next run, not in the one after it.
                file.write(str(self._runs + 2))
            try:
                os.link(own, self._stop_file)  # Only the first one's counts, and is whole.
            except FileExistsError:
                pass
            except OSError:  # A file system without links: two at the same instant may differ.
                os.replace(own, self._stop_file)
            with contextlib.suppress(FileNotFoundError):
                os.remove(own)
        # A client of NFS may know for a minute that there is no such file, until it opens this.
        os.close(os.open(os.path.dirname(self._stop_file), os.O_RDONLY))
        with contextlib.suppress(FileNotFoundError):
            with open(self._stop_file) as file:
                return int(file.read())
        return None


class CheckHook(tf.train.SessionRunHook):
    """Ends an evaluation after the step in which a signal came: its result would be incomplete."""

    def __init__(self, stopper: Stopper):
        self._stopper = stopper

    def after_run(self, run_context, run_values):
        self._stopper.check()
