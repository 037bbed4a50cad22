#!/usr/bin/env python
"""Writes docs/flags.md: all flags of amoeba_net.py, as the program itself has them.

python scripts/docs/flags_table.py            writes the page
python scripts/docs/flags_table.py --check    exits with 1 if the page is out of date
"""

import argparse
import os
import re
import sys
from typing import Iterator, Tuple

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from absl import flags

import amoeba_net
import preparation

PAGE = os.path.join(os.path.dirname(amoeba_net.__file__), "docs", "flags.md")

_HEADER = """\
# Flags of amoeba_net.py

Generated from the program by `python scripts/docs/flags_table.py`; do not edit. `tf_hub.py` accepts
the same flags. A flag with an empty default is not set. If a flag is unknown or has an illegal
value, the program names it in one line and exits, before anything is computed. Write a
Boolean as `--name`, `--noname`, or `--name=False`, and a list as `a,b`. A flag that repeats is
given once for each value.
"""


def sections() -> Iterator[Tuple[str, str]]:
    """(heading, flag's name) in the order of the source, whose comments are the headings."""
    heading = ""
    with open(amoeba_net.__file__, encoding="utf-8") as f:
        source = f.read()
    for comment, name in re.findall(
        r'^# (.+)\.$\n(?=_)|^(?:_|flags\.DEFINE_)\w+\(\s*"(\w+)"', source, re.MULTILINE
    ):
        heading = comment or heading
        if name:
            yield heading, name


def default_text(flag: flags.Flag) -> str:
    if flag.default is None or flag.default == []:
        return ""
    if isinstance(flag.default, list):
        return code(",".join(map(str, flag.default)))
    return code(flag.default)


def legal_values(flag: flags.Flag) -> str:
    """What a flag takes: its type, its bounds, and those the program checks itself."""
    if isinstance(flag.parser, flags.EnumParser):
        return ", ".join(map(code, flag.parser.enum_values))
    kind = flag.flag_type()
    if kind == "bool":
        return "True, False"
    names = {"int": "integer", "float": "number", "comma separated list of strings": "list"}
    name = names.get(kind.replace("multi ", ""), "text")
    text = f"{name} {', '.join(bounds(flag))}".strip()
    return text + ", repeats" if kind.startswith("multi ") else text


def bounds(flag: flags.Flag) -> Iterator[str]:
    low = getattr(flag.parser, "lower_bound", None)
    high = getattr(flag.parser, "upper_bound", None)
    if flag.name in preparation.ABOVE_0:
        yield "> 0"
    elif low is not None:
        yield f"≥ {low:g}"
    if flag.name in preparation.BELOW_1:
        yield "< 1"
    elif high is not None:
        yield f"≤ {high:g}"


def code(value) -> str:
    return "`{}`".format(str(value).replace("|", "\\|"))


def page() -> str:
    lines, last = [_HEADER], None
    for heading, name in sections():
        if heading != last:
            lines += [
                f"\n## {heading}\n",
                "| flag | default | legal values | |",
                "|---|---|---|---|",
            ]
            last = heading
        flag = flags.FLAGS[name]
        text = re.sub(r"^<.*?>: |;\s+repeat this option.*", "", flag.help).replace("|", "\\|")
        cells = [f"`--{name}`", default_text(flag), legal_values(flag), text]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="Only compare.")
    arguments = parser.parse_args(argv)
    if not arguments.check:
        with open(PAGE, "w", encoding="utf-8") as f:
            f.write(page())
        return
    with open(PAGE, encoding="utf-8") as f:
        if f.read() != page():
            sys.exit("docs/flags.md is out of date: run python scripts/docs/flags_table.py.")


if __name__ == "__main__":
    main()
