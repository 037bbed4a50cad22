"""The targets of fuzz.py: seeds, mutations that keep their structure, and what reads them.

A target's `run` returns where its input ends as a result or as a UserError, and raises any other
error.
"""

from scripts.faults.fuzzing import archives, checkpoints, descriptions, images, models, records

# Functions from a folder for temporary files to a target.
TARGETS = {
    "records": records.records,
    "examples": records.examples,
    "images": images.images,
    "predictions": images.predictions,
    "tar": archives.tar,
    "descriptions": descriptions.descriptions,
    "checkpoints": checkpoints.checkpoints,
    "saved_models": models.saved_models,
}
