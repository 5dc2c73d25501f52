"""What models of a funnel have in common: binary tasks in order, and hidden conditionals."""

from __future__ import annotations

from collections.abc import Sequence

from mtl.tasks import Task


def check_steps(model: str, expected: str, tasks: Sequence[Task], count: int | None = None) -> None:
    """Raise ValueError unless all tasks are binary, and as many as they should be.

    Args:
        model: name of the factory.
        expected: its tasks in words.
        tasks: the tasks.
        count: int or None. How many there should be. Defaults to None: any number.
    """
    if {task.type for task in tasks} != {"binary"} or len(tasks) != (count or len(tasks)):
        received = [(task.name, task.type) for task in tasks]
        raise ValueError(f"{model} should have {expected}. Received: {received}")


def check_hidden(model: str, tasks: Sequence[Task], hidden: Sequence[str]) -> None:
    """Raise ValueError if a task has the name of one that the model keeps to itself."""
    taken = {name for task in tasks for name in (task.name, task.output_name)}
    if clash := [name for name in hidden if name in taken]:
        raise ValueError(
            f"`task_names` of {model} should not hold {clash[0]!r}: that is a hidden task. "
            f"Received: {[task.name for task in tasks]}"
        )
