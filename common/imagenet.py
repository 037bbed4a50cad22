"""The 1,000 classes of ILSVRC2012, which everybody calls ImageNet.

Label i, 1..1000, is the i-th synset in the order of the WordNet IDs; label 0 is background, which
no image has. The IDs and names are WordNet's: see imagenet_synsets.LICENSE.txt, beside the list.
"""

import os

NUM_CLASSES = 1000

_SYNSETS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "imagenet_synsets.tsv")


def synsets():
    """Returns the list of (WordNet ID, name) in label order; [0] has label 1."""
    with open(_SYNSETS, encoding="utf-8") as file:
        return [tuple(line.rstrip("\n").split("\t")) for line in file]


def label_of_synset():
    """Returns {WordNet ID: label}, labels being 1..1000."""
    return {wnid: label for label, (wnid, _) in enumerate(synsets(), 1)}


def create_readable_names_for_imagenet_labels():
    """Returns {label: name}: {0: 'background', 1: 'tench, Tinca tinca', ...}, 1,001 in all."""
    names = {label: name for label, (_, name) in enumerate(synsets(), 1)}
    return {0: "background", **names}
