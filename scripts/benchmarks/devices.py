"""The devices that benchmarks compare: the CPU, and the precisions of a GPU."""

from common.devices import choosing
from common.devices.cpu import Cpu
from common.devices.device import Device
from common.devices.options import Options
from common.runtime import tf
from scripts.benchmarks import turns

_OPTIONS = {
    "float32": Options(precision_mode="force_fp32"),
    "mixed": Options(),
    "float32+xla": Options(precision_mode="force_fp32", xla=True),
    "mixed+xla": Options(xla=True),
}
NAMES = ("cpu", *_OPTIONS)


def make(name: str) -> Device:
    """The device of a name; raises UserError if there is no GPU."""
    return Cpu() if name == "cpu" else choosing.choose("gpu", _OPTIONS[name])


def peak_memory(device: Device) -> float:
    """What this process had at most so far, in MB: on the GPU if the device is one."""
    if device.name == "cpu":
        return turns.peak_memory()
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
