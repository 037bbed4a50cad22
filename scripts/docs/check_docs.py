#!/usr/bin/env python
"""Checks that the README and the pages under docs/ are true: links, files, flags, errors, commands.

    python scripts/docs/check_docs.py                       compare; run all pages' quick commands
    python scripts/docs/check_docs.py --page=docs/data.md   run the commands of this page only
    python scripts/docs/check_docs.py --all                 also run commands that take minutes
    python scripts/docs/check_docs.py --list                list the commands and what they need

The commands are the ```bash blocks of a page. One shell runs them in order, in a copy of the
repository in which the quick start has been run. A comment before a block says why it is left out:

    <!-- takes: 2 minutes -->        run with --all only
    <!-- needs: an Ascend 910 -->    never run

Blocks without a language show what the quick commands print; the numbers may differ. The pages in
Chinese have the same commands as the English ones, so only the English ones are run by default.
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
from typing import Dict, Iterator, List, NamedTuple, Set

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# What the commands of every page start from.
_QUICK_START = "bash scripts/quickstart.sh"
_SHORT_QUICK_START = "bash scripts/quickstart.sh 1 --train_steps=2"
_NOT_COPIED = shutil.ignore_patterns(
    *(".git", ".venv*", ".ruff_cache", "__pycache__", "output", "quickstart_run"),
    "imagenet_model_*",
)
_NUMBER = r"\d+(?:\.\d+)?"
_FILE = r"(?:[\w.-]+/)*[\w.-]+\.(?:py|sh|md|flags|yaml|tsv)"
_DIRECTORY = r"(?:common|docs|test)/(?:[\w.-]+/)*"
_EXTENSIONS = {"csv", "flags", "json", "log", "md", "pb", "png", "py", "sh", "tsv", "txt", "yaml"}
_TRANSLATIONS = {"README.md": "README.zh-CN.md"}
_NOT_TRANSLATED = "docs/flags.md"  # Generated.
# Of programs that are not here.
_FOREIGN_FLAGS = {
    *("build", "device", "fix", "gpus", "help", "helpfull", "logdir", "model_base_path", "rm"),
    *("soc_version", "use_bp16", "export_to_tpu", "tf_hub_mode", "export_path"),
    *("tpu", "gcp_project", "tpu_zone"),
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


def commands(text: str) -> List[str]:
    """The commands of a block without their comments, each on one line."""
    lines = (
        re.sub(r"(^|\s)#.*", "", line).split() for line in text.replace("\\\n", " ").split("\n")
    )
    return [" ".join(words) for words in lines if words]


# Comparing ---------------------------------------------------------------------------------------


def pages() -> List[str]:
    """All pages, as paths in the repository; without those that git does not know: the user's."""
    found = []
    for pattern in ("*.md", "docs/**/*.md", "test/**/*.md"):
        found += sorted(glob.glob(os.path.join(ROOT, pattern), recursive=True))
    names = [os.path.relpath(path, ROOT) for path in found]
    # Within another repository, which need not know any page, there is none of ours.
    if not (os.path.exists(os.path.join(ROOT, ".git")) and shutil.which("git")):
        return names
    command = ["git", "-C", ROOT, "ls-files", "--others", "--exclude-standard", "*.md"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [name for name in names if name not in done.stdout.splitlines()]


def translations() -> Dict[str, str]:
    """The English pages that have to have a Chinese one, and its path."""
    found = {}
    for name in pages():
        if name in _TRANSLATIONS:
            found[name] = _TRANSLATIONS[name]
        elif os.path.dirname(name) == "docs" and name != _NOT_TRANSLATED:
            found[name] = os.path.join("docs", "zh-CN", os.path.basename(name))
    return found


def problems(name: str, text: str) -> Iterator[str]:
    """What a page says and is not so; `name` is its path in the repository."""
    for check in (_link_problems, _file_problems, _name_problems, _flag_problems, _error_problems):
        yield from (f"{name} {problem}" for problem in check(name, text))


def _link_problems(name, text):
    directory = os.path.dirname(name)
    for link, anchor in re.findall(r"(?:\]\(|src=\")(?!https?:)([^)#\"]*)(?:#([^)\"]+))?", text):
        path = os.path.normpath(os.path.join(directory, link)) if link else name
        if not os.path.exists(os.path.join(ROOT, path)):
            yield f"links to {link}, which is not there."
        elif anchor and anchor not in anchors(text if path == name else read(path)):
            yield f"links to {link}#{anchor}, a heading that is not there."


def anchors(text: str) -> Set[str]:
    """The names that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _file_problems(name, text):
    directory = os.path.join(ROOT, os.path.dirname(name))
    for path, test in re.findall(rf"`({_FILE}|{_DIRECTORY})(?:::(\w+))?`", text):
        if path in program_texts():  # Made by a program.
            continue
        if not any(os.path.exists(os.path.join(d, path)) for d in (ROOT, directory)):
            yield f"names {path}, which is not there."
        elif test and f"def {test}(" not in read(path):
            yield f"names {test} in {path}, which is not there."


def _name_problems(name, text):
    """Functions and attributes of the modules and classes that are here."""
    for owner, attribute in re.findall(r"`(\w+)\.(\w+)(?:\(\))?`", text):
        if owner not in modules_and_classes() or attribute in _EXTENSIONS:
            continue
        texts = modules_and_classes()[owner]
        if not any(re.search(rf"\b{attribute}\b", text) for text in texts):
            yield f"names {owner}.{attribute}, which is not there."


def _flag_problems(name, text):
    known = {text.lstrip("-") for text in program_texts()} | _FOREIGN_FLAGS
    for flag in sorted(set(re.findall(r"(?<![\w-])--(\w+)", text))):
        if flag not in known and re.sub("^no", "", flag) not in known:
            yield f"names --{flag}, which no program here has."


def _error_problems(name, text):
    for error in re.findall(r"^\| `([^`]+ [^`]+)` \|", text, re.MULTILINE):
        if not any(error.strip("… ") in known for known in program_texts()):
            yield f"quotes an error that no program here gives: {error}"


def read(name: str) -> str:
    with open(os.path.join(ROOT, name), encoding="utf-8") as f:
        return f.read()


@functools.lru_cache()
def sources() -> Dict[str, str]:
    """The text of every module that is not a test, by its path in the repository."""
    found = {}
    for pattern in ("*.py", "common/**/*.py", "scripts/**/*.py"):
        for path in glob.glob(os.path.join(ROOT, pattern), recursive=True):
            if not path.endswith("_test.py"):
                name = os.path.relpath(path, ROOT)
                found[name] = read(name)
    return found


@functools.lru_cache()
def modules_and_classes() -> Dict[str, List[str]]:
    """The texts that define a name: a module's own, and those with a class of that name."""
    found = {}
    for path, text in sources().items():
        names = {os.path.splitext(os.path.basename(path))[0]}
        for name in names | set(re.findall(r"^class (\w+)", text, re.MULTILINE)):
            found.setdefault(name, []).append(text)
    return found


@functools.lru_cache()
def program_texts() -> Set[str]:
    """All texts in the programs, with … for what is filled in; and the scripts' arguments."""
    found = set()
    for text in sources().values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(getattr(value, "s", "…") for value in node.values))
            elif isinstance(node, ast.Str):
                found.add(re.sub(r"%[sdg]", "…", node.s))
    for path in glob.glob(os.path.join(ROOT, "scripts", "*.sh")):
        found.update(re.findall(r"--(\w+)=", read(path)))
        for text in re.findall(r'"([^"\n]*)"', read(path)):
            found.add(re.sub(r"\$(?:\w+|\{[^}]*\}|\([^)]*\))", "…", text))
    return found


