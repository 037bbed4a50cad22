"""Each target of fuzz.py takes its seeds, and inputs made from them, without the fuzzer."""

import random

import pytest

from scripts.faults import fuzz, fuzzing

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged images.

# Fewer where they take long.
INPUTS = {"records": 40, "examples": 40, "checkpoints": 40, "predictions": 300}


# To export a model alone takes half a minute.
@pytest.mark.parametrize("name", sorted(set(fuzzing.TARGETS) - {"saved_models"}))
def test_target(name, tmp_path):
    target = fuzzing.TARGETS[name](str(tmp_path))
    seeds = target.seeds()
    for seed in seeds:
        target.run(seed)
    rng = random.Random(1)
    inputs = seeds
    for number in range(INPUTS.get(name, 1000)):
        data = target.mutate(rng, rng.choice(inputs))
        # Some stay, so that changes add up.
        if number % 5 == 0:
            inputs = [*inputs[-100:], data]
        try:
            target.run(data)
        except Exception:
            (tmp_path / "input").write_bytes(data)
            raise


def test_target_that_is_not_there():
    with pytest.raises(SystemExit, match="--target=zip: expected one of records, examples, im"):
        fuzz.main(["--target=zip", "--input=x"])


def test_input_by_itself(tmp_path, capsys):
    (tmp_path / "input").write_bytes(b"no tar")
    fuzz.main(["--target=tar", f"--input={tmp_path / 'input'}"])
    assert "No crash, no hang." in capsys.readouterr().out
