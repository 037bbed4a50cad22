"""A stand-in for Huawei's adapter for TensorFlow 2.6, for machines without an Ascend card.

Sources: tf_adapter_2.x of github.com/Ascend/tensorflow at commit 085a7b2, python/npu_device/ and
compat_v1/CMakeLists.txt, which makes npu_device/compat/v1 of the files of npu_bridge and leaves out
loss scaling. So it is here: compat/v1 is the stand-in for npu_bridge but for that. These sources
were only read, never run.
"""

# The attribute `compat` is this; the module `npu_device.compat` is another, which this one imports.
from npu_device._api import compat  # noqa: F401
