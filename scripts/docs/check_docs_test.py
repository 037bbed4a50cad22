"""The README and the other pages agree with the program; their commands run."""

import glob
import os
import re
import shutil
import subprocess
import sys

import pytest

from scripts.docs import check_docs

_PAGE = """\
<!-- needs: an Ascend 910 -->
```bash
npu-smi info
```

Text with ```code```.

```bash
A=1   # a comment
echo $A \\
  two
```

<!-- takes: 3 minutes -->

```bash
sleep 180
```
"""


@pytest.mark.parametrize("name", check_docs.pages())
def test_pages_agree_with_the_program(name):
    assert list(check_docs.problems(name, check_docs.read(name))) == []


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return check_docs.prepare(str(tmp_path_factory.mktemp("start")))


@pytest.mark.xdist_group("commands of the pages")
@pytest.mark.parametrize("name", check_docs.pages_with_commands())
def test_commands_of_the_pages_run(name, start):
    assert check_docs.run(name, check_docs.read(name), start) == []


@pytest.mark.parametrize("english, chinese", sorted(check_docs.translations().items()))
def test_chinese_pages_have_the_commands_of_the_english_ones(english, chinese):
    def runs(name):
        found = check_docs.blocks(check_docs.read(name))
        return [(block.mark, block.reason, check_docs.commands(block.text)) for block in found]

    assert runs(chinese) == runs(english)


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_readmes_are_short(name):
    assert len(check_docs.read(name).splitlines()) <= 200


def test_what_is_wrong_on_a_page_is_found():
    text = (
        "[a](absent.md) [b](CONTRIBUTING.md) [c](https://example.org/x.md) `scripts/absent.sh` "
        "`tf_hub_test.py::test_absent` `tf_hub_test.py::test_eval_from_hub_equals_evaluation` "
        "--absent --lr --nouse_tpu [d](README.md#absent) [e](#一个标题-too) `common/absent/` "
        "`common/data/` `settings.absent` `UserError.absent` `settings.json` `preparation.check`"
        "\n"
        "## 一个标题, *too*?\n"
        "| `--use_tpu=True: there is no … here` | made up |\n"
        "| `--image_size=… is too small for the network: …` | not made up |\n"
        "| `data_path: there is no directory …` | a shell script's |\n"
    )
    found = [problem.split(" ", 1)[1] for problem in check_docs.problems("README.md", text)]
    assert found == [
        "links to absent.md, which is not there.",
        "links to README.md#absent, a heading that is not there.",
        "names scripts/absent.sh, which is not there.",
        "names test_absent in tf_hub_test.py, which is not there.",
        "names common/absent/, which is not there.",
        "names settings.absent, which is not there.",
        "names UserError.absent, which is not there.",
        "names --absent, which no program here has.",
        "quotes an error that no program here gives: --use_tpu=True: there is no … here",
    ]


def test_blocks_and_their_marks():
    assert [(b.line, b.mark, b.reason) for b in check_docs.blocks(_PAGE)] == [
        (3, "needs", "an Ascend 910"),
        (9, "", ""),
        (17, "takes", "3 minutes"),
    ]
    assert [check_docs.commands(b.text) for b in check_docs.blocks(_PAGE)] == [
        ["npu-smi info"],
        ["A=1", "echo $A two"],
        ["sleep 180"],
    ]


def test_command_that_fails_is_named(tmp_path):
    page = "```bash\ntouch here\n```\n\n```bash\nls here absent\n```\n"
    (problem,) = check_docs.run("PAGE", page, check_docs.Repository(str(tmp_path)))
    assert "PAGE: status" in problem and problem.endswith("line 6: failed\n")
    assert "--- PAGE, line 2" in problem and "here\n" in problem
    assert not list(tmp_path.iterdir())


def test_quick_start_that_fails_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(check_docs, "_NOT_COPIED", shutil.ignore_patterns("*"))
    with pytest.raises(RuntimeError, match="ls absent: status 2"):
        check_docs.prepare(str(tmp_path), "ls absent")


def test_what_is_shown_must_be_printed(tmp_path):
    page = (
        "```bash\necho '99 of 7 (right)'\n```\n\n"
        "```\n0.25 of 3 (right)\n3 of 4 (wrong)\nthe quick start's\n```\n"
    )
    start = check_docs.Repository(str(tmp_path), printed="the quick start's")
    assert check_docs.run("PAGE", page, start) == [
        "PAGE shows a line that no command printed: 3 of 4 (wrong)"
    ]


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.ascend"])
def test_container_recipes_copy_what_is_there(name):
    recipe = check_docs.read(name)
    copied = re.findall(r"^COPY (\S+) \S+$", recipe, re.MULTILINE)
    assert copied and all(glob.glob(os.path.join(check_docs.ROOT, c)) for c in copied)
    ignored = check_docs.read(".dockerignore").split()
    assert ".venv*" in ignored and not set(ignored) & set(copied)
    # What is installed beside an image's own TensorFlow is what this project pins.
    pinned = check_docs.read("requirements.txt") + check_docs.read("requirements-common.txt")
    for package in re.findall(r"[\w-]+==[\d.]+", recipe):
        assert f"\n{package} " in pinned


def test_program_starts_with_what_the_ascend_recipe_installs():
    """Beside TensorFlow and what that needs: other packages are imported where they are used."""
    others = ["jinja2", "numba", "tensorflow_hub", "tensorflow_serving", "tf2onnx", "onnx"]
    others += ["sklearn", "starlette", "uvicorn", "onnxruntime"]
    code = f"import sys; sys.modules.update(dict.fromkeys({others})); import amoeba_net"
    subprocess.run([sys.executable, "-c", code], cwd=check_docs.ROOT, check=True)


def test_container_runs_the_two_commands():
    assert 'CMD ["bash", "scripts/quickstart.sh"]' in check_docs.read("Dockerfile")
    first = check_docs.blocks(check_docs.read(os.path.join("docs", "docker.md")))[0]
    assert check_docs.commands(first.text)[1:] == [
        "docker run --rm amoeba_net",
        "docker run --rm amoeba_net bash scripts/run_tests.sh",
    ]
