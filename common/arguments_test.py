"""Tests of the scripts' command lines."""

import argparse

import pytest

from common.arguments import Parser, integer, integers, some_of


@pytest.fixture
def parser():
    parser = Parser("What it does.")
    parser.prog = "program.py"
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--count", type=integer(1, 99), default=5)
    parser.add_boolean("fast", True, "Fast or not.")
    return parser


@pytest.mark.parametrize(
    "flags, count, fast",
    [
        ([], 5, True),
        (["--count=99", "--fast"], 99, True),
        (["--count", "1", "--nofast"], 1, False),
        (["--fast=False"], 5, False),
        (["--nofast", "--fast=true"], 5, True),
    ],
)
def test_spellings(flags, count, fast, parser):
    options = parser.parse_args(["--data_dir=x", *flags])
    assert (options.count, options.fast) == (count, fast)


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "the following arguments are required: --data_dir"),
        (["--data_dir=x", "--count=0"], "argument --count: 0: expected an integer from 1 to 99"),
        (
            ["--data_dir=x", "--count=1.5"],
            "argument --count: 1.5: expected an integer from 1 to 99",
        ),
        (["--data_dir=x", "--fast=maybe"], "argument --fast: maybe: expected true or false"),
        (["--data_dir=x", "--coun=1"], "unrecognized arguments: --coun=1"),
    ],
)
def test_wrong_flags_end_the_program_with_one_sentence(flags, message, parser, capsys):
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(flags)
    assert ended.value.code == f"program.py: {message}; see --help."
    assert not capsys.readouterr().err


def test_lists():
    assert integers(1)("8,16") == [8, 16]
    assert some_of(["a", "b"])("b") == ["b"]
    for parse, text in ((integers(1), "8,0"), (integers(1), "8,"), (some_of("ab"), "a,c")):
        with pytest.raises(argparse.ArgumentTypeError, match="expected"):
            parse(text)
