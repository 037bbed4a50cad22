"""Tests of common.image_sources."""

import io
import os
import tarfile

import numpy as np
import pytest

from common import imagenet
from common.data import image_sources
from common.errors import UserError

WNIDS = [wnid for wnid, _ in imagenet.synsets()]


def _make_tree(root, names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


class TestFolders:
    def test_train_and_validation(self, tmp_path):
        _make_tree(tmp_path, ["train/b/1.jpg", "train/a/x/2.PNG", "train/c/3.JPEG", "val/c/1.bmp"])
        source = image_sources.find_source(str(tmp_path))
        assert source.kind == "folders"
        assert source.classes == [("a", "a"), ("b", "b"), ("c", "c")]
        train, validation = source.splits["train"], source.splits["validation"]
        assert [(i.name, i.label) for i in train] == [
            ("a/x/2.PNG", 1),
            ("b/1.jpg", 2),
            ("c/3.JPEG", 3),
        ]
        assert [(i.name, i.label) for i in validation] == [("c/1.bmp", 3)]
        assert image_sources.read_image(validation[0]) == b"val/c/1.bmp"

    def test_fraction_is_taken_from_every_class(self, tmp_path):
        _make_tree(tmp_path, [f"{c}/{i}.jpg" for c, n in (("a", 40), ("b", 3)) for i in range(n)])
        splits = image_sources.find_source(str(tmp_path), fraction=0.1).splits
        assert [i.label for i in splits["validation"]] == [1] * 4 + [2]
        assert not {i.name for i in splits["train"]} & {i.name for i in splits["validation"]}
        assert sum(map(len, splits.values())) == 43
        assert image_sources.find_source(str(tmp_path), fraction=0.1).splits == splits
        assert image_sources.find_source(str(tmp_path), fraction=0.1, seed=1).splits != splits
        assert set(image_sources.find_source(str(tmp_path), fraction=0.0).splits) == {"train"}

    def test_wordnet_folders_get_names(self, tmp_path):
        _make_tree(tmp_path, ["n01440764/1.jpg"])
        assert image_sources.find_source(str(tmp_path)).classes == [
            ("n01440764", "tench, Tinca tinca")
        ]

    def test_other_files_are_counted(self, tmp_path, capsys):
        _make_tree(tmp_path, ["a/1.jpg", "a/list.txt", "a/.hidden.jpg"])
        assert len(image_sources.find_source(str(tmp_path)).splits["train"]) == 1
        assert "1 .jpg, 1 .txt" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("files", "options", "message"),
        [
            (["x.jpg"], {}, "has no class folders"),
            (["a/1.jpg", "b/1.txt"], {}, "b has no image in it"),
            (["val/a/1.jpg"], {}, "val/ but no train/.*Where val is a class itself"),
            (["car/1.jpg", "train/1.jpg"], {}, "Where train is a class itself"),
            (["train/a/1.jpg", "val/b/1.jpg"], {}, "not among the 1 classes, first b"),
            (["train/a/1.jpg", "val/a/1.jpg"], {"fraction": 0.5}, "validation_fraction=0.5"),
            (["train/a/1.jpg", "val/a/1.jpg", "validation/a/1.jpg"], {}, "both validation/ and"),
            (["a/1.jpg"], {"synset_list": "x"}, "synset_list is for ImageNet"),
        ],
    )
    def test_errors(self, tmp_path, files, options, message):
        _make_tree(tmp_path, files)
        with pytest.raises(UserError, match=message):
            image_sources.find_source(str(tmp_path), **options)


