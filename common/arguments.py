"""Command lines of the scripts: argparse, but a wrong one ends the program with one sentence."""

import argparse
import math
import os
import re
import sys
from typing import Callable, List, Sequence

from common import files, places


class Parser(argparse.ArgumentParser):
    """A parser whose description is a module's docstring, and whose error exits with status 1."""

    def __init__(self, description: str):
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str):
        sys.exit(f"{self.prog}: {message}; see --help.")

    def add_boolean(self, name: str, default: bool, help: str):
        """Adds a flag that is written `--name`, `--noname`, or `--name=false`."""
        add = self.add_argument
        add(f"--{name}", type=_boolean, nargs="?", const=True, default=default, help=help)
        add(f"--no{name}", dest=name, action="store_false", help=argparse.SUPPRESS)


def integer(low: int, high: float = math.inf) -> Callable[[str], int]:
    """A type of arguments: an integer from low to high."""
    legal = f"from {low} to {high}" if high < math.inf else f"of at least {low}"

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?\d+", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text}: expected an integer {legal}")
        return int(text)

    return parse


def integers(low: int) -> Callable[[str], List[int]]:
    """A type of arguments: integers of at least low, with commas between them."""
    number = integer(low)
    return lambda text: [number(part) for part in text.split(",")]


def some_of(names: Sequence[str]) -> Callable[[str], List[str]]:
    """A type of arguments: some of the names, with commas between them."""

    def parse(text: str) -> List[str]:
        if not set(text.split(",")) <= set(names):
            raise argparse.ArgumentTypeError(f"{text}: expected some of {', '.join(names)}")
        return text.split(",")

    return parse


def place(text: str) -> str:
    """A type of arguments: a path that TensorFlow can open."""
    return _checked(text, has_checkpoints=False)


def output_file(text: str) -> str:
    """A type of arguments: a file that can be written when there is something to write."""
    is_there = os.path.isdir(os.path.dirname(text) or ".") and not os.path.isdir(text)
    if not files.is_remote(text) and not is_there:
        raise argparse.ArgumentTypeError(f"{text}: expected a file in a directory that exists")
    return place(text)


def local_place(text: str) -> str:
    """A type of arguments: a path on this machine that TensorFlow can open."""
    if files.is_remote(text):
        raise argparse.ArgumentTypeError(f"{text} must be a local directory.")
    return place(text)


def checkpoints_place(text: str) -> str:
    """A type of arguments: a path at which checkpoints or SavedModels are, or will be."""
    return _checked(text, has_checkpoints=True)


def _checked(text: str, has_checkpoints: bool) -> str:
    problem = places.problem(text, has_checkpoints)
    if problem:
        raise argparse.ArgumentTypeError(f"{files.printable(text)}: {problem}")
    return text


def _boolean(text: str) -> bool:
    values = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text}: expected true or false")
    return values[text.lower()]
