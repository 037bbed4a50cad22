"""Where labelled images come from: ImageNet as it is distributed, or one folder a class.

Nothing is extracted or copied: an image is a range of bytes of a file. What a source directory may
hold is in the docstring of scripts/build_tfrecords.py, whose flags the messages name.
"""

import collections
import io
import os
import random
import re

import tqdm

from common import files, imagenet, limits
from common.data import image_files, tars, tfrecords
from common.errors import UserError

GROUND_TRUTH_FILES = (
    "imagenet_2012_validation_synset_labels.txt",
    "ILSVRC2012_validation_ground_truth.txt",
    "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
)

_NUMBER = re.compile("[0-9]{1,9}")

# A range of bytes of a file: a whole image file, or a member of a tar, which is never extracted.
Image = collections.namedtuple("Image", "name path offset size label")

# classes: [(short name, text)] in label order, [0] having label 1; splits: {split: [Image]}.
Source = collections.namedtuple("Source", "kind classes splits")


def find_source(
    source_dir, kind="auto", seed=0, fraction=None, ground_truth=None, synset_list=None
):
    """Lists a source's images.

    Args:
      source_dir: directory; the module's docstring says what may be in it.
      kind: 'auto', 'imagenet' or 'folders'.
      seed: of the choice of a validation set from folders.
      fraction: folders without a validation set: the part of each class that becomes one, 0..1.
      ground_truth: ImageNet: path of the labels of validation images that are not in folders.
      synset_list: ImageNet: path of the meaning of numbers in `ground_truth`.

    Returns:
      A Source. Splits without images are left out.

    Raises:
      UserError: something is missing, or a flag is of the other kind.
    """
    if kind == "auto":
        kind = "imagenet" if _looks_like_imagenet(source_dir) else "folders"
        shown = files.printable(source_dir)
        print(f"{shown}: taken for {kind} (--source_kind can say otherwise).")
    if kind == "imagenet":
        if fraction is not None:
            raise UserError("--validation_fraction is for folders; ImageNet has its own split.")
        return _imagenet(source_dir, ground_truth, synset_list)
    for name, path in (("validation_ground_truth", ground_truth), ("synset_list", synset_list)):
        if path is not None:
            raise UserError(f"--{name} is for ImageNet; folders name their own classes.")
    return _folders(source_dir, fraction, seed)


def _looks_like_imagenet(source_dir):
    if any(os.path.exists(_tar(source_dir, split)) for split in ("train", "val")):
        return True
    train = os.path.join(source_dir, "train")
    return os.path.isdir(train) and set(_subdirs(train)) == set(imagenet.label_of_synset())


def _imagenet(source_dir, ground_truth, synset_list):
    labels = imagenet.label_of_synset()
    train_tar, train_dir = _tar(source_dir, "train"), os.path.join(source_dir, "train")
    splits = {}
    if os.path.exists(train_tar):
        splits["train"] = _list_imagenet_train_tar(train_tar, labels)
    elif os.path.isdir(train_dir):
        splits["train"] = _list_class_folders(train_dir, labels)
    _check_synsets(source_dir, splits.get("train", []))

    val_tar, val_dir = _tar(source_dir, "val"), _validation_dir(source_dir)
    if os.path.exists(val_tar):
        images = _list_tar(val_tar)
    elif val_dir and _subdirs(val_dir):
        images = splits["validation"] = _list_class_folders(val_dir, labels)
    else:
        images = _list_files(val_dir) if val_dir else []
    if images and "validation" not in splits:
        truth = _read_ground_truth(*_ground_truth_files(source_dir, ground_truth, synset_list))
        splits["validation"] = _label_validation(images, truth, labels)

    for split in tfrecords.SPLITS:
        if not splits.get(split):
            shown = files.printable(source_dir)
            print(f"{shown}: no {split} images of ImageNet; this split is not made.")
    return Source("imagenet", imagenet.synsets(), {k: v for k, v in splits.items() if v})