class TestHostileFolders:
    def test_links_that_go_round_in_circles(self, tmp_path):
        """Two links to the folder above would be 2**40 folders before the system ends it."""
        _make_tree(tmp_path, ["a/1.jpg"])
        for name in ("x", "y"):
            (tmp_path / "a" / name).symlink_to(tmp_path / "a", target_is_directory=True)
        with pytest.raises(UserError, match=r"a/x is the same folder as .*a: remove the link"):
            image_sources.find_source(str(tmp_path))

    @pytest.mark.parametrize("link", ["train/b", "validation"])
    def test_classes_and_splits_that_are_the_same_folder(self, tmp_path, link):
        _make_tree(tmp_path, ["train/a/1.jpg"])
        target = "train/a" if link == "train/b" else "train"
        (tmp_path / link).symlink_to(tmp_path / target, target_is_directory=True)
        with pytest.raises(UserError, match=r"is the same folder as .*a: remove the link"):
            image_sources.find_source(str(tmp_path))

    def test_folder_that_cannot_be_read(self, tmp_path, monkeypatch):
        _make_tree(tmp_path, ["a/1.jpg", "b/2.jpg", "b/more/3.jpg"])
        scandir = os.scandir

        def denied(path):
            if str(path).endswith("more"):
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", denied)  # Root may read everything.
        with pytest.raises(PermissionError, match="b/more"):
            image_sources.find_source(str(tmp_path))

    def test_links_to_other_folders_are_followed(self, tmp_path):
        _make_tree(tmp_path, ["source/a/1.jpg", "elsewhere/2.jpg"])
        (tmp_path / "source/a/x").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        source = image_sources.find_source(str(tmp_path / "source"), fraction=0.0)
        images = source.splits["train"]
        assert sorted(image.name for image in images) == ["a/1.jpg", "a/x/2.jpg"]

    def test_pipes_and_large_files_are_bad_images(self, tmp_path):
        _make_tree(tmp_path, ["a/1.jpg"])
        os.mkfifo(str(tmp_path / "a/2.jpg"))
        with (tmp_path / "a/3.jpg").open("wb") as file:
            file.truncate(1 << 40)  # Sparse: it takes no space.
        source = image_sources.find_source(str(tmp_path), fraction=0.0)
        first, *bad = sorted(source.splits["train"])
        assert image_sources.read_image(first) == b"a/1.jpg"
        for image, reason in zip(bad, ["not a regular file", "1099511627776 bytes, and at most"]):
            with pytest.raises(ValueError, match=reason):
                image_sources.read_image(image)


