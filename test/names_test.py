"""Names that are hard to bear, of classes, files, and directories, go through every program.

All programs work on the same tiny training, in directories of such names, and say of the names what
UTF-8 can hold. What they write, and where, and who may read it, is watched meanwhile.
"""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request

import helpers
import pytest
import training_scripts
from helpers import ROOT, TINY, Ended, command, encode, flags, noise, run

import exported_model
import preparation
from common import files, results
from common.data import tfrecords
from common.errors import UserError
from scripts import build_tfrecords, check_data, compare_runs, demo, extract_images, fine_tune

# The programs run in one process, which looks in the end at all that they wrote.
pytestmark = pytest.mark.xdist_group("names")

# Those of folders, and the names of the classes that they become.
_CLASSES = {
    **{n: n for n in ("two words", 'it\'s "one"', "<script>alert(1)<script>", "a,b;=1+1", "=1+1")},
    **{n: n for n in ("+x", "@x", "-x", "--help", "$HOME", "`id`", "*?[a]", "~", "%s {} \\n")},
    **{"猫" * 85: "猫" * 85, "new\nline": "new\\nline", "\udcff\udcfe": "\\xff\\xfe"},
    "\x1b[31m": "\\x1b[31m",
}
_IMAGES = (
    "a.jpg",
    "-rf.jpg",
    "new\nline.jpg",
    "\udcff\udcfe.jpg",
    "=cmd,x.jpg",
    "x" * 251 + ".jpg",
)
# Where there are checkpoints, TensorFlow takes characters like [ for a pattern.
_PLACE = 'it\'s a "place" $HOME `id` ~;&#%s,=1\n中文'
_PATTERN = "[a-c]*?"
_ELSEWHERE = ("home", "tmp", "current")
_UMASK = 0o027
_FORMULA = re.compile(r"[=+@\t\r\n-]")


