"""docs/flags.md is the program's: up to date, and with every flag."""

import pytest
from absl import flags

import amoeba_net
from scripts.docs import flags_table


def test_page_is_up_to_date():
    flags_table.main(["--check"])


def test_page_that_is_out_of_date_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(flags_table, "PAGE", str(tmp_path / "flags.md"))
    (tmp_path / "flags.md").write_text(flags_table.page().replace("`2.56`", "`2.57`"))
    with pytest.raises(SystemExit, match="out of date"):
        flags_table.main(["--check"])
    flags_table.main([])
    flags_table.main(["--check"])


def test_every_flag_of_the_program_is_in_a_section():
    defined = {flag.name for flag in flags.FLAGS.flags_by_module_dict()["amoeba_net"]}
    names = [name for heading, name in flags_table.sections() if heading]
    assert sorted(names) == sorted(defined)


@pytest.mark.parametrize(
    "name, cells",
    [
        ("lr", "| `2.56` | number > 0 |"),
        ("moving_average_decay", "| `0.9999` | number ≥ 0, < 1 |"),
        ("inference_batch_sizes", "| `8` | integer ≥ 1, repeats |"),
        ("image_paths", "|  | text, repeats | Files, directories, or patterns of the images "),
        (
            "dump_step",
            "|  | text | Steps to dump, for example 0\\|5-10, in quotes in",
        ),
        ("export_format", "| `saved_model` | list |"),
        ("optimizer", "| `sgd` | `sgd`, `momentum`, `rmsprop` |"),
    ],
)
def test_rows(name, cells):
    assert amoeba_net.FLAGS[name] is not None
    assert f"| `--{name}` {cells}" in flags_table.page()
