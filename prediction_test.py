"""A user's own images: the same answers as evaluation's, and one line for what is no image."""

import csv
import glob
import json
import os
import shutil
import signal
import subprocess

import numpy as np
import pytest
from helpers import encode, flags, many_scans, run, truncate
from PIL import Image

import exported_model
import prediction
import serving
from common import limits
from common.errors import UserError
from common.runtime import tf

pytestmark = pytest.mark.xdist_group("tiny_model")


@pytest.fixture(scope="module")
def estimator(tiny_model):
    return tiny_model.estimator()


@pytest.fixture
def classify(tiny_model, estimator):
    def run(paths):
        return list(
            prediction.classify(estimator, tiny_model.checkpoint, tiny_model.hparams, paths)
        )

    return run


@pytest.fixture(scope="module")
def image_dir(tiny_model, tmp_path_factory):
    """The tiny model's images as files."""
    directory = tmp_path_factory.mktemp("images")
    for i, encoded in enumerate(tiny_model.images):
        (directory / f"{i:02d}.jpg").write_bytes(encoded)
    return directory


@pytest.fixture(scope="module")
def odd_dir(tmp_path_factory):
    """Images of unusual kinds (names in small letters), and what is no image (in capitals)."""
    directory = tmp_path_factory.mktemp("odd")
    noise = np.random.RandomState(0).randint(0, 256, (60, 80, 4)).astype(np.uint8)
    image = Image.fromarray(noise[..., :3])
    image.convert("L").save(str(directory / "grey.jpg"))
    image.convert("CMYK").save(str(directory / "cmyk.jpg"))
    image.convert("L").save(str(directory / "grey.png"))
    image.convert("P").save(str(directory / "palette.png"))
    image.convert("1").save(str(directory / "bilevel.png"))
    Image.fromarray(noise).save(str(directory / "alpha.png"))
    Image.fromarray(noise[..., 0].astype(np.int32) * 257).save(str(directory / "16_bits.png"))
    image.save(str(directory / "plain.bmp"))
    image.save(str(directory / "plain.tiff"))
    image.save(str(directory / "plain.webp"))
    image.save(str(directory / "still.gif"))
    image.save(str(directory / "animated.gif"), save_all=True, append_images=[image.rotate(90)])
    image.resize((1, 1)).save(str(directory / "one_pixel.png"))
    image.resize((1, 1)).save(str(directory / "one_pixel.jpg"))
    image.resize((8000, 6000)).save(str(directory / "large.jpg"))
    image.save(str(directory / "suffix_of_another.png"), "JPEG")
    image.save(str(directory / "name, with ü.jpg"))

    half = len(encode(image)) // 2
    (directory / "TRUNCATED.jpg").write_bytes(encode(image)[:half])
    (directory / "TRUNCATED.png").write_bytes(encode(image, "PNG")[:half])
    (directory / "EMPTY.jpg").write_bytes(b"")
    (directory / "TWO_BYTES.jpg").write_bytes(b"\xff\xd8")
    (directory / "TEXT.png").write_text("not an image")
    return directory


def test_answers_are_those_of_the_saved_model(tiny_model, tiny_export, classify, image_dir):
    path = exported_model.find(tiny_export)
    with tf.Graph().as_default(), tf.Session() as session:
        signature = tf.saved_model.load(session, ["serve"], path).signature_def["serving_default"]
        expected = session.run(
            signature.outputs["probabilities"].name,
            {signature.inputs["input"].name: tiny_model.images},
        )
    answers = classify(prediction.find_images([str(image_dir)]))
    assert len(answers) == len(tiny_model.images)
    for answer, probabilities in zip(answers, expected):
        assert list(answer.probabilities) == pytest.approx(
            sorted(probabilities, reverse=True)[:5], abs=1e-4
        )
        assert answer.classes[0] == probabilities.argmax()


def test_odd_images_and_others_beside_them(classify, odd_dir):
    paths = [*prediction.find_images([str(odd_dir)]), str(odd_dir / "MISSING.jpg")]
    answers = {os.path.basename(answer.path): answer for answer in classify(paths)}
    assert len(answers) == len(paths)
    for name, answer in answers.items():
        if name.islower():
            assert answer.error is None, name
            assert len(answer.classes) == 5 and 0 < sum(answer.probabilities) <= 1.0001
        else:
            assert answer.error and "\n" not in answer.error, name
            assert not answer.classes
    assert answers["plain.bmp"].probabilities == pytest.approx(
        answers["still.gif"].probabilities, abs=0.05
    )
    assert answers["animated.gif"].probabilities == answers["still.gif"].probabilities


