"""Names of classes with and without a data set's labels."""

import pytest

from common import files
from common.data.class_names import class_names
from common.errors import UserError


def test_class_names(tmp_path):
    assert class_names(None, 1001)[1] == "tench, Tinca tinca"
    assert class_names(str(tmp_path), 3) == ["class 0", "class 1", "class 2"]
    files.write_text(str(tmp_path / "labels.txt"), "background\ncat\ndog\n")
    assert class_names(str(tmp_path), 3) == ["background", "cat", "dog"]
    with pytest.raises(UserError, match=r"labels\.txt names 3 classes"):
        class_names(str(tmp_path), 1001)
