"""The README and the other pages agree with the program; their commands run."""

import os
import re

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


def test_commands_of_the_readme_run():
    assert check_docs.run(check_docs.read("README.md"), "README.md", run_all=False) == []


def test_chinese_readme_has_the_english_ones_commands():
    english, chinese = map(check_docs.read, ("README.md", "README.zh-CN.md"))
    marks = {}
    for block in check_docs.blocks(english):
        for command in check_docs.commands(f"```bash\n{block.text}```\n"):
            marks[command] = block.mark, block.reason
    found = {}
    for block in check_docs.blocks(chinese):
        for command in check_docs.commands(f"```bash\n{block.text}```\n"):
            found[command] = block.mark, block.reason
            variables = set(re.findall(r"\$(DATA|MODEL|RECIPE)\b", command))
            assert all(any(f"{v}=" in earlier for earlier in found) for v in variables), command
    assert found.items() <= marks.items()


def test_what_is_wrong_on_a_page_is_found():
    text = (
        "[a](absent.md) [b](CONTRIBUTING.md) [c](https://example.org/x.md) `scripts/absent.sh` "
        "`golden_test.py::test_absent` `golden_test.py::test_evaluation` --absent --lr --nouse_tpu"
        "\n"
        "| `--use_tpu=True: there is no … here` | made up |\n"
        "| `--image_size=… is too small for the network: …` | not made up |\n"
    )
    found = [problem.split(" ", 1)[1] for problem in check_docs.problems("README.md", text)]
    assert found == [
        "links to absent.md, which is not there.",
        "names scripts/absent.sh, which is not there.",
        "names test_absent in golden_test.py, which is not there.",
        "names --absent, which no program here has.",
        "quotes an error that no program here gives: --use_tpu=True: there is no … here",
    ]


def test_blocks_and_their_marks():
    assert [(b.line, b.mark, b.reason) for b in check_docs.blocks(_PAGE)] == [
        (3, "needs", "an Ascend 910"),
        (9, "", ""),
        (17, "takes", "3 minutes"),
    ]
    assert check_docs.commands(_PAGE) == {"npu-smi info", "A=1", "echo $A two", "sleep 180"}


def test_command_that_fails_is_named(monkeypatch):
    monkeypatch.setattr(check_docs, "_QUICK_START", "true")
    page = "```bash\nls scripts\n```\n\n```bash\nls golden_test.py absent\n```\n"
    (problem,) = check_docs.run(page, "PAGE", run_all=False)
    assert "PAGE: status" in problem and problem.endswith("line 6: failed\n")
    assert "--- PAGE, line 2" in problem and "golden_test.py" in problem


def test_what_is_shown_must_be_printed(monkeypatch):
    monkeypatch.setattr(check_docs, "_QUICK_START", "true")
    page = "```bash\necho '99 of 7 (right)'\n```\n\n```\n0.25 of 3 (right)\n3 of 4 (wrong)\n```\n"
    assert check_docs.run(page, "PAGE", run_all=False) == [
        "PAGE shows a line that no command printed: 3 of 4 (wrong)"
    ]


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.ascend"])
def test_container_recipes_copy_what_is_there(name):
    recipe = check_docs.read(name)
    copied = re.findall(r"^COPY (\S+) \S+$", recipe, re.MULTILINE)
    assert copied and all(os.path.exists(os.path.join(check_docs.ROOT, c)) for c in copied)
    ignored = check_docs.read(".dockerignore").split()
    assert ".venv" in ignored and not set(ignored) & set(copied)
    # What is installed beside an image's own TensorFlow is what this project pins.
    for package in re.findall(r"[\w-]+==[\d.]+", recipe):
        assert f"\n{package} " in check_docs.read("requirements.txt")


def test_container_runs_the_two_commands():
    assert 'CMD ["bash", "scripts/quickstart.sh"]' in check_docs.read("Dockerfile")
    assert {
        "docker run --rm amoeba_net",
        "docker run --rm amoeba_net bash scripts/run_tests.sh",
    } < (check_docs.commands(check_docs.read(os.path.join("docs", "docker.md"))))