class TestImageNetValidation:
    """Two validation images and three ways to label them; the last synset comes first."""

    @pytest.fixture
    def source_dir(self, tmp_path):
        _make_tree(tmp_path, [f"train/{wnid}/{wnid}_1.JPEG" for wnid in WNIDS])
        _make_tree(tmp_path, [f"val/ILSVRC2012_val_0000000{i}.JPEG" for i in (1, 2)])
        return tmp_path

    def _labels(self, source_dir, **options):
        source = image_sources.find_source(str(source_dir), **options)
        assert source.kind == "imagenet"
        assert [image.label for image in source.splits["train"]] == list(range(1, 1001))
        return [image.label for image in source.splits["validation"]]

    def test_synset_an_image(self, source_dir):
        path = source_dir / "imagenet_2012_validation_synset_labels.txt"
        path.write_text(f"{WNIDS[999]}\n{WNIDS[0]}\n")
        assert self._labels(source_dir) == [1000, 1]

    @pytest.mark.parametrize("numbered", [False, True])
    def test_numbers_with_a_text_list(self, source_dir, numbered):
        truth, synsets = source_dir / "truth.txt", source_dir / "synsets.txt"
        truth.write_text("1\n1000\n")
        kit_order = list(enumerate(reversed(WNIDS), 1))
        synsets.write_text(
            "".join(f"{i} {wnid} some name\n" if numbered else f"{wnid}\n" for i, wnid in kit_order)
        )
        files = {"ground_truth": str(truth), "synset_list": str(synsets)}
        assert self._labels(source_dir, **files) == [1000, 1]

    def test_numbers_with_the_kits_own_list(self, source_dir):
        scipy_io = pytest.importorskip("scipy.io")
        kit = source_dir / "ILSVRC2012_devkit_t12" / "data"
        kit.mkdir(parents=True)
        (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n1000\n")
        rows = [(i, wnid) for i, wnid in enumerate(reversed(WNIDS), 1)] + [(1001, "n00001740")]
        dtype = [("ILSVRC2012_ID", object), ("WNID", object)]
        scipy_io.savemat(str(kit / "meta.mat"), {"synsets": np.array(rows, dtype)[:, np.newaxis]})
        assert self._labels(source_dir) == [1000, 1]

    @pytest.mark.parametrize(
        ("truth", "message"),
        [
            (None, "have no labels: give --validation_ground_truth"),
            ("1\n2\n", "not in the synsets' order: give --synset_list"),
            ("\xff\n", "is not UTF-8"),
            ("\u00b2\n\u00b3\n", "every line must be a synset .* found '\u00b2'"),
            ("9" * 5000 + "\n", "every line must be a synset"),
            ("cat\ndog\n", "every line must be a synset .* found 'cat'"),
            (f"{WNIDS[0]}\n", "1 lines for 2 validation images; number 2 is on one side only"),
            ("n99999999\nn99999999\n", "n99999999, which is not a synset"),
        ],
    )
    def test_errors(self, source_dir, truth, message):
        if truth:
            data = truth.encode("latin-1" if "\xff" in truth else "utf-8")
            (source_dir / "ILSVRC2012_validation_ground_truth.txt").write_bytes(data)
        with pytest.raises(UserError, match=message):
            image_sources.find_source(str(source_dir))

    @pytest.mark.parametrize("data", [b"", b"MATLAB 5.0 MAT-file".ljust(128) + b"\xff" * 99])
    def test_damaged_list_of_the_kit(self, source_dir, data):
        pytest.importorskip("scipy.io")
        (source_dir / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n1000\n")
        (source_dir / "meta.mat").write_bytes(data)
        with pytest.raises(UserError, match=r"meta\.mat is not the development kit's"):
            image_sources.find_source(str(source_dir))

    def test_images_of_the_same_number(self, source_dir):
        _make_tree(source_dir, ["val/other_00000002.JPEG"])
        path = source_dir / "imagenet_2012_validation_synset_labels.txt"
        path.write_text(f"{WNIDS[999]}\n{WNIDS[0]}\n")
        with pytest.raises(UserError, match="has two images of number 2"):
            image_sources.find_source(str(source_dir))

    def test_sorted_list_with_the_kits_numbers_is_noticed(self, source_dir):
        truth, synsets = source_dir / "truth.txt", source_dir / "synsets.txt"
        truth.write_text("490\n" * 50000)
        synsets.write_text("\n".join(WNIDS))
        with pytest.raises(UserError, match="sea snake"):
            image_sources.find_source(
                str(source_dir), ground_truth=str(truth), synset_list=str(synsets)
            )

    def test_part_of_imagenet(self, source_dir):
        (source_dir / "train" / WNIDS[7] / f"{WNIDS[7]}_1.JPEG").unlink()
        with pytest.raises(UserError, match=f"1 of ImageNet's 1,000 synsets, first {WNIDS[7]}"):
            image_sources.find_source(str(source_dir))


class TestDamagedTars:
    @pytest.mark.parametrize("keep", [100, 1000, 9000])
    def test_incomplete(self, tmp_path, keep):
        path = tmp_path / "ILSVRC2012_img_val.tar"
        with tarfile.open(str(path), "w") as tar:
            for i in (1, 2):
                member = tarfile.TarInfo(f"ILSVRC2012_val_0000000{i}.JPEG")
                member.size = 5000
                tar.addfile(member, io.BytesIO(b"noise" * 1000))
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(UserError, match=r"ILSVRC2012_img_val\.tar .*(incomplete|not an unc)"):
            image_sources.find_source(str(tmp_path))