def test_palettes_are_applied(tmp_path):
    """Of a BMP, and the transparent colour of a GIF, which becomes white."""
    read = prediction.ImageReader(16)
    paletted = Image.new("P", (32, 32), 1)
    paletted.putpalette([0, 0, 0, 200, 40, 10])
    paths = [str(tmp_path / name) for name in ("red.bmp", "clear.gif")]
    paletted.save(paths[0])
    paletted.save(paths[1], transparency=1)
    for path, colour in zip(paths, [(200, 40, 10), (255, 255, 255)]):
        image = (read(path) + 1) * 127.5
        assert np.abs(image - np.array(colour)).max() < 4, path


def test_files_that_would_cost_too_much(tmp_path):
    read = prediction.ImageReader(16)
    pipe, huge, scans = (str(tmp_path / name) for name in ("pipe", "huge", "scans"))
    os.mkfifo(pipe)
    with open(huge, "wb") as file:
        file.truncate(1 << 40)  # Sparse: it takes no space.
    with open(scans, "wb") as file:
        file.write(many_scans(limits.JPEG_SCANS))
    for path, message in (
        (pipe, "it is not a regular file"),
        ("/dev/zero", "it is not a regular file"),
        (huge, "it is too large: 1099511627776 bytes"),
        (scans, "it has more than 100 scans"),
    ):
        with pytest.raises(UserError, match=message):
            read(path)


def test_url_that_cannot_be_opened():
    with pytest.raises(UserError, match=r"absent\.jpg"):
        prediction.ImageReader(16)("file:///absent.jpg")
    with pytest.raises(UserError, match=r"scheme .https."):
        prediction.ImageReader(16)("https://example.invalid/a.jpg")


def test_no_image_can_be_read(classify, odd_dir):
    answers = classify([str(odd_dir / "EMPTY.jpg"), str(odd_dir / "TEXT.png")])
    assert [answer.error for answer in answers] == ["is empty", "cannot identify image file"]


