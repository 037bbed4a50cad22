"""The process of a program: how it logs and builds graphs, and how it exits after an error."""

import contextlib
import gc
import io
import logging
import os
import re
import signal
import sys
from typing import List, Optional, Sequence

from absl import app

from common import runtime
from common.checkpoints import storage
from common.distribution import peers
from common.errors import UserError
from common.hooks import interruption
from common.runtime import tf


def set_up():
    """Makes TensorFlow log every line once, and build graphs faster; any text can be printed."""
    # Names of classes and files may have letters that the terminal's encoding lacks.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    tf.logging.set_verbosity(tf.logging.INFO)
    logging.getLogger("tensorflow").propagate = False  # absl's handler would repeat each line.
    runtime.log_release()
    # A graph consists of many objects that stay alive. Searching them for garbage takes another
    # fifth.
    gc.set_threshold(100_000)


def parse_flags(argv: Sequence[str]) -> List[str]:
    """`app.run`'s parser of flags; a sentence also where a flag file cannot be read."""
    try:
        return app.parse_flags_with_usage(argv)
    except (UnicodeDecodeError, RecursionError) as error:
        sys.exit(f"{os.path.basename(argv[0])}: --flagfile: the file cannot be read: {error}.")


@contextlib.contextmanager
def exiting_with_a_sentence(program: str, model_dir: Optional[str] = None):
    """Around a program: after an error that its user can fix, it exits with one sentence.

    Args:
        program: path of the program, whose name starts the sentence.
        model_dir: the directory that the program writes to; None if there is none.
    """
    program = os.path.basename(program)
    try:
        yield
    except peers.LostPeerError as error:
        peers.end_process(error)
    except UserError as error:
        sys.exit(f"{program}: {error}")
    except KeyboardInterrupt:
        print(f"{program}: interrupted.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except interruption.Interrupted as error:
        tf.logging.warning("%s The same command goes on from there.", error)
        sys.exit(interruption.EXIT_STATUS)
    except BrokenPipeError:  # Whoever reads what is printed, like `head`, has enough.
        discard_output()  # Python flushes it.
        sys.exit(128 + signal.SIGPIPE)
    except (OSError, ValueError, tf.errors.OpError) as error:
        explanation = _out_of_memory(error) or storage.explain(error, model_dir)
        if not explanation:
            raise
        sys.exit(f"{program}: {explanation}")


def discard_output():
    """Sends what is printed from here on to nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _out_of_memory(error: Exception) -> Optional[str]:
    """Explains an error in a sentence if a device had no memory left; otherwise returns None."""
    found = re.search(
        r"OOM when allocating (tensor with shape\S+).* on \S*/device:(\w+:\d+)", str(error)
    )
    if not (found and isinstance(error, tf.errors.ResourceExhaustedError)):
        return None
    return (
        f"{found[2]} has no memory left for a {found[1]}. Use a smaller --train_batch_size, or "
        "--eval_batch_size where that fails, and see that no other program uses the device."
    )
