"""The run config of the Ascend adapter: from options to what the installed release accepts."""

import inspect
import json
import os
from typing import Dict, Iterator, Tuple

from common import limits
from common.devices.options import BASIC_MODES, LATER_MODES, V2_MODES, Options
from common.errors import UserError
from common.runtime import tf


def run_config(adapter, version: str, options: Options, keywords: Dict[str, object]):
    """An `NPURunConfig` with the options, which are flags, and with other keywords.

    Args:
        adapter: the module with the adapter's public names.
        version: of the installed release, for errors.
        options: see there.
        keywords: those that no flag stands for; what the release does not know is left out.

    Raises:
        UserError: a flag that was set has no keyword in this release of the adapter.
    """
    known = set(inspect.signature(adapter.NPURunConfig).parameters)
    missing = sorted(keywords.keys() - known)
    if missing:
        tf.logging.info("The adapter's run config has no %s.", ", ".join(missing))
    accepted = {name: value for name, value in keywords.items() if name in known}
    accepted.update(_keywords_of_flags(adapter, version, options, known))
    return adapter.NPURunConfig(**accepted)


def _keywords_of_flags(adapter, version: str, options: Options, known: set) -> Dict[str, object]:
    keywords = {}
    for flag, keyword, value in _flags_and_keywords(adapter, options):
        if keyword in known:
            keywords[keyword] = value
        elif getattr(options, flag) != Options._field_defaults[flag]:
            raise UserError(
                f"--{flag}={getattr(options, flag)}: the Ascend adapter {version} has no {keyword} "
                "in its run config; leave the flag out or install an adapter that has."
            )
    mode = options.precision_mode
    if mode in LATER_MODES and "precision_mode_v2" not in known:
        raise UserError(
            f"--precision_mode={mode} is unknown to the Ascend adapter {version}: expected one of "
            f"{', '.join(BASIC_MODES)}."
        )
    return keywords


def _flags_and_keywords(adapter, options: Options) -> Iterator[Tuple[str, str, object]]:
    """(flag, keyword, value) of every flag that is to be passed on."""
    mode = options.precision_mode
    yield "precision_mode", "precision_mode_v2" if mode in V2_MODES else "precision_mode", mode
    yield "npu_iterations_per_loop", "iterations_per_loop", options.npu_iterations_per_loop
    if options.profile_dir:
        yield "profile_dir", "profiling_config", _profiling_config(adapter, options)
    if options.dump_dir:
        yield "dump_dir", "dump_config", _dump_config(adapter, options)
    if options.op_compiler_cache_dir:
        _make_directory(options, "op_compiler_cache_dir")
        yield "op_compiler_cache_dir", "op_compiler_cache_mode", "enable"
        yield "op_compiler_cache_dir", "op_compiler_cache_dir", options.op_compiler_cache_dir
    for flag in ("fusion_switch_file", "modify_mixlist", "aoe_mode"):
        if getattr(options, flag):
            yield flag, flag, getattr(options, flag)
    if options.deterministic:
        yield "deterministic", "deterministic", 1


def _make_directory(options: Options, flag: str):
    """Makes a flag's directory: the adapter wants it to be there."""
    path = getattr(options, flag)
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UserError(f"--{flag}={path} cannot be made: {error}.") from error


def _profiling_config(adapter, options: Options):
    _make_directory(options, "profile_dir")
    settings = {
        "output": options.profile_dir,
        "training_trace": "on",
        "task_trace": "on",
        "fp_point": "",
        "bp_point": "",
    }
    return adapter.ProfilingConfig(enable_profiling=True, profiling_options=json.dumps(settings))


def _dump_config(adapter, options: Options):
    _make_directory(options, "dump_dir")
    return adapter.DumpConfig(
        enable_dump=options.dump_debug is None,
        dump_path=options.dump_dir,
        dump_step=options.dump_step,
        dump_mode=options.dump_mode,
        enable_dump_debug=options.dump_debug is not None,
        dump_debug_mode=options.dump_debug or "all",
    )


def check_files(options: Options):
    """Checks that the files the NPU is to read are there and JSON; raises UserError."""
    for flag in ("fusion_switch_file", "modify_mixlist"):
        path = getattr(options, flag)
        if not path:
            continue
        try:
            limits.read_json(path)
        except (OSError, UserError) as error:
            raise UserError(f"--{flag}={path} cannot be read as JSON: {error}") from error
