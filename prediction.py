"""A user's own images -> names of classes and probabilities."""

import collections
import concurrent.futures
import contextlib
import glob
import json
import os
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

import inception_preprocessing
from common import files, limits, process, runtime, spreadsheet
from common.data import image_files, image_sources
from common.devices.cpu import CpuSession
from common.errors import UserError
from common.hparams import HParams
from common.report import explained, heat
from common.runtime import tf
from settings import RunOptions

TOP_K = 5


class Answer(NamedTuple):
    """What the network says of one file: the most probable classes first, or an error."""

    path: str
    classes: Tuple[int, ...] = ()
    probabilities: Tuple[float, ...] = ()
    error: Optional[str] = None


def find_images(patterns: Sequence[str]) -> List[str]:
    """Paths of the images that files, folders and patterns name, each once, in their order.

    A folder stands for all files with an image's suffix in it and below it, a pattern like
    'photos/*.jpg' ('**': any depth) for what it matches. Several may stand in one string with
    commas between them. What does not exist stays in the list, to be reported with the others.

    Raises:
        UserError: no image at all.
    """
    paths = []
    for pattern in patterns:
        # A name may have a comma in it, too.
        parts = [pattern] if _matches(pattern) else pattern.split(",")
        for part in filter(None, parts):
            for match in _matches(part) or [part]:
                if not os.path.isdir(match):
                    paths.append(match)
                elif not part.endswith("**"):  # That matches the files in folders, too.
                    paths += _images_below(match)
    if not paths:
        raise UserError(f"--image_paths={','.join(patterns)}: there are no images there.")
    return list(dict.fromkeys(paths))


def _matches(pattern: str) -> List[str]:
    """What a path or a pattern stands for; a path with *, ?, or [ in it stands for itself."""
    return [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))


def _images_below(folder: str) -> List[str]:
    files = [
        os.path.join(parent, name)
        for parent, names in image_sources.walk(folder)
        for name in names
        if not name.startswith(".")
    ]
    images = [f for f in files if os.path.splitext(f)[1].lower() in image_files.IMAGE_SUFFIXES]
    if len(images) < len(files):
        others = len(files) - len(images)
        tf.logging.info("%s: %d files without an image's suffix are left out.", folder, others)
    return sorted(images)


class Pictures:
    """Writes a picture of each answer into a directory: where the network looked.

    Args:
        directory: of the pictures.
        names: of the classes.
    """

    def __init__(self, directory: str, names: Sequence[str]):
        self._directory = directory
        self._names = names
        self._count = 0

    def write(self, answer: Answer, image: np.ndarray, activation: np.ndarray):
        """Args: the answer, the preprocessed image, and the map of the most probable class."""
        self._count += 1
        answers = [(self._names[c], p) for c, p in zip(answer.classes, answer.probabilities)]
        picture = explained.draw(heat.to_image(image), activation, answers)
        path = os.path.join(self._directory, explained.file_name(self._count, answer.path))
        files.write_bytes(path, image_files.encode_jpeg(picture, quality=90))


def answer_all(
    estimator: tf.estimator.Estimator,
    checkpoint: str,
    hparams: HParams,
    names: Sequence[str],
    options: RunOptions,
):
    """Classifies all of --image_paths, prints the answers, and writes what the flags ask for.

    Raises:
        UserError: in the end, if there were images that could not be read.
    """
    paths = find_images(options.image_paths)
    pictures = Pictures(options.explain_dir, names) if options.explain_dir else None
    answers = []
    for answer in classify(estimator, checkpoint, hparams, paths, pictures):
        answers.append(answer)
        try:
            print(text(answer, names), flush=True)
        except BrokenPipeError:
            if not options.predictions_file:
                raise
            process.discard_output()  # The file is still wanted.
    if options.predictions_file:
        write_answers(options.predictions_file, answers, names)
    failed = sum(1 for answer in answers if answer.error)
    if failed:
        raise UserError(f"{failed} of {len(paths)} images could not be read; see above.")


