"""Exported models: the images that they take, as the demo asks them."""

import contextlib
import os
import sys

import exported_model
import serving
from common.errors import UserError
from common.runtime import tf
from scripts.faults.fuzzing.images import image_seeds, mutate_image
from scripts.faults.fuzzing.target import Target

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), *[".."] * 3, "test"))


def saved_models(directory: str) -> Target:
    """The string input of a SavedModel, of the smallest network."""
    import helpers  # With the data sets that tests use.

    hparams = helpers.tiny_hparams(num_label_classes=3)
    checkpoint = helpers.write_random_checkpoint(hparams, os.path.join(directory, "model"))
    exported = serving.export_saved_model(checkpoint, hparams, directory, ["a", "b", "c"])
    model = exported_model.ExportedModel(exported)

    def run(data):
        with contextlib.suppress(UserError, tf.errors.OpError):
            assert len(model.explain(data).classes) == 3

    return Target(image_seeds, mutate_image, run)