def test_find_images(odd_dir, tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("b.JPG", "a.png", "readme.txt", "a,b.jpg", "folder/c.gif", "._a.png"):
        (tmp_path / name).write_text("")

    def found(*patterns):
        paths = prediction.find_images([str(tmp_path / pattern) for pattern in patterns])
        return [os.path.relpath(path, str(tmp_path)) for path in paths]

    assert found("") == ["a,b.jpg", "a.png", "b.JPG", "folder/c.gif"]
    assert found("*.png", "readme.txt", "a.png") == ["a.png", "readme.txt"]
    assert found("**/*.gif") == ["folder/c.gif"]
    assert found("fold*") == ["folder/c.gif"]
    assert found("folder/**") == ["folder/c.gif"]
    assert found("a,b.jpg") == ["a,b.jpg"]
    assert found(f"a.png,{tmp_path}/b.JPG") == ["a.png", "b.JPG"]
    assert found("missing*.jpg") == ["missing*.jpg"]
    with pytest.raises(UserError, match="no images"):
        prediction.find_images([""])


def test_written_answers(tmp_path):
    answers = [
        prediction.Answer("a.jpg", (2, 0), (0.75, 0.25)),
        prediction.Answer("b\udcff.jpg", error="is empty"),
    ]
    names = ["background", "cat, tabby", "dög"]
    prediction.write_answers(str(tmp_path / "out.csv"), answers, names)
    with open(str(tmp_path / "out.csv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["dög", "background", ""]
    assert rows[0]["rank"] == "1" and float(rows[0]["probability"]) == 0.75
    assert rows[2]["path"] == "b\\xff.jpg" and rows[2]["error"] == "is empty"
    prediction.write_answers(str(tmp_path / "out.jsonl"), answers, names)
    with open(str(tmp_path / "out.jsonl"), encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert lines[0]["predictions"][0] == {"class": 2, "name": "dög", "probability": 0.75}
    assert lines[1] == {"path": "b\\xff.jpg", "error": "is empty"}


def run_program(tiny_model, *arguments, status, **options):
    hparams = tiny_model.hparams
    names = ("num_cells", "reduction_size", "stem_reduction_size", "image_size", "use_aux_head")
    names += ("num_label_classes", "batch_norm_epsilon", "num_eval_images", "eval_batch_size")
    network = flags({name: getattr(hparams, name) for name in names})
    return run("amoeba_net.py", *network, *arguments, status=status, **options)


def test_reader_who_has_enough(tiny_model, image_dir, tmp_path):
    """Like `| head`: no traceback, and the file is whole."""
    output = str(tmp_path / "answers.csv")
    reader, writer = os.pipe()
    os.close(reader)
    flags = ["--mode=predict", f"--model_dir={tiny_model.model_dir}"]
    flags += [f"--data_dir={tiny_model.data_dir}", f"--image_paths={image_dir}/0*.jpg"]
    streams = {"capture_output": False, "stdout": writer, "stderr": subprocess.PIPE}
    done = run_program(tiny_model, *flags, status=128 + signal.SIGPIPE, **streams)
    assert "Traceback" not in done.err
    flags.append(f"--predictions_file={output}")
    run_program(tiny_model, *flags, status=0, **streams)
    os.close(writer)
    with open(output) as file:
        assert sum(row["rank"] == "1" for row in csv.DictReader(file)) > 1


def test_program_classifies_images(tiny_model, image_dir, odd_dir, tmp_path):
    output = str(tmp_path / "answers.jsonl")
    done = run_program(
        tiny_model,
        "--mode=predict",
        f"--model_dir={tiny_model.model_dir}",
        f"--data_dir={tiny_model.data_dir}",
        f"--image_paths={image_dir}/0*.jpg,{odd_dir}/EMPTY.jpg",
        f"--predictions_file={output}",
        status=1,
    )
    assert done.err.endswith("amoeba_net.py: 1 of 11 images could not be read; see above.\n")
    assert f"{odd_dir}/EMPTY.jpg: is empty\n" in done.out
    assert done.out.count("%  digit") + done.out.count("%  background") == 50
    with open(output) as file:
        assert ["error" in json.loads(line) for line in file] == [False] * 10 + [True]


def test_program_draws_pictures(tiny_model, image_dir, tmp_path):
    """Of files of the same name, in a directory that is made, and none of what is no image."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(str(image_dir / f"0{'ab'.index(name)}.jpg"), str(tmp_path / name / "same.jpg"))
    (tmp_path / "text.jpg").write_text("not an image")
    directory = tmp_path / "new" / "explained"
    done = run_program(
        tiny_model,
        "--mode=predict",
        f"--model_dir={tiny_model.model_dir}",
        f"--data_dir={tiny_model.data_dir}",
        f"--image_paths={tmp_path}/a,{tmp_path}/text.jpg,{tmp_path}/b",
        f"--explain_dir={directory}",
        status=1,
    )
    assert "1 of 3 images could not be read" in done.err and "Traceback" not in done.err
    assert sorted(os.listdir(str(directory))) == ["0001_same.jpg", "0002_same.jpg"]
    pictures = [np.asarray(Image.open(str(path))) for path in sorted(directory.iterdir())]
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).any()
    left, right = pictures[0][12:332, 12:332], pictures[0][12:332, 344:664]
    # The left image is grey as the digit is, the right one has the colours of the map.
    assert np.ptp(left.astype(int), axis=2).max() < 12 < np.ptp(right.astype(int), axis=2).max()


def test_program_exports(tiny_model, tmp_path):
    run_program(
        tiny_model,
        "--mode=export",
        f"--checkpoint_path={tiny_model.checkpoint}",
        f"--data_dir={tiny_model.data_dir}",
        f"--export_dir={tmp_path}",
        "--export_format=saved_model,frozen_graph,onnx",
        "--add_warmup_requests",
        status=0,
    )
    *files, version = sorted(os.listdir(str(tmp_path)), key=str.isdigit)
    assert set(files) == {
        *("atc.sh", "frozen_graph.pb", "labels.txt", "amoeba_net.onnx", "atc_onnx.sh")
    }
    assert os.path.exists(str(tmp_path / version / "assets.extra" / "tf_serving_warmup_requests"))


@pytest.mark.parametrize("damage", [os.remove, truncate])
@pytest.mark.parametrize("part", ["index", "data-00000-of-00001"])
def test_half_written_checkpoint(tiny_model, damage, part, tmp_path):
    for path in glob.glob(f"{tiny_model.checkpoint}.*"):
        shutil.copy(path, str(tmp_path))
    checkpoint = str(tmp_path / os.path.basename(tiny_model.checkpoint))
    damage(f"{checkpoint}.{part}")
    with pytest.raises(UserError, match=f"checkpoint (at )?{checkpoint}") as caught:
        serving.freeze(checkpoint, tiny_model.hparams)
    assert len(str(caught.value).splitlines()) == 1


def test_export_without_a_checkpoint(tiny_model, tmp_path):
    done = run_program(
        tiny_model, "--mode=export", f"--model_dir={tmp_path}", f"--export_dir={tmp_path}", status=1
    )
    message = f"amoeba_net.py: There is no checkpoint in {tmp_path}:"
    assert done.err.splitlines()[-1].startswith(message)
