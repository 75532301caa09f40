"""What a fuzz target is, and how targets are found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from mutation import Mutator, mutated_bytes


class Target(ABC):
    """One thing that reads bytes it cannot trust.

    `weight`: its part of all inputs.
    """

    name: ClassVar[str]
    weight: ClassVar[float] = 1.0
    mutate: Mutator = staticmethod(mutated_bytes)

    def __init__(self, folder: Path) -> None:
        """Prepare to run in `folder`, the only place that may change."""
        self.folder = folder

    @abstractmethod
    def seeds(self) -> list[bytes]:
        """Return valid inputs."""

    @abstractmethod
    def run(self, data: bytes) -> None:
        """Read one input; only a `CheckpointError` may come out."""

    def close(self) -> None:  # noqa: B027 - most have nothing to end
        """End what `__init__` began."""


@contextmanager
def opened(kind: type[Target], folder: Path) -> Iterator[Target]:
    """Give a target of `kind`, ended afterwards."""
    target = kind(folder)
    try:
        yield target
    finally:
        target.close()


def all_targets() -> dict[str, type[Target]]:
    """Return every target by its name."""
    import targets_agent
    import targets_engine
    import targets_rest
    import targets_store
    import targets_words

    kinds = [kind for module in (targets_store, targets_engine, targets_words, targets_agent,
                                 targets_rest)
             for kind in vars(module).values()
             if isinstance(kind, type) and issubclass(kind, Target) and hasattr(kind, "name")
             and kind.__module__ == module.__name__]
    return {kind.name: kind for kind in kinds}
