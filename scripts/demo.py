#!/usr/bin/env python
"""Serves a page on which one tries an exported model: images in, names and activation maps out.

    python scripts/demo.py --saved_model=DIR

DIR is what --mode=export wrote: a SavedModel, or a directory of versions, of which the newest is
taken. The page is for this machine only. With --host=0.0.0.0 everybody who reaches this machine can
open it: there is no password and no encryption, and whoever opens it does so at your own risk.
Ctrl-C ends the program.
"""

import os
import signal
import socket
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from common import files
from common.arguments import Parser, checkpoints_place, integer

_LOCAL = ("127.0.0.1", "localhost")
# Connections at a time; further ones are refused.
_MAX_CONNECTIONS = 200


def main(argv=None):
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    options = parse_arguments(argv)
    if not os.path.isdir(options.saved_model):
        sys.exit(f"demo.py: --saved_model={options.saved_model}: there is no such directory.")
    listener = _listen(options.host, options.port)
    # Here because TensorFlow takes seconds to import, and wrong flags are to be told at once.
    import exported_model
    from common.errors import UserError
    from common.runtime import tf

    tf.logging.set_verbosity(tf.logging.ERROR)
    try:
        directory = exported_model.find(options.saved_model)
        model = exported_model.ExportedModel(directory)
    except UserError as error:
        sys.exit(f"demo.py: {error}")
    _serve(model, os.path.abspath(directory), options.host, listener)


def parse_arguments(argv=None):
    parser = Parser(__doc__)
    add = parser.add_argument
    add(
        "--saved_model",
        type=checkpoints_place,
        required=True,
        help="Directory of a SavedModel, or of versions, of which the newest is taken.",
    )
    add("--host", default="127.0.0.1", help="Address or name to serve on; 0.0.0.0 is every one.")
    add("--port", type=integer(0, 65535), default=8000, help="0 takes any that is free.")
    return parser.parse_args(argv)


def _end(number, frame):
    """Ends the process at once: threads hold nothing that would be lost."""
    os.write(2, b"\ndemo.py: stopped.\n")
    os._exit(0)


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        sys.exit(
            f"demo.py: --host={host} --port={port}: {reason}; give another --port (0 takes any "
            "that is free), or an IPv4 address or a name of this machine as --host."
        )
    return listener


def _serve(model, directory: str, host: str, listener: socket.socket):
    """Serves until a signal ends the process."""
    import uvicorn

    from common.demo import app

    title = os.path.join(os.path.basename(os.path.dirname(directory)), os.path.basename(directory))
    title = files.printable(title)
    is_local = listener.getsockname()[0].startswith("127.")
    hosts = [*_LOCAL, host, listener.getsockname()[0]] if is_local else ["*"]
    application = app.make(lambda upload: _answer(model, upload), title, hosts)
    config = uvicorn.Config(
        application,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        loop="asyncio",
        http="h11",
        ws="none",
        limit_concurrency=_MAX_CONNECTIONS,
    )
    # Not in this thread, in which uvicorn would wait for open connections after a signal.
    thread = threading.Thread(
        target=uvicorn.Server(config).run, kwargs={"sockets": [listener]}, daemon=True
    )
    thread.start()
    port = listener.getsockname()[1]
    shown = socket.gethostname() if host == "0.0.0.0" else host
    place = files.printable(directory)
    print(f"{place}: open http://{shown}:{port}/ in a browser; Ctrl-C ends this program.")
    if is_local:
        print(
            "The page is for this machine only. --host=0.0.0.0 opens it to everybody who reaches "
            "this machine, without a password, at your own risk."
        )
    else:
        print("The page is open to everybody who reaches this machine, at your own risk.")
    sys.stdout.flush()
    thread.join()
    sys.exit("demo.py: the server has ended.")


def _answer(model, upload):
    """The page's JSON for an image that has been decoded."""
    from common.data import image_files
    from common.runtime import tf

    try:
        misread = image_files.is_misread(upload.encoded)
        found = model.explain(upload.jpeg if misread else upload.encoded)
    except tf.errors.OpError:
        # A format that TensorFlow does not read.
        found = model.explain(upload.jpeg)
    return {
        "classes": [
            {"class": label, "name": model.names[label], "probability": probability}
            for label, probability in zip(found.classes, found.probabilities)
        ],
        "maps": found.maps.tolist(),
    }


if __name__ == "__main__":
    main()
