"""What `npu_device.compat` is to those who import npu_device (python/npu_device/_api/compat)."""

from npu_device.compat.utils import SessionConfigBuilder  # noqa: F401
from npu_device.npu_device import enable_v1  # noqa: F401
