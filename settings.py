"""Turns the flags into three typed values: the settings of the model, the device, and the run.

The entry points define the flags; no other module sees them. preparation.py checks the values.
"""

import os
from typing import Any, Callable, Dict, FrozenSet, NamedTuple, Optional, Sequence

from absl.flags import FlagValues

import amoeba_net_model
import imagenet_input
from common.devices.options import Options
from common.distribution import agreement
from common.hparams import HParams

MODES = ("train", "eval", "train_and_eval", "predict", "export")


class RunOptions(NamedTuple):
    """Settings of the run: what to do, where, and how often. Each is a flag of the same name."""

    mode: str = "train_and_eval"  # One of MODES.
    accelerator: str = "auto"  # One of common.devices.options.NAMES.
    # Files.
    data_dir: Optional[str] = None
    model_dir: Optional[str] = None
    checkpoint_path: Optional[str] = None  # None: the latest in model_dir.
    export_dir: Optional[str] = None
    export_format: Sequence[str] = ("saved_model",)  # Of serving.FORMATS.
    add_warmup_requests: bool = False
    model_name: str = "amoeba_net"
    inference_batch_sizes: Sequence[int] = (8,)
    image_paths: Sequence[str] = ()
    predictions_file: Optional[str] = None
    explain_dir: Optional[str] = None
    report_dir: Optional[str] = None
    # Training.
    train_steps: int = 0  # 0: num_epochs decides.
    lr_scaling: str = "none"  # Or 'linear': `scale_learning_rate` has changed the model's `lr`.
    lr_base_batch_size: int = 1024
    max_nan_steps: int = 10
    max_skipped_steps: int = 100
    # Intervals.
    num_epochs_per_eval: float = 1.0
    eval_timeout: int = 86400  # Seconds.
    iterations_per_loop: int = 1251
    save_checkpoints_steps: int = 0  # 0: iterations_per_loop.
    keep_checkpoint_max: int = 5
    log_steps: int = 100

    @property
    def trains(self) -> bool:
        return self.mode.startswith("train")

    @property
    def only_reads_checkpoint(self) -> bool:
        """Whether the run needs a checkpoint but neither a data set nor a place for results."""
        return self.mode == "export" or (self.mode == "predict" and bool(self.image_paths))

    @property
    def results_dir(self) -> Optional[str]:
        """The directory that the run writes checkpoints and results to; None if it does not."""
        return None if self.only_reads_checkpoint else self.model_dir

    @property
    def checkpoint_steps(self) -> int:
        """Steps between two checkpoints."""
        return self.save_checkpoints_steps or self.iterations_per_loop


class Settings(NamedTuple):
    """All settings; each flag is in exactly one of the first three attributes.

    Attributes:
        hparams: settings of the model.
        device: settings of the device.
        run: settings of the run.
        given: names of the flags that the user set.
    """

    hparams: HParams
    device: Options
    run: RunOptions
    given: FrozenSet[str]


def defaults() -> Dict[str, Any]:
    """The defaults of all settings by name."""
    hparams = amoeba_net_model.default_hparams().values()
    return {**hparams, **Options()._asdict(), **RunOptions()._asdict()}


def from_flags(flags: FlagValues) -> Settings:
    """The settings in the flags, unchecked."""
    hparams = amoeba_net_model.default_hparams()
    for name in hparams.values():
        if name in flags:
            hparams.set_hparam(name, flags[name].value)
    return Settings(
        hparams,
        device=Options(**{name: flags[name].value for name in Options._fields}),
        run=RunOptions(**{name: flags[name].value for name in RunOptions._fields}),
        given=frozenset(name for name in flags if not flags[name].using_default_value),
    )


def common_to_processes(
    hparams: HParams, run: RunOptions, current_step: Callable[[], int]
) -> Dict[str, Any]:
    """What must be the same in all processes that train together, by a name for the user."""
    values = {name: v for name, v in hparams.values().items() if not name.startswith("eval_")}
    del values["num_eval_images"]
    common = {f"--{name}": value for name, value in values.items()}
    common["--train_steps"] = run.train_steps
    common["the step in --model_dir, which all must share,"] = current_step()
    common["the code's checksum"] = agreement.digest_of_code(os.path.dirname(__file__))
    if not hparams.synthetic_data:
        common["the training data"] = imagenet_input.description(run.data_dir, "train", hparams)
    return common
