"""A group of PyTorch's processes is refused: each would train a model of its own."""

import pytest
import toy

if toy.BACKEND != "torch":
    pytest.skip("processes of PyTorch", allow_module_level=True)

from torch import distributed


def test_a_group_of_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy.build("SharedBottom")
    model.compile("sgd")
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    for call in (lambda: model.compile("sgd"), lambda: model.fit(toy.features(), toy.labels())):
        with pytest.raises(RuntimeError, match=r"one process.*of size 2\..*mtl\.training\.join"):
            call()