class _Place:
    """A directory of a hard name in which programs work.

    Attributes:
        path: the directory.
        elsewhere: where a program would write that wrote anywhere else: its home, its temporary
            and its current directory.
    """

    def __init__(self, root: str):
        self.path = os.path.join(root, _PLACE)
        self.elsewhere = os.path.join(root, "elsewhere")
        os.makedirs(self.path)
        for name in _ELSEWHERE:
            os.makedirs(os.path.join(self.elsewhere, name))

    def __call__(self, *names: str) -> str:
        """The path of something in the directory."""
        return os.path.join(self.path, *names)

    def run(self, program: str, *arguments, **options) -> Ended:
        """Runs a program whose streams take no more than UTF-8, as in most people's locales."""
        environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
        environment["HOME"] = os.path.join(self.elsewhere, "home")
        environment["TMPDIR"] = os.path.join(self.elsewhere, "tmp")
        ended = run(
            *(program, *arguments),
            env=environment,
            preexec_fn=lambda: os.umask(_UMASK),
            **{"cwd": os.path.join(self.elsewhere, "current"), **options},
        )
        assert "Traceback" not in ended.log, ended.log
        return ended


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The place, with images in folders of hard names, converted."""
    place = _Place(str(tmp_path_factory.mktemp("names")))
    number = 0
    for folder in _CLASSES:
        os.makedirs(place("images", folder))
        for name in _IMAGES:
            number += 1
            with open(place("images", folder, name), "wb") as file:
                file.write(encode(noise(number, 20)))
    shards = ["--num_train_shards=2", "--num_validation_shards=1", "--workers=1"]
    source, output = place("images"), place(f"data {_PATTERN}")
    arguments = [f"--source_dir={source}", f"--output_dir={output}", *shards]
    place.run("scripts/build_tfrecords.py", *arguments)
    yield place
    # What all tests' programs have left.
    _assert_nothing_is_elsewhere(place)
    _assert_permissions_are_the_umasks(place)


def _model_flags(place, **values):
    common = {"data_dir": place(f"data {_PATTERN}"), "accelerator": "cpu", "eval_batch_size": 18}
    return flags({**TINY, **common, **values})


@pytest.fixture(scope="module")
def trained(place):
    """The place, with a training, and the report of its evaluation."""
    directories = {"model_dir": place("model"), "report_dir": place(f"report {_PATTERN}")}
    steps = {"train_batch_size": 45, "save_checkpoints_steps": 1, "keep_checkpoint_max": 1}
    arguments = _model_flags(place, **directories, **steps, lr=0.01, num_epochs=1)
    place.run("amoeba_net.py", "--mode=train_and_eval", *arguments)
    return place


def test_data_set_is_made_checked_and_taken_apart_again(place):
    data = place(f"data {_PATTERN}")
    names = tfrecords.read_labels(data)
    assert names == ["background", *(_CLASSES[folder] for folder in sorted(_CLASSES))]
    assert "sound." in place.run("scripts/check_data.py", f"--data_dir={data}", "--workers=1").out
    for split in tfrecords.SPLITS:
        arguments = [f"--data_dir={data}", f"--output_dir={place('again')}", f"--split={split}"]
        place.run("scripts/extract_images.py", *arguments)
    folders = {name.replace("/", "_") for name in names[1:]}
    assert set(os.listdir(place("again"))) == folders
    for folder, name in _CLASSES.items():
        assert _contents(place("again", name)) == _contents(place("images", folder))


def _contents(folder):
    found = []
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as file:
            found.append(file.read())
    return sorted(found)


def test_folders_of_classes_are_different_and_inside():
    names = ["background", "crane", "crane", "..", ".", ".hidden", "a/../b", "x\0y", "猫" * 100]
    found = extract_images.folder_names(names)
    assert found[:8] == ["background", "crane", "crane_2", "_.", "_", "_hidden", "a_.._b", "x_y"]
    assert len(os.fsencode(found[8])) <= 255 and found[8].startswith("猫" * 80)


def test_report_shows_names_and_runs_none_of_them(trained):
    with open(trained(f"report {_PATTERN}", "report.html"), encoding="utf-8") as file:
        page = file.read()
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert "\\xff\\xfe" in page and "new\\nline" in page
    with open(trained(f"report {_PATTERN}", "report.json"), encoding="utf-8") as file:
        report = json.load(file)
    assert report["data_dir"] == trained(f"data {_PATTERN}")
    (record,) = results.evaluations(trained("model"))
    assert record["metrics"]["images"] == len(_CLASSES)


def test_evaluation_alone(trained):
    directories = {"model_dir": trained("two words"), "report_dir": trained(f"alone {_PATTERN}")}
    best = trained("model", "best")
    arguments = _model_flags(trained, checkpoint_path=best, **directories)
    trained.run("amoeba_net.py", "--mode=eval", *arguments)
    (record,) = results.evaluations(trained("two words"))
    (trainings,) = results.evaluations(trained("model"))
    assert record["metrics"] == pytest.approx(trainings["metrics"], rel=1e-5)
    with open(trained(f"alone {_PATTERN}", "report.html"), encoding="utf-8") as file:
        assert "&lt;script&gt;alert(1)" in file.read()


def test_comparison_of_runs(trained):
    os.symlink(trained("model"), trained("=1+1 $x^$"))
    table, picture = trained(f"runs {_PATTERN}.csv"), trained(f"{'x' * 251}.png")
    runs = [trained("model"), trained("=1+1 $x^$")]
    trained.run("scripts/compare_runs.py", runs[1], f"--csv={table}", f"--plot={picture}")
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows] == ["run", "'=1+1 $x^$"]
    assert os.path.getsize(picture) > 1000


def test_predictions(trained):
    model = _model_flags(trained, model_dir=trained("model"))
    arguments = [*model, f"--image_paths={trained('images', '=1+1')}"]
    arguments.append(f"--image_paths={trained('images')}/*?[[]a]/*.jpg")
    table, lines = trained(f"answers {_PATTERN}.csv"), trained("answers")
    explain = [f"--explain_dir={trained('explained')}", f"--predictions_file={table}"]
    said = trained.run("amoeba_net.py", "--mode=predict", *arguments, *explain).out
    assert "/=1+1/\\xff\\xfe.jpg\n" in said and "/=1+1/new\\nline.jpg\n" in said
    pictures = os.listdir(trained("explained"))
    assert len(pictures) == 2 * len(_IMAGES)
    with open(table, encoding="utf-8", newline="") as file:
        text = file.read()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {_FORMULA.match(cell) for row in rows for cell in row.values()} == {None}
    assert not re.search(r";=", re.sub(r'"(""|[^"])*"', "", text))  # Where ; ends a cell.
    paths = {os.path.relpath(row["path"], trained("images")) for row in rows}
    assert {"=1+1/new\nline.jpg", "=1+1/\\xff\\xfe.jpg", "*?[a]/=cmd,x.jpg"} <= paths

    # A checkpoint alone, and files whose names look like flags, from their own directory.
    arguments = _model_flags(trained, checkpoint_path=trained("model", "best"))
    images = ["--image_paths=-rf.jpg", "--image_paths=x,missing?.jpg"]
    trained.run(
        *("amoeba_net.py", "--mode=predict", *arguments, *images, f"--predictions_file={lines}"),
        cwd=trained("images", "-x"),
        status=1,
    )
    with open(lines, encoding="utf-8") as file:
        answers = [json.loads(line) for line in file]
    assert [answer["path"] for answer in answers] == ["-rf.jpg", "x", "missing?.jpg"]
    assert {p["name"] for p in answers[0]["predictions"]} < {"background", *_CLASSES.values()}


def test_exports(trained):
    names = tfrecords.read_labels(trained(f"data {_PATTERN}"))
    model = _model_flags(trained, model_dir=trained("model"), export_dir=trained("export"))
    formats = "--export_format=saved_model,frozen_graph,onnx"
    trained.run("amoeba_net.py", "--mode=export", *model, formats, "--add_warmup_requests")
    assert tfrecords.read_labels(trained("export")) == names
    saved_model = exported_model.ExportedModel(exported_model.find(trained("export")))
    assert saved_model.names == names
    image = encode(noise(1, 20))
    assert saved_model.explain(image).classes
    path = trained("images", "two words", "=cmd,x.jpg")
    onnx = trained.run("scripts/predict_onnx.py", trained("export", "amoeba_net.onnx"), path).out
    assert onnx.startswith(f"{path}\n")
    assert {line.split("%  ")[1] for line in onnx.splitlines() if "%  " in line} < set(names)

    with _demo(trained("export")) as (line, port):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/about", timeout=60) as reply:
            about = json.load(reply)
    assert line.startswith(files.printable(os.path.abspath(trained("export"))))
    assert about["title"].startswith("export/")


@contextlib.contextmanager
def _demo(directory):
    """(what the program says first, its port) while it serves the model in a directory."""
    process = subprocess.Popen(
        command("scripts/demo.py", f"--saved_model={directory}", "--port=0"),
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            line = process.stdout.readline()
            yield line, int(re.search(r": open http://127\.0\.0\.1:(\d+)/", line).group(1))
        finally:
            process.terminate()


def _assert_nothing_is_elsewhere(place):
    found = {name: os.listdir(os.path.join(place.elsewhere, name)) for name in _ELSEWHERE}
    # What libraries keep for the next start: Keras' settings, and matplotlib's list of fonts.
    assert set(found.pop("home")) <= {".cache", ".config", ".keras"}
    assert found == {"tmp": [], "current": []}


def _assert_permissions_are_the_umasks(place):
    wrong = {}
    for directory, folders, names in os.walk(place.path):
        for name in folders + names:
            path = os.path.join(directory, name)
            if path.startswith(place("images")) or os.path.islink(path):
                continue
            mode = os.stat(path).st_mode & 0o777
            if mode != (0o777 if name in folders else 0o666) & ~_UMASK:
                wrong[path] = oct(mode)
    assert not wrong


# Names that TensorFlow does not take --------------------------------------------------------------

_NOT_UTF_8 = "the name is not UTF-8, and TensorFlow opens no other: rename it"
_TAKEN_FOR_A_PATTERN = r"TensorFlow takes a path with \[ in it for a pattern"


@pytest.mark.parametrize("name", preparation.PLACES)
def test_flag_whose_name_is_not_taken(name):
    with pytest.raises(UserError, match=rf"^--{name}=a\\xff: {_NOT_UTF_8}"):
        preparation.prepare(helpers.settings_of(f"--{name}=a\udcff"))
    chosen = helpers.settings_of(f"--{name}=a[b]")
    if preparation.PLACES[name]:
        with pytest.raises(UserError, match=rf"^--{name}=a\[b\]: {_TAKEN_FOR_A_PATTERN}"):
            preparation.check_places(chosen)
    else:
        preparation.check_places(chosen)


@pytest.mark.parametrize(
    "program, arguments",
    [
        (check_data.main, ["--data_dir={}"]),
        (extract_images.main, ["--data_dir={}", "--output_dir=x"]),
        (compare_runs.main, ["{}"]),
        (demo.parse_arguments, ["--saved_model={}"]),
        (fine_tune.main, ["--init_checkpoint={}", "--output_dir=x", "--image_dir=x"]),
        (fine_tune.main, ["--init_checkpoint=x", "--output_dir={}", "--image_dir=x"]),
        (build_tfrecords.main, ["--source_dir=x", "--output_dir={}"]),
    ],
)
def test_argument_whose_name_is_not_taken(program, arguments, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", *(a.format("a\udcff") for a in arguments)])
    with pytest.raises(SystemExit) as ended:
        program()
    said = f"{ended.value}\n{capsys.readouterr().err}"
    assert re.search(rf"a\\xff: {_NOT_UTF_8}", said), said


# Shell scripts in a repository of a hard name -----------------------------------------------------


@pytest.fixture
def hard_path(tmp_path):
    """A directory of a hard name, but for a colon and a line's end: venv does not take these."""
    path = os.path.join(str(tmp_path), _PLACE.replace("\n", " "))
    os.makedirs(path)
    return path


