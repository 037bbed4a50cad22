"""The adapter's package for sessions: the files of npu_bridge, under another name."""

import os

__version__ = "v2.6.2"
RELEASE = (1, 15)  # What npu_bridge was when its files were taken.

__path__.append(os.path.join(os.path.abspath(__file__).rsplit(os.sep + "tf26", 1)[0], "npu_bridge"))