def _folders(source_dir, fraction, seed):
    train_dir, val_dir = os.path.join(source_dir, "train"), _validation_dir(source_dir)
    has_train = os.path.isdir(train_dir)
    if val_dir and not has_train:
        name = os.path.basename(val_dir)
        raise UserError(
            f"{source_dir} has {name}/ but no train/ beside it. (Where {name} is a class itself, "
            "move all classes into train/.)"
        )
    if val_dir and fraction is not None:
        raise UserError(f"--validation_fraction={fraction}: {val_dir} is there; give up one.")

    classes_dir = train_dir if has_train else source_dir
    others = set(_subdirs(source_dir)).difference(["train", val_dir and os.path.basename(val_dir)])
    if has_train and others:
        line = f"{source_dir}: the classes are in train/; left aside: {', '.join(sorted(others))}."
        print(files.printable(line))
    folders = _subdirs(classes_dir)
    if not folders:
        raise UserError(
            f"{classes_dir} has no class folders; expected are <class>/*.jpg and the like, in "
            "it or in train/ and validation/. (Where train is a class itself, move all classes "
            "into another train/.)"
        )
    labels = {folder: label for label, folder in enumerate(folders, 1)}
    seen = {}
    images = _list_class_folders(classes_dir, labels, seen)
    empty = set(labels.values()).difference(image.label for image in images)
    if empty:
        raise UserError(f"{os.path.join(classes_dir, folders[min(empty) - 1])} has no image in it.")

    if val_dir:
        splits = {"train": images, "validation": _list_class_folders(val_dir, labels, seen)}
    else:
        splits = _split(images, 0.1 if fraction is None else fraction, seed)
    # Folders are often named after WordNet, as ImageNet's are.
    texts = dict(imagenet.synsets())
    names = _class_names(classes_dir, folders)
    classes = [(name, texts.get(name, name)) for name in names]
    return Source("folders", classes, {k: v for k, v in splits.items() if v})


def _class_names(classes_dir, folders):
    """Returns the names of folders as a line of labels.txt can hold them."""
    folder_of = {}
    for folder in folders:
        name = files.printable(folder)
        if not name.strip():
            raise UserError(f"{classes_dir} has a class folder whose name is blank; rename it.")
        if name in folder_of:
            both = f"{folder_of[name]!r} and {folder!r}"
            raise UserError(f"{classes_dir} has the class folders {both}; rename one.")
        folder_of[name] = folder
    return list(folder_of)


def _split(images, fraction, seed):
    """Divides images into training and validation, class by class."""
    by_label = {}
    for image in images:
        by_label.setdefault(image.label, []).append(image)
    splits = {"train": [], "validation": []}
    for label, members in sorted(by_label.items()):
        random.Random(f"{seed}/validation/{label}").shuffle(members)
        count = round(len(members) * fraction)
        if fraction:
            # Both splits see every class that has two images.
            count = min(max(count, 1), len(members) - 1)
        splits["validation"] += members[:count]
        splits["train"] += members[count:]
    return splits


def _list_class_folders(directory, labels, seen=None):
    """Lists the images of directory/<class>/**, in a fixed order; `seen` as for `walk`."""
    seen = {} if seen is None else seen
    folders = _subdirs(directory)
    unknown = [folder for folder in folders if folder not in labels]
    if unknown:
        raise UserError(
            f"{directory} has {len(unknown)} folders that are not among the {len(labels)} "
            f"classes, first {unknown[0]}."
        )
    images, others = [], collections.Counter()
    for folder in tqdm.tqdm(folders, f"Listing {directory}", unit=" folders", leave=False):
        for image in _list_files(os.path.join(directory, folder), others, seen):
            name = os.path.join(folder, image.name)
            images.append(image._replace(name=name, label=labels[folder]))
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        print(files.printable(f"{directory}: left aside as no images by their names: {kinds}."))
    return images


