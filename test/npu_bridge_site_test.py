"""The program with the real Python package `npu_bridge`, and whether the stand-in is like it.

    NPU_BRIDGE_SITE=DIRECTORY bash scripts/run_tests.sh test/npu_bridge_site_test.py

DIRECTORY holds npu_bridge of github.com/Ascend/tensorflow, at commit 085a7b2, and whatever it needs
to be imported. Without an Ascend card its library has to be replaced by one that runs on the CPU.
"""

import json
import os

import helpers
import pytest
from npu_programs import environment, flags, write_data
from npu_stand_in.installed import PATH

from common import results

_SITE = os.environ.get("NPU_BRIDGE_SITE", "")
pytestmark = [
    pytest.mark.skipif(
        not os.path.isdir(os.path.join(_SITE, "npu_bridge")),
        reason="NPU_BRIDGE_SITE names no directory that has npu_bridge: its real Python package is "
        "not tested.",
    ),
    pytest.mark.xdist_group("npu_bridge_site"),
]


def _facts(path):
    variables = environment(path, NPU_STAND_IN="newer")
    return json.loads(helpers.run("test/npu_probe.py", env=variables).out.splitlines()[-1])


def test_stand_in_has_what_the_real_package_has():
    real, stand_in = _facts(_SITE), _facts(PATH)
    assert real["keywords"] and real.keys() == stand_in.keys()
    for name, facts in real.items():
        assert stand_in[name] == facts, name


def test_program_trains_evaluates_and_exports(tmp_path):
    directory = str(tmp_path)
    write_data(os.path.join(directory, "data"))
    export = os.path.join(directory, "export")
    values = {"num_epochs": 1, "export_dir": export, "export_format": "saved_model,frozen_graph"}
    arguments = flags(directory, "train_and_eval", **values)
    ended = helpers.run("amoeba_net.py", *arguments, env=environment(_SITE))
    assert "(npu_bridge)" in ended.log
    assert [(r["kind"], r["global_step"]) for r in results.read_results(f"{directory}/model")] == [
        ("train", 2),
        ("eval", 2),
    ]
    exported = [name for _, _, names in os.walk(export) for name in names]
    assert {"saved_model.pb", "frozen_graph.pb"} <= set(exported)
    assert os.path.exists(os.path.join(directory, "model", "curves.png"))


@pytest.mark.parametrize("scale", ["dynamic", "128", "none"])
def test_each_loss_scale_with_and_without_a_loop_on_the_device(scale, tmp_path):
    """With a tiny network; the second training goes on from the first one's checkpoint."""
    write_data(str(tmp_path / "data"))
    for steps, loop in ((2, 1), (7, 3)):
        values = {"loss_scale": scale, "npu_iterations_per_loop": loop, "train_steps": steps}
        arguments = flags(str(tmp_path), "train", save_checkpoints_steps=3, **values)
        variables = environment(f"{_SITE}:{helpers.ROOT}")
        helpers.run("test/npu_programs.py", *arguments, env=variables)
    records = results.read_results(str(tmp_path / "model"))
    assert [(r["kind"], r["global_step"]) for r in records] == [("train", 2), ("train", 7)]
