"""Conversion to ONNX: who has it, and that nobody else pays; serving_test.py tests the models."""

import importlib.util
import subprocess
import sys

import pytest
from helpers import ROOT

from common import onnx_model
from common.errors import UserError


def test_without_tf2onnx(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else find_spec(name)
    )
    with pytest.raises(UserError, match=r"^--export_format=onnx needs tf2onnx, which this Python"):
        onnx_model.check_installed("--export_format=onnx")


def test_programs_import_it_only_when_asked():
    command = "import sys, amoeba_net, tf_hub; print({'tf2onnx', 'onnx'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    assert done.stdout == "set()\n"