def _list_files(directory, others=None, seen=None):
    """Lists the image files anywhere under a directory, counting others by their suffix."""
    images = []
    for parent, names in walk(directory, seen):
        for file in names:
            path = os.path.join(parent, file)
            suffix = os.path.splitext(file)[1].lower()
            if suffix in image_files.IMAGE_SUFFIXES and not file.startswith("."):
                name = os.path.relpath(path, directory)
                images.append(Image(name, path, 0, os.path.getsize(path), None))
            elif others is not None:
                others[suffix or "without a suffix"] += 1
    return images


def walk(directory, seen=None):
    """Yields (folder, sorted names of its files) of a directory and all below it, links too.

    Args:
        directory: path.
        seen: a dict that calls share which must not reach the same folder.

    Raises:
        OSError: a folder cannot be read.
        UserError: a folder is reached twice.
    """

    def fail(error):
        raise error

    seen = {} if seen is None else seen
    for parent, folders, names in os.walk(directory, followlinks=True, onerror=fail):
        status = os.stat(parent)
        first = seen.setdefault((status.st_dev, status.st_ino), parent)
        if first != parent:
            # A link to a folder above itself would be followed for ever.
            raise UserError(f"{parent} is the same folder as {first}: remove the link.")
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        yield parent, sorted(names)


def _list_imagenet_train_tar(path, labels):
    """Lists the images in ILSVRC2012_img_train.tar, which holds one tar a synset."""
    images = []
    with limits.open_file(path) as file:
        members = tars.files(file, path)
        for member in tqdm.tqdm(members, f"Listing {path}", unit=" tars", leave=False):
            synset, suffix = os.path.splitext(os.path.basename(member.name))
            if suffix != ".tar" or synset not in labels:
                raise UserError(
                    f"{path} holds {member.name!r}, and one of ImageNet's n*.tar is due."
                )
            for image in tars.files(file, f"{member.name} in {path}", member):
                name = os.path.join(synset, os.path.basename(image.name))
                images.append(Image(name, path, image.offset, image.size, labels[synset]))
    return images


def _list_tar(path):
    with limits.open_file(path) as file:
        return [Image(m.name, path, m.offset, m.size, None) for m in tars.files(file, path)]


def _check_synsets(source_dir, images):
    found = {image.label for image in images}
    lacking = [w for label, (w, _) in enumerate(imagenet.synsets(), 1) if label not in found]
    if images and lacking:
        raise UserError(
            f"{source_dir} has no training images of {len(lacking)} of ImageNet's 1,000 synsets, "
            f"first {lacking[0]}; for a part of ImageNet use --source_kind=folders."
        )


def _ground_truth_files(source_dir, ground_truth, synset_list):
    """Returns the paths of the validation labels and of their numbers' meaning, or None for it."""
    if ground_truth is None:
        candidates = [os.path.join(source_dir, name) for name in GROUND_TRUTH_FILES]
        ground_truth = next(filter(os.path.exists, candidates), None)
    if ground_truth is None:
        raise UserError(
            f"The validation images in {source_dir} have no labels: give "
            "--validation_ground_truth=<file>, or put it there as " + " or ".join(candidates) + "."
        )
    if synset_list is None:
        candidates = [os.path.join(os.path.dirname(ground_truth), "meta.mat")]
        candidates.append(os.path.join(source_dir, "meta.mat"))
        synset_list = next(filter(os.path.exists, candidates), None)
    return ground_truth, synset_list


