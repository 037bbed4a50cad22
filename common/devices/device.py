"""What every device does: who trains together, sessions, the optimizer, Estimators."""

import os
from typing import Callable, Dict, Optional, Sequence, Tuple

from common.devices.options import Options
from common.distribution import agreement, peers, stalls
from common.distribution import cluster as clusters
from common.hooks.saving import LeanCheckpointSaverHook
from common.runtime import tf

# Options that must be the same in all processes that train together.
_COMMON_OPTIONS = ("collectives", "loss_scale", "precision_mode", "xla")


class Device:
    """The base of the CPU, the GPU and the NPU.

    Attributes:
        name: 'cpu', 'gpu' or 'npu'.
        options: see `Options`.
        cluster: the processes that train together, as TF_CONFIG says; None for a single one.
        num_devices: devices that train together; on the NPU each has a process, called a rank.
        rank: number of this process among those that train together, from 0.
        gate_gradients: how `compute_gradients` orders gradients and updates.
        data_formats: the orders of axes that convolutions can have.
        trains_pointwise_as_matmul: whether 1x1 convolutions train faster as matrix products.
        skips_steps: whether the wrapped optimizer skips steps whose gradients overflow.
            `global_step` does not advance then, and nothing else may move.
        steps_per_run: steps of one run of the session.
        forgets_checkpoints: whether each `train` counts the checkpoints to keep from 0.
        loss_scale_variable: name of the dynamic loss scale's variable; None if there is none.
        replicates: whether several devices do one step as TensorFlow's replicas of it, under a
            `tf.distribute` strategy.
        shares_evaluation: whether the ranks evaluate their shares of the images, see
            `common.distribution.shares`.
    """

    name: str
    num_devices = 1
    rank = 0
    # Resource variables need no gate, and without one an update starts when its gradient is there.
    gate_gradients = tf.train.Optimizer.GATE_NONE
    data_formats: Tuple[str, ...] = ("NHWC", "NCHW")
    trains_pointwise_as_matmul = False
    skips_steps = False
    steps_per_run = 1
    forgets_checkpoints = False
    loss_scale_variable: Optional[str] = None
    shares_evaluation = False

    def __init__(
        self, options: Optional[Options] = None, cluster: Optional[clusters.Cluster] = None
    ):
        self.options = options or Options()
        self.is_evaluator = cluster is not None and cluster.rank is None
        self.cluster = None if self.is_evaluator else cluster
        if self.cluster:
            self.rank = self.cluster.rank
            self.num_devices = self.cluster.size * self._local_devices()
            tf.logging.info(
                "Process %d of %d that train together: %s.",
                self.rank,
                self.cluster.size,
                self.cluster.name(self.rank),
            )
        elif not self.is_evaluator:
            self.num_devices = self._local_devices()

    def _local_devices(self) -> int:
        """Devices of this process."""
        return 1

    @property
    def replicates(self) -> bool:
        return self.num_devices > 1

    @property
    def is_chief(self) -> bool:
        """Whether this is the process that evaluates, exports and keeps its checkpoints."""
        return self.rank == 0

    @property
    def writes(self) -> bool:
        """Whether this process has a model directory to write to: with TF_CONFIG only the chief."""
        return self.is_chief or not self.cluster

    def model_dir(self, directory: str) -> str:
        """The directory of this process: `directory`, or another rank's place inside it.

        With TF_CONFIG all have the same, which all read checkpoints from.
        """
        if self.is_chief or self.cluster:
            return directory
        return os.path.join(directory, f"rank_{self.rank}")

    def sharding(self) -> Tuple[int, int]:
        """(number of shares of the training data, index of this process's)."""
        if self.cluster:
            return self.cluster.size, self.rank
        return 1, 0

    def check_save_steps(self, save_checkpoints_steps: int):
        """Raises UserError if checkpoints cannot be saved at such an interval."""

    def wrap_optimizer(self, optimizer: tf.train.Optimizer) -> tf.train.Optimizer:
        """The optimizer with what the device needs around it: averaging, loss scaling."""
        return optimizer

    def session_config(self, training: bool = False) -> tf.ConfigProto:
        """Settings of a session that trains, or that only computes answers."""
        raise NotImplementedError

    def graph_seed(self, random_seed: Optional[int], start_step: int = 0) -> Optional[int]:
        """Seed of the random operations of a graph; None for another one each time.

        Processes that train together have their own ones, since they have other images, and so has
        a training that goes on from a step: dropout would be the same again.
        """
        if random_seed is None:
            return None
        return (random_seed + self.rank + start_step * 1_000_003) % 2**31

    def estimator(
        self,
        model_fn: Callable,
        model_dir: str,
        save_checkpoints_steps: int,
        random_seed: Optional[int] = None,
        log_steps: int = 100,
        training: bool = False,
        keep_checkpoint_max: int = 5,
    ) -> tf.estimator.Estimator:
        """An Estimator for this device.

        Args:
            model_fn: the Estimator's.
            model_dir: checkpoints and logs, as `model_dir` names it for this process.
            save_checkpoints_steps: steps between checkpoints.
            random_seed: see `graph_seed`; the initial weights are the chief's.
            log_steps: steps between log lines and summaries.
            training: whether it is for training, or for evaluation and prediction.
            keep_checkpoint_max: how many of the newest checkpoints are kept.
        """
        keywords = {
            "model_dir": model_dir,
            "tf_random_seed": self.graph_seed(random_seed),
            "save_checkpoints_steps": save_checkpoints_steps,
            "save_summary_steps": log_steps,
            "log_step_count_steps": log_steps,
            "keep_checkpoint_max": keep_checkpoint_max,
            "session_config": self.session_config(training),
        }
        return self._make_estimator(model_fn, keywords, training)

    def _make_estimator(self, model_fn, keywords, training) -> tf.estimator.Estimator:
        """An Estimator with these keywords of its RunConfig."""
        if training and self.cluster:
            return self._cluster_estimator(model_fn, keywords)
        if training and self.replicates:
            keywords["train_distribute"] = tf.distribute.MirroredStrategy()
        config = tf.estimator.RunConfig(**keywords)
        return tf.estimator.Estimator(model_fn, config=config, params={})

    def _cluster_estimator(self, model_fn, keywords) -> tf.estimator.Estimator:
        """One of several processes that train together."""
        keywords["save_checkpoints_steps"] = None  # Otherwise the others would save, too.
        keywords["save_checkpoints_secs"] = None
        if not self.is_chief:
            keywords["save_summary_steps"] = 0
            keywords["log_step_count_steps"] = None
        communication = tf.distribute.experimental.CollectiveCommunication
        with self.cluster.in_environment():
            strategy = tf.distribute.experimental.MultiWorkerMirroredStrategy(
                communication[self.options.collectives.upper()]
            )
            config = tf.estimator.RunConfig(train_distribute=strategy, **keywords)
            return tf.estimator.Estimator(model_fn, config=config, params={})

    def train(
        self,
        estimator: tf.estimator.Estimator,
        input_fn: Callable,
        max_steps: int,
        hooks: list,
        saving_listeners: Sequence[tf.train.CheckpointSaverListener] = (),
        check: Callable[[], None] = lambda: None,
        common: Callable[[], Dict[str, object]] = dict,
    ):
        """`estimator.train`, together with the other processes if there are any.

        Args:
            estimator, input_fn, max_steps, hooks, saving_listeners: as `estimator.train` has them.
            check: is called while this process waits for the others; ends that by an exception.
            common: returns what must be the same in all processes, by a name for the user.

        Raises:
            UserError: the others did not come or differ, or one was lost.
        """
        if not self.cluster:
            estimator.train(
                input_fn, hooks=hooks, max_steps=max_steps, saving_listeners=saving_listeners
            )
            return
        for hook in hooks:  # What Estimators do, but not under this strategy.
            if isinstance(hook, LeanCheckpointSaverHook):
                hook.add_listeners(saving_listeners)

        def input_when_all_are_there():  # Before the graph is built, but after the server starts.
            timeout = self.options.cluster_timeout
            clusters.wait_for_others(self.cluster, timeout, check)
            agreement.check(self.cluster, {**self._common(), **common()}, timeout, check)
            return input_fn()

        clusters.check_own_port(self.cluster)
        with peers.training(self.cluster):
            tf.estimator.train_and_evaluate(
                estimator,
                tf.estimator.TrainSpec(input_when_all_are_there, max_steps, hooks),
                tf.estimator.EvalSpec(input_fn),  # Nobody evaluates by it.
            )

    def _common(self) -> Dict[str, object]:
        """What must be the same in all processes that train together, from this device."""
        return {
            "TensorFlow": tf.__version__,
            "the device": self.name,
            "the number of devices": self.num_devices,
            **{f"--{name}": getattr(self.options, name) for name in _COMMON_OPTIONS},
        }

    def training_hooks(
        self,
        model_dir: str,
        save_checkpoints_steps: int,
        log_steps: int,
        max_steps: int,
        check_end: Callable[[int, bool], None],
    ) -> list:
        """Hooks that training needs here.

        Args:
            model_dir, save_checkpoints_steps, log_steps: see `estimator`.
            max_steps: global step at which the training ends.
            check_end: see `peers.ClusterHook`.
        """
        hooks = []
        if self.writes:
            saver = LeanCheckpointSaverHook(model_dir, save_steps=save_checkpoints_steps)
            hooks.append(saver)
        if self.cluster:
            hooks.append(peers.ClusterHook(self.cluster, check_end))
            timeout = self.options.stall_timeout
            if timeout:
                first_timeout = timeout + self.options.cluster_timeout
                hooks.append(stalls.StallHook(self.cluster, timeout, first_timeout))
        return hooks
