"""Names of a network's classes: the data set's, or ImageNet's."""

import os
from typing import List, Optional

from common import imagenet
from common.data import tfrecords
from common.errors import UserError


def class_names(data_dir: Optional[str], num_classes: int) -> List[str]:
    """Names of the classes, [0] being background.

    They are those of the data set's labels.txt; without one ImageNet's, if the number of classes
    is; else 'class 0', 'class 1' and so on.

    Raises:
        UserError: labels.txt has another number of classes.
    """
    names = tfrecords.read_labels(data_dir) if data_dir else None
    if names is None:
        known = imagenet.create_readable_names_for_imagenet_labels()
        if num_classes == len(known):
            return [known[label] for label in range(num_classes)]
        return [f"class {label}" for label in range(num_classes)]
    if len(names) != num_classes:
        raise UserError(
            f"--num_label_classes={num_classes}: {os.path.join(data_dir, tfrecords.LABELS)} names "
            f"{len(names)} classes, the background included."
        )
    return names