def _read_ground_truth(path, synset_list):
    """Returns the synset of each validation image, in order."""
    lines = limits.read_text(path).split()
    if lines and all(re.fullmatch(r"n[0-9]{8}", line) for line in lines):
        return lines
    odd = [line for line in lines if not _NUMBER.fullmatch(line)]
    if odd or not lines:
        raise UserError(
            f"{path}: every line must be a synset (n01440764) or every line a number; "
            f"found {odd[0] if odd else 'nothing'!r}."
        )
    if synset_list is None:
        raise UserError(
            f"{path} holds the development kit's own numbers, which are not in the synsets' "
            "order: give --synset_list=<the kit's meta.mat, or a list of its synsets>."
        )
    synset_of = _read_synset_list(synset_list)
    unknown = [line for line in lines if int(line) not in synset_of]
    if unknown:
        raise UserError(f"{path}: {unknown[0]} is not among the numbers of {synset_list}.")
    truth = [synset_of[int(line)] for line in lines]
    if len(truth) == 50000 and truth[0] != "n01751748":
        # Sorted lists are everywhere and make a plausible, wrong data set; this catches them.
        raise UserError(
            f"{synset_list} does not belong to {path}: the first of ImageNet's validation images "
            f"is n01751748 (sea snake), and they make it {truth[0]}."
        )
    return truth


def _read_synset_list(path):
    """Returns {number: synset} from meta.mat or from a text file."""
    if path.endswith(".mat"):
        numbers = _read_meta_mat(path)
    else:
        rows = [line.split() for line in limits.read_text(path).splitlines() if line.strip()]
        numbered = all(len(row) > 1 and _NUMBER.fullmatch(row[0]) for row in rows)
        pairs = ((int(r[0]), r[1]) if numbered else (i, r[0]) for i, r in enumerate(rows, 1))
        numbers = dict(pairs)
    if sorted(numbers.values()) != sorted(imagenet.label_of_synset()):
        raise UserError(f"{path} does not list ImageNet's 1,000 synsets, each once.")
    return numbers


def _read_meta_mat(path):
    import scipy.io  # Slow to import, and only this file needs it.

    data = limits.read_bytes(path, limits.TEXT_BYTES)
    try:
        synsets = scipy.io.loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
        numbers = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    except Exception as error:  # Whatever scipy's parser stumbles over.
        raise UserError(f"{path} is not the development kit's meta.mat: {error}.") from error
    # After the 1,000 classes come the inner nodes of their tree.
    return {number: synset for number, synset in numbers.items() if number <= 1000}


def _label_validation(images, truth, labels):
    """Gives the images of ILSVRC2012_val_00000001.JPEG and on their labels, by their numbers."""
    labelled = {}
    for image in images:
        match = re.search(r"_([0-9]{1,9})\.\w+$", image.name)
        if not match:
            raise UserError(f"{image.path}: {image.name} has no number as ILSVRC2012_val_*.JPEG.")
        number = int(match.group(1))
        if number in labelled:
            raise UserError(f"{image.path} has two images of number {number}.")
        labelled[number] = image
    lacking = set(range(1, len(truth) + 1)).symmetric_difference(labelled)
    if lacking:
        raise UserError(
            f"The ground truth has {len(truth)} lines for {len(images)} validation images; "
            f"number {min(lacking)} is on one side only."
        )
    unknown = [synset for synset in truth if synset not in labels]
    if unknown:
        raise UserError(f"The ground truth has {unknown[0]}, which is not a synset of ImageNet.")
    return [labelled[i]._replace(label=labels[synset]) for i, synset in enumerate(truth, 1)]


def _tar(source_dir, split):
    return os.path.join(source_dir, f"ILSVRC2012_img_{split}.tar")


def _validation_dir(source_dir):
    paths = [os.path.join(source_dir, name) for name in ("validation", "val")]
    found = [path for path in paths if os.path.isdir(path)]
    if len(found) > 1:
        raise UserError(f"{source_dir} has both validation/ and val/; keep one.")
    return found[0] if found else None


def _subdirs(directory):
    with os.scandir(directory) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def read_image(image):
    """Returns the bytes of an Image; raises ValueError if they are too many, or no file's."""
    if image.size > limits.IMAGE_BYTES:
        raise ValueError(f"it has {image.size} bytes, and at most {limits.IMAGE_BYTES} are read")
    with limits.open_file(image.path) as file:
        file.seek(image.offset)
        return file.read(image.size)