# Running -----------------------------------------------------------------------------------------


class Repository(NamedTuple):
    """A copy of the repository, and what the commands run in it have printed."""

    path: str
    printed: str = ""


def prepare(directory: str, command: str = _SHORT_QUICK_START) -> Repository:
    """Copies the repository and runs the quick start there.

    Raises:
        RuntimeError: it fails; with the end of what it printed.
    """
    path = os.path.join(directory, "repository")
    shutil.copytree(ROOT, path, symlinks=True, ignore=_NOT_COPIED)
    environment = sys.prefix if sys.prefix != sys.base_prefix else os.path.join(ROOT, ".venv")
    os.symlink(environment, os.path.join(path, ".venv"))
    status, printed = _bash(command, path)
    if status:
        raise RuntimeError(f"{command}: status {status}. {_end(printed)}")
    return Repository(path, printed)


def run(name: str, page: str, start: Repository, run_all: bool = False) -> List[str]:
    """Runs a page's commands in a copy of `start`.

    Returns:
        The command that failed, or the lines that the page shows and no command printed.
    """
    script = ["set -eo pipefail", "trap 'echo \"line $line: failed\"' ERR"]
    for block in blocks(page):
        if block.mark != "needs" and (run_all or block.mark != "takes"):
            script += [f"line={block.line}", f"echo '--- {name}, line {block.line}'", block.text]
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "repository")
        shutil.copytree(start.path, path, symlinks=True)
        status, printed = _bash("\n".join(script), path)
    if status:
        return [f"{name}: status {status}. {_end(printed)}"]
    printed += start.printed
    return [
        f"{name} shows a line that no command printed: {line}"
        for line in shown_lines(page)
        if not re.search(_NUMBER.join(map(re.escape, re.split(_NUMBER, line))), printed)
    ]


def _bash(script, directory):
    # What would have the quick start make the environment anew, to which .venv there is a link.
    setting = ("RUNTIME", "VENV", "PYTHON", "GPU")
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=directory,
        env={name: value for name, value in os.environ.items() if name not in setting},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.decode(errors="replace")


def _end(printed):
    return f"The end of what was printed:\n{printed[-3000:]}"


def shown_lines(page: str) -> List[str]:
    """The lines of blocks without a language."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [line for language, text in fences if not language for line in text.splitlines()]


def pages_with_commands(run_all: bool = False) -> List[str]:
    """The English pages of which at least one command is run."""
    left_out = {"needs"} if run_all else {"needs", "takes"}
    translated = set(translations().values())
    return [
        name
        for name in pages()
        if name not in translated and any(b.mark not in left_out for b in blocks(read(name)))
    ]


def list_blocks(page: str, name: str):
    for block in blocks(page):
        mark = f"{block.mark} {block.reason}" if block.mark else "quick"
        print(f"{name}, line {block.line} ({mark}):\n{block.text}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="append", help="Page whose commands to run; repeats.")
    parser.add_argument("--all", action="store_true", help="Run commands that take minutes too.")
    parser.add_argument("--list", action="store_true", help="Only list the commands.")
    arguments = parser.parse_args(argv)
    names = arguments.page or pages_with_commands(arguments.all)
    if arguments.list:
        for name in arguments.page or pages():
            list_blocks(read(name), name)
        return
    found = [problem for name in pages() for problem in problems(name, read(name))]
    with tempfile.TemporaryDirectory() as directory:
        start = prepare(directory, _QUICK_START if arguments.all else _SHORT_QUICK_START)
        for name in names:
            print(f"Running the commands of {name}.", flush=True)
            found += run(name, read(name), start, arguments.all)
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
