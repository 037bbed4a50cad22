"""Runs tasks in worker processes, which end early when asked to and never outlive their parent."""

import concurrent.futures
import gc
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures.process import BrokenProcessPool

from common.errors import UserError

_FORK = multiprocessing.get_context("fork")

# What this process works on, if it is a worker. Workers are forked with it and are sent only the
# tasks' names: a long message to a worker that has just died would block its sender for ever.
_function, _tasks, _stop = None, {}, None


def run(function, tasks, workers):
    """Yields (name, function(*tasks[name])) in the order in which processes finish them.

    When the generator is closed early (see contextlib.closing), tasks that wait are dropped, and
    running ones can find out through `stopping`. Errors of a task are raised here.

    Args:
      function: any.
      tasks: {name: tuple of arguments}.
      workers: number of processes, at least 1.

    Raises:
      UserError: a process was killed.
    """
    # The workers share this process's memory as long as nobody writes to it, garbage collection
    # included.
    gc.freeze()
    stop = _FORK.Event()
    arguments = function, tasks, stop, os.getpid()
    with concurrent.futures.ProcessPoolExecutor(workers, _FORK, _start_worker, arguments) as pool:
        futures = {pool.submit(_run_task, name): name for name in tasks}
        try:
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "A worker process was killed, perhaps for lack of memory; run this again, with "
                "fewer --workers if so."
            ) from error
        finally:
            for future in futures:
                future.cancel()
            stop.set()


def stopping():
    """Returns whether this is a worker whose result nobody waits for any more."""
    return _stop is not None and _stop.is_set()


def _start_worker(function, tasks, stop, parent):
    global _function, _tasks, _stop
    _function, _tasks, _stop = function, tasks, stop
    # Ctrl-C reaches the whole group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, args=(parent,), daemon=True).start()


def _run_task(name):
    return _function(*_tasks[name])


def _follow_parent(parent):
    """Ends this process soon after its parent, which may be killed with no chance to say so."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
