"""Starts a new training from the weights of another one's checkpoint."""

import re
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

from common.checkpoints import reading
from common.distribution import replication
from common.errors import UserError
from common.runtime import tf

# Of the variables that are not excluded, the least part that must fit. Networks of other cells
# share up to half of their names and shapes; weights that mean something else there.
_MIN_TAKEN = 0.75

# Reasons to leave a variable out.
EXCLUDED = "excluded by --init_exclude"
MISSING = "not in the checkpoint"
OTHER_SHAPE = "of another shape in the checkpoint"


class Choice(NamedTuple):
    """Which variables start from a checkpoint.

    Attributes:
        taken: variable -> the name its value has in the checkpoint.
        left_out: variable -> the reason.
    """

    taken: Dict[str, str]
    left_out: Dict[str, str]

    def fits(self) -> bool:
        """Whether the checkpoint is of this network, except for a few variables."""
        wanted = [reason for reason in self.left_out.values() if reason != EXCLUDED]
        return bool(self.taken) and len(self.taken) >= _MIN_TAKEN * (len(self.taken) + len(wanted))


def choose(
    wanted: Dict[str, List[int]],
    available: Dict[str, List[int]],
    exclude: Optional[str] = None,
    averages: bool = True,
) -> Choice:
    """Chooses the variables to take from a checkpoint: those with the same name and shape.

    Args:
        wanted: name -> shape of the network's variables.
        available: name -> shape in the checkpoint.
        exclude: a regular expression; the variables it finds are left out.
        averages: whether to take a variable's moving average where the checkpoint has one.
    """
    taken, left_out = {}, {}
    for name, shape in wanted.items():
        source = reading.average_name(name)
        if not averages or source not in available:
            source = name
        if exclude is not None and re.search(exclude, name):
            left_out[name] = EXCLUDED
        elif source not in available:
            left_out[name] = MISSING
        elif list(available[source]) != list(shape):
            left_out[name] = OTHER_SHAPE
        else:
            taken[name] = source
    return Choice(taken, left_out)


def plan(
    path: str,
    variables: Sequence[tf.Variable],
    exclude: Optional[str] = None,
    averages: bool = True,
    advice: Callable[[], str] = str,
) -> Choice:
    """Chooses which variables start from a checkpoint, and logs which do not and why.

    Args:
        path: prefix of the checkpoint.
        variables: those of the network, without moving averages.
        exclude, averages: see `choose`.
        advice: makes a sentence on what to change if the checkpoint is of another network.

    Raises:
        UserError: `exclude` finds nothing, or (almost) nothing of the checkpoint fits.
    """
    available = reading.variable_shapes(reading.open_checkpoint(path))
    wanted = {replication.name(v): v.shape.as_list() for v in variables}
    choice = choose(wanted, available, exclude, averages)
    if exclude is not None and EXCLUDED not in choice.left_out.values():
        names = list(wanted)
        raise UserError(
            f"--init_exclude={exclude} matches none of the {len(names)} variables: their names are "
            f"like {names[0]} and {names[-1]}. Leave the flag out or correct it."
        )
    if not choice.fits():
        raise UserError(_misfit(path, choice, wanted, available, advice()))
    for line in table(path, choice, wanted, available):
        tf.logging.info("%s", line)
    return choice


def _misfit(path, choice, wanted, available, advice) -> str:
    """Says that a checkpoint is of another network, and names a variable that differs."""
    problems = {n: reason for n, reason in choice.left_out.items() if reason != EXCLUDED}
    if not problems:
        return f"--init_exclude leaves nothing to take from {path}: correct it."
    name = next(
        (n for n, reason in problems.items() if reason == OTHER_SHAPE), next(iter(problems))
    )
    return (
        f"--init_checkpoint: {path} is of another network: only {len(choice.taken)} of "
        f"{len(choice.taken) + len(problems)} variables fit. {name}, for one, has shape "
        f"{wanted[name]} here and {_found(name, available)} there. {advice}"
    ).rstrip()


def _found(name, available) -> str:
    """Returns the shape of a variable in a checkpoint as text, or that there is none."""
    source = reading.average_name(name)
    shape = available.get(source, available.get(name))
    return "no counterpart" if shape is None else str(shape)


def table(path, choice: Choice, wanted, available, examples: int = 4) -> List[str]:
    """Returns lines for the log: how many variables are taken and left out, and a few names."""
    averages = sum(name != source for name, source in choice.taken.items())
    lines = [
        f"Starting from {path}:",
        f"{len(choice.taken):6d} variables taken: {averages} moving averages, "
        f"{len(choice.taken) - averages} raw values",
    ]
    for reason in (EXCLUDED, MISSING, OTHER_SHAPE):
        names = [name for name, why in choice.left_out.items() if why == reason]
        if not names:
            continue
        shown = [
            f"{n} ({_found(n, available)}, here {wanted[n]})" if reason == OTHER_SHAPE else n
            for n in names[:examples]
        ]
        more = f" and {len(names) - examples} more" if len(names) > examples else ""
        lines.append(f"{len(names):6d} left out, {reason}: {', '.join(shown)}{more}")
    return lines


def init_fn(path: str, sources: Dict[tf.Variable, str]) -> Callable:
    """Returns an `init_fn` for `tf.train.Scaffold` that sets variables from a checkpoint.

    Like `tf.Variable.load`, it runs the initialisers with other values fed to them, but all of them
    in one run. It adds nothing to the graph and works wherever variables can be initialised. It is
    not called if the session restores a checkpoint of its own training.

    Args:
        path: prefix of the checkpoint.
        sources: variable -> name in the checkpoint.
    """

    def load(scaffold, session):
        reader = reading.open_checkpoint(path)
        try:
            values = {name: reader.get_tensor(name) for name in set(sources.values())}
        except reading.UNREADABLE as error:
            raise UserError(
                f"--init_checkpoint: {path} is damaged or not all there: {error}. Take another one."
            ) from error
        initializers = {
            copy.initializer: values[name]
            for variable, name in sources.items()
            for copy in replication.copies(variable)
        }
        session.run(
            list(initializers), {init.inputs[1]: value for init, value in initializers.items()}
        )

    return load
