#!/usr/bin/env python
"""Fuzzes what reads files from elsewhere, guided by coverage, until something breaks.

    python scripts/faults/fuzz.py --target=tar --seconds=60 --seed=1

It needs atheris: pip install atheris==3.0.0, on Python 3.11. The targets are in fuzzing/.
Any error but a UserError, a hang, or more than --memory MiB end the program, and the input is kept
as a file in --corpus or in the current directory. A hang is a minute of the processor's time, or an
hour by the clock. Such a file, or any other, is tried alone with --input=FILE, which does not need
atheris.

It prints the number of inputs, the coverage (branches of Python code that were reached), and the
corpus (inputs that reached something new).
"""

import argparse
import ctypes
import faulthandler
import glob
import os
import random
import signal
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Of the code whose branches count; TensorFlow's Python is the same for all inputs.
_INSTRUMENTED = ("PIL", "common", "imagenet_records", "prediction", "scripts")
# By the clock. Short alarms would be false where the process is stopped, and could come while
# Python ends after an error: the process would then die before the fuzzer writes the input.
_ALARM_SECONDS = 3600
_LONGEST_INPUT = 1 << 20


def main(argv=None):
    arguments = parse_arguments(argv)
    with tempfile.TemporaryDirectory() as directory:
        if arguments.input:
            target = make_target(arguments.target, directory)
            with open(arguments.input, "rb") as file:
                target.run(file.read())
            print("No crash, no hang.")
            return
        fuzz(arguments, directory)


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--target", required=True, help="Name of a target, see fuzzing/__init__.py.")
    add("--seconds", type=int, default=60)
    add("--seed", type=int, default=1)
    add("--memory", type=int, default=4096, help="MiB that the process may take.")
    add("--corpus", help="Folder of inputs, which grows. Default: none is kept.")
    add("--input", help="Run this one input only.")
    return parser.parse_args(argv)


def make_target(name: str, directory: str):
    from scripts.faults import fuzzing  # Not before the fuzzer can instrument it.

    if name not in fuzzing.TARGETS:
        sys.exit(f"--target={name}: expected one of {', '.join(fuzzing.TARGETS)}.")
    return fuzzing.TARGETS[name](directory)


def fuzz(arguments, directory: str):
    """Does not return: the fuzzer ends the process."""
    try:
        import atheris
    except ImportError as error:
        sys.exit(f"{error}: pip install atheris==3.0.0, on Python 3.11.")

    with atheris.instrument_imports(include=_INSTRUMENTED):
        from PIL import Image

        from scripts.faults import fuzzing  # noqa: F401 (see `make_target`)
        from scripts.faults.fuzzing.target import end_hangs

        Image.init()  # Imports what reads the formats.

    target = make_target(arguments.target, directory)
    corpus = arguments.corpus or os.path.join(directory, "corpus")
    os.makedirs(corpus, exist_ok=True)
    seeds = list(target.seeds())
    for number, seed in enumerate(seeds):
        with open(os.path.join(corpus, f"seed_{number:03d}"), "wb") as file:
            file.write(seed)
    print(f"{arguments.target}: {len(glob.glob(f'{corpus}/seed_*'))} seeds.", flush=True)

    def run(data: bytes):
        end_hangs()
        target.run(data)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.2:  # Bytes, too: the fuzzer knows what they are compared with.
            return atheris.Mutate(data, max_size)
        # Seeds that reach nothing new, since TensorFlow's code does not count, are not kept.
        if rng.random() < 0.2:
            data = rng.choice(seeds)
        return target.mutate(rng, bytes(data))[:max_size]

    options = {
        "max_total_time": arguments.seconds,
        "seed": arguments.seed,
        "timeout": _ALARM_SECONDS,
        "rss_limit_mb": arguments.memory,
        "max_len": _LONGEST_INPUT,
        "print_final_stats": 1,
        "artifact_prefix": os.path.join(arguments.corpus or ".", ""),
    }
    flags = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *flags, corpus], run, custom_mutator=mutate)
    _make_hangs_crashes()
    atheris.Fuzz()


def _make_hangs_crashes():
    """SIGPROF prints where Python is, and aborts, for which the fuzzer keeps the input."""
    libc = ctypes.CDLL(None)
    # Not signal.signal: Python's handlers wait until the code that hangs returns to Python.
    libc.signal(signal.SIGPROF, ctypes.cast(libc.abort, ctypes.c_void_p))
    faulthandler.register(signal.SIGPROF, chain=True)


if __name__ == "__main__":
    main()
