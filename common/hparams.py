"""A set of named hyper-parameters, with the interface of tf.contrib.training.HParams."""

from typing import Any, Dict


class HParams:
    """Hyper-parameters as attributes. A name must be added before it can be set."""

    def __init__(self, **values: Any):
        self.__dict__.update(values)

    def add_hparam(self, name: str, value: Any):
        """Adds a name. Raises ValueError if it exists already."""
        if name in self.__dict__:
            raise ValueError(f"Hyper-parameter {name!r} exists already.")
        self.__dict__[name] = value

    def set_hparam(self, name: str, value: Any):
        """Changes the value of a name. Raises ValueError if it does not exist."""
        if name not in self.__dict__:
            names = ", ".join(sorted(self.__dict__))
            raise ValueError(f"Unknown hyper-parameter {name!r}: expected one of {names}.")
        self.__dict__[name] = value

    def __setattr__(self, name: str, value: Any):
        self.set_hparam(name, value)

    def get(self, name: str, default: Any = None) -> Any:
        return self.__dict__.get(name, default)

    def values(self) -> Dict[str, Any]:
        """Returns a copy of all names and values."""
        return dict(self.__dict__)

    def __repr__(self) -> str:
        return "HParams({})".format(", ".join(f"{k}={v!r}" for k, v in self.__dict__.items()))
