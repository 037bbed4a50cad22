#!/usr/bin/env python
"""Checks that the README and the other pages are true: files, tests, flags, errors, commands.

    python scripts/docs/check_docs.py                  compares, and runs README.md's quick commands
    python scripts/docs/check_docs.py --all            and those that take minutes
    python scripts/docs/check_docs.py --list           says what would be run, and what needs what
    python scripts/docs/check_docs.py --page=README.zh-CN.md

Commands are the ```bash blocks of a page, run in their order by one shell in a copy of the
repository. A comment before a block says why it is left out:

    <!-- takes: 2 minutes -->        run with --all only
    <!-- needs: an Ascend 910 -->    never run

Blocks without a language show what quick commands print; the numbers may be others.
"""

import argparse
import ast
import functools
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
from typing import Iterator, List, NamedTuple, Set

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# The result that the other commands need, without most of its training.
_QUICK_START = "bash scripts/quickstart.sh 1 --train_steps=2"
_NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", ".ruff_cache", "__pycache__", "output", "quickstart_run"
)
_NUMBER = r"\d+(?:\.\d+)?"
# Of programs that are not here.
_FOREIGN_FLAGS = {
    *("build", "device", "fix", "help", "helpfull", "logdir", "model_base_path", "rm"),
    "soc_version",
}


class Block(NamedTuple):
    """The commands of one ```bash block."""

    line: int
    text: str
    mark: str  # 'takes', 'needs' or ''.
    reason: str


def blocks(page: str) -> List[Block]:
    """The commands of a page, in order."""
    pattern = r"(?:^<!-- (takes|needs): (.+?) -->\n+)?^```bash\n(.*?)^```$"
    return [
        Block(
            line=page.count("\n", 0, match.start(3)) + 1,
            text=match.group(3),
            mark=match.group(1) or "",
            reason=match.group(2) or "",
        )
        for match in re.finditer(pattern, page, re.MULTILINE | re.DOTALL)
    ]


def commands(page: str) -> Set[str]:
    """A page's commands without their comments, each on one line."""
    text = "".join(block.text for block in blocks(page)).replace("\\\n", " ")
    lines = (re.sub(r"(^|\s)#.*", "", line).split() for line in text.split("\n"))
    return {" ".join(words) for words in lines if words}


# Comparing ---------------------------------------------------------------------------------------


def pages() -> List[str]:
    """All pages, as paths in the repository."""
    return [
        os.path.relpath(path, ROOT)
        for pattern in ("*.md", "docs/*.md", "test/*/*.md")
        for path in sorted(glob.glob(os.path.join(ROOT, pattern)))
    ]


def problems(name: str, text: str) -> Iterator[str]:
    """What a page says and is not so; `name` is its path in the repository."""
    directory = os.path.join(ROOT, os.path.dirname(name))
    for link in re.findall(r"(?:\]\(|src=\")(?!https?:)([^)#\"]+)", text):
        if not os.path.exists(os.path.join(directory, link)):
            yield f"{name} links to {link}, which is not there."
    texts = program_texts()
    for path, test in re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|sh|md))(?:::(\w+))?`", text):
        if path in texts:  # Made by a program.
            continue
        if not any(os.path.exists(os.path.join(d, path)) for d in (ROOT, directory)):
            yield f"{name} names {path}, which is not there."
        if test and f"def {test}(" not in read(path):
            yield f"{name} names {test} in {path}, which is not there."
    known_flags = {text.lstrip("-") for text in texts} | _FOREIGN_FLAGS
    for flag in sorted(set(re.findall(r"(?<![\w-])--(\w+)", text))):
        if flag not in known_flags and re.sub("^no", "", flag) not in known_flags:
            yield f"{name} names --{flag}, which no program here has."
    for error in re.findall(r"^\| `([^`]+ [^`]+)` \|", text, re.MULTILINE):
        if not any(error.strip("… ") in known for known in texts):
            yield f"{name} quotes an error that no program here gives: {error}"


def read(name: str) -> str:
    with open(os.path.join(ROOT, name), encoding="utf-8") as f:
        return f.read()


@functools.lru_cache()
def program_texts() -> Set[str]:
    """All texts in the programs, with … for what is filled in; and the scripts' arguments."""
    found = set()
    for pattern in ("*.py", "common/**/*.py", "scripts/**/*.py"):
        for path in glob.glob(os.path.join(ROOT, pattern), recursive=True):
            if path.endswith("_test.py"):
                continue
            for node in ast.walk(ast.parse(read(path))):
                if isinstance(node, ast.JoinedStr):
                    found.add("".join(getattr(value, "s", "…") for value in node.values))
                elif isinstance(node, ast.Str):
                    found.add(re.sub(r"%[sdg]", "…", node.s))
    for path in glob.glob(os.path.join(ROOT, "scripts", "*.sh")):
        found.update(re.findall(r"--(\w+)=", read(path)))
    return found


# Running -----------------------------------------------------------------------------------------


def run(page: str, name: str, run_all: bool) -> List[str]:
    """Runs a page's commands in a copy of the repository; says what failed, or is shown wrongly."""
    script = ["set -eo pipefail", "trap 'echo \"line $line: failed\"' ERR"]
    if not run_all:
        script += ["line='quick start'", _QUICK_START]
    for block in blocks(page):
        if block.mark != "needs" and (run_all or block.mark != "takes"):
            script += [f"line={block.line}", f"echo '--- {name}, line {block.line}'", block.text]
    with tempfile.TemporaryDirectory() as directory:
        copy = os.path.join(directory, "repository")
        shutil.copytree(ROOT, copy, symlinks=True, ignore=_NOT_COPIED)
        os.symlink(os.path.join(ROOT, ".venv"), os.path.join(copy, ".venv"))
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            cwd=copy,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    printed = done.stdout.decode(errors="replace")
    if done.returncode:
        end = printed[-3000:]
        return [f"{name}: status {done.returncode}. The end of what was printed:\n{end}"]
    return [
        f"{name} shows a line that no command printed: {line}"
        for line in shown_lines(page)
        if not re.search(_NUMBER.join(map(re.escape, re.split(_NUMBER, line))), printed)
    ]


def shown_lines(page: str) -> List[str]:
    """The lines of blocks without a language."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [line for language, text in fences if not language for line in text.splitlines()]


def list_blocks(page: str, name: str):
    for block in blocks(page):
        mark = f"{block.mark} {block.reason}" if block.mark else "quick"
        print(f"{name}, line {block.line} ({mark}):\n{block.text}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", default="README.md", help="Whose commands to run.")
    parser.add_argument("--all", action="store_true", help="Run commands that take minutes too.")
    parser.add_argument("--list", action="store_true", help="Only list the commands.")
    arguments = parser.parse_args(argv)
    page = read(arguments.page)
    if arguments.list:
        list_blocks(page, arguments.page)
        return
    found = [problem for name in pages() for problem in problems(name, read(name))]
    found += run(page, arguments.page, arguments.all)
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
