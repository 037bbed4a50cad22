"""Looks at whichever `npu_bridge` can be imported and prints, as JSON, what a stand-in must share.

It needs nothing of the adapter's library but that it can be loaded.
"""

import inspect
import json
import os
import sys
import tempfile

from common.runtime import tf

npu = None  # The adapter's module with the names; its import changes TensorFlow.


def _outcome(function, *args, **kwargs):
    """'accepted', or the name of the exception."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        return type(error).__name__
    return "accepted"


def _keywords():
    parameters = inspect.signature(npu.NPURunConfig).parameters.values()
    return {
        parameter.name: parameter.default for parameter in parameters if parameter.name != "self"
    }


def _refusals():
    settings = [
        *({"iterations_per_loop": value} for value in (0, 1.5, "2", True, 3)),
        *({"mix_compile_mode": value} for value in (1, True)),
        {"mix_compile_mode": True, "iterations_per_loop": 2},
        *({"jit_compile": value} for value in (False, "no")),
        *({name: {}} for name in ("dump_config", "dynamic_input_config", "profiling_config")),
        {"save_checkpoints_steps": 5, "save_checkpoints_secs": 5},
        *({"horovod_mode": value} for value in (1, True)),
        *({"graph_run_mode": value} for value in (-1, 0, 2, "1")),
        *({"enable_exception_dump": value} for value in (-1, 7)),
        {"precision_mode": "x", "precision_mode_v2": "y"},
        {"there_is_no_such": 1},
    ]
    found = [(str(keywords), _outcome(npu.NPURunConfig, **keywords)) for keywords in settings]
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"chief": ["localhost:2222"]}})
    found.append(("TF_CONFIG", _outcome(npu.NPURunConfig)))
    del os.environ["TF_CONFIG"]

    def model_fn(features):
        return features

    plain, own = tf.estimator.RunConfig(), npu.NPURunConfig(model_dir="one")
    optimizer = tf.train.GradientDescentOptimizer(1.0)
    return found + [
        ("plain config", _outcome(npu.NPUEstimator, model_fn, config=plain)),
        ("no config", _outcome(npu.NPUEstimator, model_fn)),
        ("directories", _outcome(npu.NPUEstimator, model_fn, "other", own)),
        ("no manager", _outcome(npu.NPUOptimizer, optimizer, is_loss_scale=True)),
        ("scale 0.5", _outcome(npu.FixedLossScaleManager, 0.5)),
        ("scale 1", _outcome(npu.FixedLossScaleManager, 1)),
        ("first scale 0.5", _outcome(npu.ExponentialUpdateLossScaleManager, 0.5, 1)),
        ("rank", npu.get_rank_id()),
        ("size", npu.get_rank_size()),
        ("local size", _outcome(npu.get_local_rank_size)),
    ]


def _session_configs():
    """What becomes of a session's config, which is the caller's own."""
    given = tf.ConfigProto(log_device_placement=True)
    with tf.Session("", tf.Graph(), given), tf.Session(graph=tf.Graph()) as session:
        configs = (given, session._config)
    return [
        {
            "soft": config.allow_soft_placement,
            "log": config.log_device_placement,
            "jit": config.graph_options.optimizer_options.global_jit_level,
            "remapping": config.graph_options.rewrite_options.remapping,
            "memory": config.graph_options.rewrite_options.memory_optimization,
            "custom": [o.name for o in config.graph_options.rewrite_options.custom_optimizers],
        }
        for config in configs
    ]


def _loss_scales():
    """The variables of a loss scale, and their values after each of some steps."""
    with tf.Graph().as_default(), tf.Session() as session:
        with tf.variable_scope("", use_resource=True):
            manager = npu.ExponentialUpdateLossScaleManager(8.0, 3, 2, decr_ratio=0.25)
            largest = npu.ExponentialUpdateLossScaleManager(2e38, 1, 1)
        variables = tf.global_variables()
        facts = [
            (v.op.name, v.dtype.base_dtype.name, v.shape.as_list(), v in tf.trainable_variables())
            for v in variables
        ]
        finite = tf.placeholder(tf.bool, [])
        update = tf.group(*[m.update_loss_scale(finite) for m in (manager, largest)])
        session.run(tf.global_variables_initializer())
        for is_finite in [True] * 4 + [False, True, True, False] + [False] * 5 + [True] * 7:
            session.run(update, {finite: is_finite})
            facts.append([float(value) for value in session.run(variables)])
    return facts


def _optimizers():
    """Whether each takes its gradients as an iterator, and what it returns; the kind of gate."""
    facts = []
    for make in (
        lambda o: npu.NPULossScaleOptimizer(o, npu.FixedLossScaleManager(8.0)),
        lambda o: npu.NPUOptimizer(o, npu.FixedLossScaleManager(8.0), is_loss_scale=True),
        npu.NPUDistributedOptimizer,
    ):
        with tf.Graph().as_default():
            weight = tf.get_variable("weight", [3])
            tf.get_variable("unused", [])
            optimizer = make(tf.train.MomentumOptimizer(0.1, 0.9))
            pairs = optimizer.compute_gradients(tf.reduce_sum(weight), gate_gradients=1)
            applied = optimizer.apply_gradients(pairs)
            facts.append(
                {
                    "name": optimizer.get_name(),
                    "pairs": [type(pairs).__name__, [gradient is None for gradient, _ in pairs]],
                    "iterator": _outcome(optimizer.apply_gradients, iter(pairs)),
                    "applied": type(applied).__name__,
                    "slot": optimizer.get_slot(weight, "momentum").op.name,
                }
            )
    return facts


def _estimator():
    """What an Estimator makes of a model function's specification, and of its session's config."""

    class Own(tf.train.SessionRunHook):
        pass

    def model_fn(features, labels, mode):
        step = tf.train.get_or_create_global_step()
        hooks = [Own()]
        return tf.estimator.EstimatorSpec(
            mode, loss=tf.reduce_sum(features), train_op=step.assign_add(1), training_hooks=hooks
        )

    facts = []
    for loop, ranks in ((1, 1), (3, 2)):
        os.environ["RANK_SIZE"] = str(ranks)
        with tempfile.TemporaryDirectory() as directory, tf.Graph().as_default():
            given = tf.ConfigProto()
            config = npu.NPURunConfig(
                model_dir=directory, iterations_per_loop=loop, session_config=given
            )
            estimator = npu.NPUEstimator(model_fn, config=config)
            spec = estimator.model_fn(tf.ones([2]), tf.ones([2]), "train", config)
            for hook in spec.training_hooks:
                hook.begin()
            rewrites = given.graph_options.rewrite_options
            facts.append(
                {
                    "hooks": [type(hook).__name__ for hook in spec.training_hooks],
                    "train_op": spec.train_op.op.name if loop == 1 else spec.train_op.name,
                    "local": [
                        (v.op.name, v.dtype.base_dtype.name, v.shape.as_list())
                        for v in tf.local_variables()
                    ],
                    "loop": [v.op.name for v in tf.get_collection(_LOOP_VARIABLES)],
                    "saves_every": config.save_checkpoints_steps,
                    "passes": list(rewrites.optimizers),
                    "custom": [optimizer.name for optimizer in rewrites.custom_optimizers],
                }
            )
    del os.environ["RANK_SIZE"]
    return facts


_LOOP_VARIABLES = "npu_runconfig_iterations_per_loop"


def main():
    global npu
    import npu_bridge.npu_init as npu

    facts = {
        "version": sys.modules["npu_bridge"].__version__,
        "keywords": _keywords(),
        "refusals": _refusals(),
        "sessions": _session_configs(),
        "loss_scales": _loss_scales(),
        "optimizers": _optimizers(),
        "estimator": _estimator(),
    }
    print()
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
