"""Tests of common.imagenet."""

from common import imagenet


def test_synsets_are_in_label_order():
    wnids = [wnid for wnid, _ in imagenet.synsets()]
    assert len(wnids) == len(set(wnids)) == imagenet.NUM_CLASSES == 1000
    assert wnids == sorted(wnids)
    assert wnids[0] == "n01440764"
    assert wnids[-1] == "n15075141"


def test_labels_leave_zero_to_background():
    labels = imagenet.label_of_synset()
    assert sorted(labels.values()) == list(range(1, 1001))
    assert labels["n01440764"] == 1
    assert labels["n15075141"] == 1000


def test_readable_names():
    names = imagenet.create_readable_names_for_imagenet_labels()
    assert sorted(names) == list(range(1001))
    assert names[0] == "background"
    assert names[1] == "tench, Tinca tinca"
    assert names[1000] == "toilet tissue, toilet paper, bathroom tissue"
    assert all(name == name.strip() and name for name in names.values())
