"""Settings of a device: their legal values, and the checks that do not depend on the device."""

import re
from typing import NamedTuple, Optional

from common.errors import UserError

NAMES = ("auto", "npu", "gpu", "cpu")

# The Ascend adapter's precision modes: those of every release, those of later releases, and the
# names that belong to the keyword `precision_mode_v2`.
BASIC_MODES = (
    "allow_fp32_to_fp16",
    "force_fp16",
    "force_fp32",
    "must_keep_origin_dtype",
    "allow_mix_precision",
)
LATER_MODES = (
    "cube_fp16in_fp32out",
    "allow_mix_precision_fp16",
    "allow_mix_precision_bf16",
    "allow_fp32_to_bf16",
)
V2_MODES = ("fp16", "origin", "mixed_float16", "mixed_bfloat16")
PRECISION_MODES = BASIC_MODES + LATER_MODES + V2_MODES

_MIXLIST_MODES = tuple(mode for mode in PRECISION_MODES if "mix" in mode)

DUMP_MODES = ("input", "output", "all")
DUMP_DEBUG_MODES = ("aicore_overflow", "atomic_overflow", "all")
AOE_MODES = ("1", "2", "4", "mdat")
COLLECTIVES = ("auto", "ring", "nccl")

# The options that also matter to other devices than the NPU.
NOT_FOR_NPU_ALONE = (
    "precision_mode",
    "loss_scale",
    "xla",
    "collectives",
    "cluster_timeout",
    "stall_timeout",
)


class Options(NamedTuple):
    """Settings of a device; each is a flag of the same name in the entry point."""

    precision_mode: str = "allow_fp32_to_fp16"  # One of PRECISION_MODES.
    loss_scale: str = "dynamic"  # Or 'none', or a number of at least 1.
    npu_iterations_per_loop: int = 1  # Steps that run on the NPU without coming back to the host.
    profile_dir: Optional[str] = None
    dump_dir: Optional[str] = None
    dump_mode: str = "all"  # Which tensors of an operator: one of DUMP_MODES.
    dump_step: Optional[str] = None  # Like '0|5-10'; None: every step.
    dump_debug: Optional[str] = None  # One of DUMP_DEBUG_MODES: dump operators that overflow.
    op_compiler_cache_dir: Optional[str] = None
    fusion_switch_file: Optional[str] = None
    modify_mixlist: Optional[str] = None
    deterministic: bool = False
    aoe_mode: Optional[str] = None  # Tuning of operators and graphs: one of AOE_MODES.
    xla: bool = False  # On GPUs: compile the graph.
    # Several processes, described by TF_CONFIG.
    collectives: str = "auto"  # How gradients are summed: one of COLLECTIVES.
    cluster_timeout: int = 600  # Seconds to wait for the other processes.
    stall_timeout: int = 600  # Most seconds between the ends of two steps; 0: no limit.


def check(options: Options):
    """Checks what does not depend on the device; raises UserError."""
    scale = options.loss_scale
    if scale not in ("dynamic", "none") and not _is_loss_scale(scale):
        raise UserError(f"--loss_scale={scale}: expected dynamic, none or a number of at least 1.")
    if options.precision_mode not in PRECISION_MODES:
        raise UserError(
            f"--precision_mode={options.precision_mode}: expected one of "
            f"{', '.join(PRECISION_MODES)}."
        )
    if options.modify_mixlist and options.precision_mode not in _MIXLIST_MODES:
        raise UserError(
            f"--modify_mixlist goes with mixed precision, not with --precision_mode="
            f"{options.precision_mode}: use one of {', '.join(_MIXLIST_MODES)}."
        )
    for flag in ("dump_step", "dump_debug"):
        if getattr(options, flag) and not options.dump_dir:
            raise UserError(f"--{flag} needs --dump_dir: where to write what is dumped.")
    if options.dump_step:
        _check_dump_step(options.dump_step)


def _check_dump_step(text: str):
    """Checks what the adapter would not before the first step (npu_attrs.cc)."""
    parts = text.split("|")
    matches = [re.fullmatch(r"(\d+)(?:-(\d+))?", part) for part in parts]
    if not all(m and (not m[2] or int(m[1]) < int(m[2])) for m in matches) or len(parts) > 100:
        raise UserError(
            f"--dump_step={text}: expected at most 100 steps and ascending ranges between bars, "
            "like 0|5-10."
        )


def _is_loss_scale(text: str) -> bool:
    """Neither the Ascend adapter nor TensorFlow takes one below 1."""
    try:
        return 1.0 <= float(text) < float("inf")
    except ValueError:
        return False