@pytest.mark.parametrize("name", ["train_full_8p.sh", "test/train_performance_1p.sh"])
def test_training_script(hard_path, name):
    copy = training_scripts.Copy(os.path.join(hard_path, "copy"), training_scripts.PRETENDED)
    model = os.path.join(hard_path, "model")
    arguments = [f"--data_path={copy.data}", f"--output_path={model}", "--", "--accelerator=cpu"]
    status, printed = copy.run(name, *arguments, CDPATH=f"{hard_path}:/")
    assert status == 0, printed
    called_with, _, _ = copy.call(model)
    assert called_with["data_dir"] == copy.data and called_with["model_dir"] == model
    assert sorted(os.listdir(hard_path)) == ["copy", "model"]


@pytest.mark.parametrize(
    "script, arguments, expected",
    [
        ("quickstart.sh", ["7"], "--model_dir={}/quickstart_run/seed_7"),
        ("run_tests.sh", ["a b.py"], "a b.py"),
    ],
)
def test_quick_start_and_tests(hard_path, script, arguments, expected):
    """With stand-ins for the set-up and for the programs that it installs."""
    scripts = os.path.join(hard_path, "scripts")
    os.makedirs(scripts)
    shutil.copy(os.path.join(ROOT, "scripts", script), scripts)
    files.write_text(os.path.join(scripts, "setup_env.sh"), 'printf "%s\\n" "$0"\n')
    for program in ("python", "ruff"):
        path = os.path.join(hard_path, ".venv", "bin", program)
        files.make_directory(os.path.dirname(path))
        files.write_text(path, '#!/bin/sh\nprintf "%s\\n" "$@"\n')
        os.chmod(path, 0o755)
    done = subprocess.run(
        ["bash", os.path.join("scripts", script), *arguments],
        cwd=hard_path,
        env={**os.environ, "CDPATH": f"{os.path.dirname(hard_path)}:/"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert expected.format(hard_path) in done.stdout.splitlines()
