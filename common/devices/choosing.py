"""Which device to run on."""

import glob
import os
from typing import Optional, Tuple

from common.devices import gpu, npu
from common.devices import options as device_options
from common.devices.cpu import Cpu
from common.devices.device import Device
from common.devices.gpu import Gpu
from common.devices.npu import Npu
from common.devices.options import NOT_FOR_NPU_ALONE, Options
from common.distribution.cluster import Cluster
from common.errors import UserError
from common.runtime import tf


def choose(
    name: str, options: Optional[Options] = None, cluster: Optional[Cluster] = None
) -> Device:
    """The device of this name; 'auto' takes the best that is there and logs which one and why.

    Args:
        name: one of common.devices.options.NAMES.
        options: see there.
        cluster: the processes of TF_CONFIG; not for the NPU, whose processes are ranks.

    Raises:
        UserError: the one asked for is not there, or does not take the options.
    """
    options = options or Options()
    device_options.check(options)
    if name == "auto":
        name, reason = _best()
        tf.logging.info("Running on the %s: %s.", name.upper(), reason)
    else:
        tf.logging.info("Running on the %s, as asked.", name.upper())
    if options.xla and name != "gpu":
        raise UserError(f"--xla is for GPUs, and this runs on the {name.upper()}: leave it out.")
    if name == "npu":
        if cluster:
            tf.logging.info("TF_CONFIG has no effect: on the NPU the ranks train together.")
        return Npu(options)
    _check_without_npu(name, options)
    if name == "gpu":
        return Gpu(options, cluster)
    if cluster and gpu.is_there():
        gpu.hide()
    return Cpu(options, cluster)


def _best() -> Tuple[str, str]:
    """(name, reason) of the best device there is."""
    adapter = npu.find_adapter()  # Imports nothing.
    if adapter and glob.glob("/dev/davinci[0-9]*"):
        return "npu", f"there are an NPU and its adapter, {adapter}"
    reason = "its adapter is installed but there is no NPU" if adapter else "there is no NPU"
    if gpu.is_there():
        return "gpu", f"{reason}, and TensorFlow sees a GPU"
    return "cpu", f"{reason} and no GPU that TensorFlow sees"


def _check_without_npu(name: str, options: Options):
    """Refuses what would mislead away from the NPU; says once which flags have no effect."""
    size = os.environ.get("RANK_SIZE", "1")
    if size != "1":
        raise UserError(
            f"RANK_SIZE={size} in the environment, but several devices need --accelerator=npu, and "
            f"this is the {name.upper()}: unset it or set it to 1."
        )
    if options.deterministic:
        raise UserError(
            f"--deterministic is for the NPU: on the {name.upper()} the order of sums is not fixed."
        )
    if name == "cpu":
        tf.logging.info(
            "The CPU computes in float32: --precision_mode=%s and --loss_scale=%s have no effect.",
            options.precision_mode,
            options.loss_scale,
        )
    ignored = [
        f"--{flag}={value}"
        for flag, value in options._asdict().items()
        if value != Options._field_defaults[flag] and flag not in NOT_FOR_NPU_ALONE
    ]
    if ignored:
        tf.logging.info("Without effect, since they are for the NPU: %s", " ".join(ignored))
