"""The options that are checked in a session's first run on the NPU, not before.

Sources: util/npu_attrs.cc (`NpuAttrs::SetNpuOptimizerAttr`), util/ge_plugin.cc (the number of the
device).
"""

import os
import re

import tensorflow.compat.v1 as tf

from . import RELEASE

_MIXED_MODES = ("allow_mix_precision", "allow_mix_precision_fp16", "allow_mix_precision_bf16")
_LEGAL = {
    "precision_mode": (
        "force_fp32",
        "allow_fp32_to_fp16",
        "force_fp16",
        "must_keep_origin_dtype",
        "allow_mix_precision",
        "cube_fp16in_fp32out",
        "allow_mix_precision_fp16",
        "allow_mix_precision_bf16",
        "allow_fp32_to_bf16",
    ),
    "precision_mode_v2": (
        *("fp16", "origin", "cube_fp16in_fp32out", "mixed_float16", "mixed_bfloat16"),
    ),
    **({"jit_compile": ("true", "false", "auto")} if RELEASE >= (1, 13) else {}),
}


class AbortError(BaseException):
    """Where the library ends the process with LOG(FATAL); no program catches this."""


def check(parameters):
    """Checks the NpuOptimizer's parameters.

    Raises:
        tf.errors.InternalError, tf.errors.InvalidArgumentError, AbortError: as the library does.
    """
    given = {name: _value(attribute) for name, attribute in parameters.items()}
    _check_dump(given)
    _check_tuning(given)
    _check_precision(given)
    if given.get("compress_weight_conf"):
        raise AbortError("enable_compress_weight does not go with compress_weight_conf")
    if not 0 <= given.get("enable_exception_dump", 0) <= 2:
        _fail("enable_exception_dump is not 0, 1 or 2")
    device = os.environ.get("ASCEND_DEVICE_ID") or os.environ.get("DEVICE_ID") or "0"
    if not device.isdigit():
        raise AbortError(f"ASCEND_DEVICE_ID is {device}, no number")


def _value(attribute):
    kind = attribute.WhichOneof("value")
    return attribute.s.decode() if kind == "s" else getattr(attribute, kind)


def _fail(message: str, error=tf.errors.InternalError):
    raise error(None, None, message)


def _check_dump(given):
    dumps, debugs = given.get("enable_dump"), given.get("enable_dump_debug")
    if not dumps and not debugs:
        return
    path = given.get("dump_path")
    if path is None:
        _fail("dump_path must be set to dump")
    if not os.path.isdir(path) or not os.access(path, os.R_OK | os.W_OK):
        _fail(f"the dump_path {path} is no directory to read and write")
    if dumps and given.get("dump_mode") not in ("input", "output", "all"):
        raise AbortError(f"dump_mode is {given.get('dump_mode')}")
    if debugs and given["dump_debug_mode"] not in ("aicore_overflow", "atomic_overflow", "all"):
        raise AbortError(f"dump_debug_mode is {given['dump_debug_mode']}")
    steps = given["dump_step"].split("|") if dumps and given.get("dump_step") else []
    if len(steps) > 100:
        _fail("dump_step has more than 100 parts")
    for part in steps:
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not ends or (ends.group(2) and int(ends.group(1)) >= int(ends.group(2))):
            _fail(f"dump_step has {part}, neither a step nor a range that ascends")


def _check_tuning(given):
    mode = given.get("aoe_mode") or os.environ.get("AOE_MODE")
    if RELEASE >= (1, 9) and mode:
        if mode not in ("1", "2", "4", "mdat"):
            _fail(f"aoe_mode is {mode}")
        if not os.path.isdir(given.get("work_path", "./")):
            raise AbortError(f"work_path {given['work_path']} is no directory")


def _check_precision(given):
    for name, legal in _LEGAL.items():
        if name in given and given[name] not in legal:
            _fail(f"{name} is {given[name]}", tf.errors.InvalidArgumentError)
    if given.get("precision_mode") and given.get("precision_mode_v2"):
        _fail("precision_mode and precision_mode_v2 are both given")
    mixed = given.get("precision_mode") in _MIXED_MODES or given.get("precision_mode_v2") in (
        "mixed_float16",
        "mixed_bfloat16",
    )
    if given.get("modify_mixlist") and not mixed:
        _fail("modify_mixlist needs a mixed precision")