def classify(
    estimator: tf.estimator.Estimator,
    checkpoint: str,
    hparams: HParams,
    paths: Sequence[str],
    pictures: Optional[Pictures] = None,
) -> Iterator[Answer]:
    """Gives the answer for each image, in order.

    Args:
        estimator: of the model function.
        checkpoint: prefix of the checkpoint to take.
        hparams: of the network; `eval_batch_size` images run together.
        paths: files of any format that TensorFlow or Pillow reads.
        pictures: writes a picture of each answer; the model function must explain its predictions.
    """
    # (answer so far, image) of what was handed to the network, in order, and what could not be.
    handed_in = collections.deque()
    batch_size = min(hparams.eval_batch_size, len(paths))
    shape = [hparams.image_size, hparams.image_size, 3]

    def images():
        count = 0
        for path, image in _read_all(paths, hparams.image_size, batch_size):
            if isinstance(image, UserError):
                handed_in.append((Answer(path, error=str(image)), None))
            else:
                handed_in.append((Answer(path), image if pictures else None))
                count += 1
                yield image
        # The NPU takes whole batches only.
        for _ in range(-count % batch_size):
            yield np.zeros(shape, np.float32)

    def input_fn():
        dataset = tf.data.Dataset.from_generator(images, tf.float32, shape)
        return dataset.batch(batch_size, drop_remainder=True).prefetch(1)

    for prediction in estimator.predict(input_fn, checkpoint_path=checkpoint):
        while handed_in and handed_in[0][0].error:
            yield handed_in.popleft()[0]
        if not handed_in:
            break
        begun, image = handed_in.popleft()
        answer = _answer(begun.path, prediction["probabilities"])
        if pictures:
            pictures.write(answer, image, prediction["maps"][0])
        yield answer
    yield from (answer for answer, _ in handed_in)


def _read_all(paths: Sequence[str], image_size: int, together: int) -> Iterator[tuple]:
    """(path, image or the UserError of reading it) of each file, so many at a time."""
    read = ImageReader(image_size)

    def read_or_error(path):
        try:
            return read(path)
        except UserError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for start in range(0, len(paths), together):
            group = paths[start : start + together]
            yield from zip(group, pool.map(read_or_error, group))


def _answer(path: str, probabilities: np.ndarray) -> Answer:
    best = np.argsort(-probabilities, kind="stable")[:TOP_K]
    return Answer(path, tuple(best.tolist()), tuple(probabilities[best].tolist()))


class ImageReader:
    """Files -> evaluation's float32 images [size, size, 3] in [-1, 1].

    Pillow reads what TensorFlow does not (TIFF, WebP, ...), in the way data conversion does.
    """

    def __init__(self, image_size: int):
        graph = tf.Graph()
        with graph.as_default():
            self._encoded = tf.placeholder(tf.string, [])
            self._image = inception_preprocessing.preprocess_bytes(self._encoded, image_size)
        self._session = CpuSession(graph)

    def __call__(self, path: str) -> np.ndarray:
        """Raises UserError where the file is missing or no image; the message does not name it."""
        try:
            encoded = limits.read_bytes(path, limits.IMAGE_BYTES, name="it")
            image_files.check_scans(encoded)
            if not image_files.is_misread(encoded):
                with contextlib.suppress(tf.errors.OpError):
                    return self._decode(encoded)
            return self._decode(image_files.to_jpeg(encoded).encoded)
        except FileNotFoundError:
            raise UserError("there is no such file") from None
        except OSError as error:
            raise UserError(error.strerror) from error
        except tf.errors.OpError as error:
            raise UserError(runtime.first_line(error)) from error
        except ValueError as error:
            raise UserError(str(error)) from error

    def _decode(self, encoded: bytes) -> np.ndarray:
        return self._session.run(self._image, {self._encoded: encoded})


# Output ------------------------------------------------------------------------------------------


def text(answer: Answer, names: Sequence[str]) -> str:
    """An answer for the terminal: the path, and a line for each class; or one line."""
    path = files.printable(answer.path)
    if answer.error:
        return f"{path}: {answer.error}"
    lines = [
        f"{probability:9.2%}  {names[label]}"
        for label, probability in zip(answer.classes, answer.probabilities)
    ]
    return "\n".join([path, *lines])


def write_answers(path: str, answers: Sequence[Answer], names: Sequence[str]):
    r"""Writes answers as CSV if the path ends so, else as JSON lines; whole or not at all.

    CSV: path, rank (from 1), class, name, probability, error; a row for each class. JSON: an
    object a line, {"path", "predictions": [{"class", "name", "probability"}, ...]} or
    {"path", "error"}. In both, bytes of a path that are no UTF-8 are escaped, as \xff.
    """
    as_text = _csv if path.endswith(".csv") else _json_lines
    files.write_text(path, as_text(answers, names))


def _csv(answers, names) -> str:
    rows = [["path", "rank", "class", "name", "probability", "error"]]
    for answer in answers:
        if answer.error:
            rows.append([answer.path, "", "", "", "", answer.error])
        for i, (label, probability) in enumerate(zip(answer.classes, answer.probabilities), 1):
            rows.append([answer.path, i, label, names[label], probability, ""])
    return spreadsheet.as_csv(rows)


def _json_lines(answers, names) -> str:
    return "".join(
        json.dumps(_as_dict(answer, names), ensure_ascii=False) + "\n" for answer in answers
    )


def _as_dict(answer, names):
    path = files.valid_text(answer.path)
    if answer.error:
        return {"path": path, "error": answer.error}
    return {
        "path": path,
        "predictions": [
            {"class": label, "name": names[label], "probability": probability}
            for label, probability in zip(answer.classes, answer.probabilities)
        ],
    }
