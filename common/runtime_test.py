"""One module knows the releases of TensorFlow, and shows errors alike under each."""

import glob
import os
import re

import pytest
from helpers import ROOT

from common import runtime
from common.runtime import tf

# Of TensorFlow; the rest of the sentence may be before or behind it.
_RELEASE = re.compile(r"\b(?:1\.15|2\.15|2\.6)\b|TensorFlow [12]\b")


def test_no_other_module_mentions_a_release():
    patterns = ("*.py", "common/**/*.py", "scripts/**/*.py")
    names = [glob.glob(os.path.join(ROOT, pattern), recursive=True) for pattern in patterns]
    names = {name for found in names for name in found if not name.endswith("_test.py")}
    mentions = []
    for name in sorted(names - {runtime.__file__}):
        with open(name, encoding="utf-8") as file:
            mentions += [
                f"{name}: {line}"
                for line in file
                if _RELEASE.search(line) and "linespacing" not in line
            ]
    assert mentions == []


def test_error_message_begins_with_what_is_wrong(graph):
    failing = tf.reshape(tf.placeholder(tf.float32, [None]), [2, 3])
    with tf.Session() as session, pytest.raises(tf.errors.OpError) as caught:
        session.run(failing, {failing.op.inputs[0]: [1.0]})
    assert runtime.error_message(caught.value).startswith("Input to reshape is a tensor with 1 ")
    assert runtime.error_message(ValueError("text")) == "text"


def test_older_releases_load_what_is_exported(graph):
    tf.nn.max_pool2d(tf.zeros([1, 4, 4, 1]), 2, 2, "VALID")
    tf.get_variable("variable", [1], use_resource=True)
    graph_def = graph.as_graph_def()
    runtime.drop_new_attributes(graph_def)
    attributes = {name for node in graph_def.node for name in node.attr}
    assert "ksize" in attributes and not attributes & {"explicit_paddings", "debug_name"}
