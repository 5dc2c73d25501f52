"""The arguments of a factory, as type checkers, `help` and Python itself see them."""

import inspect
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import pytest
import toy

from mtl.models import ESMM, PLE, MMoE
from mtl.models.options import Options, Unpack, model

CALLS = """
from mtl.features import DenseFeat
from mtl.models import ESMM, PLE, MMoE

columns = [DenseFeat("age")]
good = PLE(columns, num_tasks=2, num_levels=3, dnn_dropout=0.1, tower_dnn_units_lists=[[4], []])
also = ESMM(columns, task_type="binary", task_names=["click", "buy"], seed=None)
reveal_type(good)
PLE(columns, num_task=2)
PLE(columns, num_levels="2")
MMoE(columns, dnn_dropout="0.1")
MMoE(columns, expert_dnn_units=None)
MMoE(columns, 2)
MMoE(columns, gate="dselect_k", num_select=2)
MMoE(columns, gate="dselect")
"""


@pytest.mark.slow
def test_a_type_checker_reports_misspelled_and_mistyped_arguments(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="the extra dev is not installed")
    script = tmp_path / "calls.py"
    script.write_text(CALLS)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    result = subprocess.run(
        [*command, str(script)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    lines: dict[int, str] = {}
    for line in result.stdout.splitlines():
        if "calls.py:" in line:
            lines.setdefault(int(line.split(":")[1]), "")
            lines[int(line.split(":")[1])] += line
    assert "MultiTaskModel" in lines.pop(8)
    expected = {
        9: 'Unexpected keyword argument "num_task" for "PLE"; did you mean "num_tasks"?',
        10: 'Argument "num_levels" to "PLE" has incompatible type "str"; expected "int"',
        11: 'Argument "dnn_dropout" to "MMoE" has incompatible type "str"; expected "float"',
        12: 'Argument "expert_dnn_units" to "MMoE" has incompatible type "None"',
        13: 'Too many positional arguments for "MMoE"',
        14: 'keyword argument "num_select" for "MMoE"; did you mean "num_selected"?',
        15: 'Argument "gate" to "MMoE" has incompatible type',
    }
    assert lines.keys() == expected.keys(), result.stdout + result.stderr
    for number, message in expected.items():
        assert message in lines[number]


def test_the_signature_shows_plain_types_and_every_default() -> None:
    text = str(inspect.signature(PLE))
    assert text.startswith("(dnn_feature_columns: Any, *, num_levels: int = 2, num_experts")
    assert "expert_dnn_units: collections.abc.Sequence[int] = (64, 64)" in text
    assert "tower_dnn_units_lists: collections.abc.Sequence[" in text
    assert "seed: int | None = 1024, dnn_dropout: float = 0" in text
    assert text.endswith("-> mtl.training.model.MultiTaskModel")
    assert "Annotated" not in text
    assert "task_names: collections.abc.Sequence[str] | None = ('ctr', 'ctcvr')" in str(
        inspect.signature(ESMM)
    )


def test_help_shows_each_option_once_where_args_are(capsys: pytest.CaptureFixture[str]) -> None:
    help(MMoE)
    text = capsys.readouterr().out
    assert "g^k = softmax(W_k x / τ)" in text
    for option in Options.__annotations__:
        assert text.count(f"        {option}: ") == 1
    assert text.index("gate_temperature: float above 0") < text.index("num_tasks: int or None")
    assert text.index("name: str or None. Name of the model") < text.index("Returns:")
    assert text.index("Returns:") < text.index("Raises:") < text.index("References:")
    # What a factory says of an option itself stands in place of what they have in common.
    assert 'Defaults to ("ctr", "ctcvr")' in (ESMM.__doc__ or "")
    assert "task_1" not in (ESMM.__doc__ or "")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_expert": 4}, r"MMoE\(\) got an unexpected keyword argument 'num_expert'. Did you"),
        ({"xyz": 4}, r"'xyz'. It takes \['num_experts', "),
        ({"num_expert": -1, "num_tasks": 0}, "num_expert"),
    ],
)
def test_an_unknown_argument_is_named(options: dict[str, int], match: str) -> None:
    with pytest.raises(TypeError, match=match):
        MMoE(toy.columns(), **{"num_tasks": 2, **options})


@model(search={}, any_of=("this", "that"))
def Needy(
    dnn_feature_columns: Any,
    *,
    name_of: str,
    this: str | None = None,
    that: Sequence[str] | None = None,
    **options: Unpack[Options],
) -> dict[str, Any]:
    """Return what arrives.

    Args:
        dnn_feature_columns: anything.
        name_of: str. It has no default.
        this: str or None. One of two. Defaults to None.
        that: list of str or None. The other. Defaults to None.
        **options: what every model takes.
    """
    return {"name_of": name_of, "this": this, "that": that}


def test_what_a_model_cannot_do_without_is_named() -> None:
    # As Python says it, and with what is expected.
    match = r"^Needy\(\) missing required keyword argument 'name_of' \(str\)$"
    for options in ({}, {"this": "a"}, {"name_of": None, "that": ["a"]}):
        with pytest.raises(TypeError, match=match):
            Needy([], **options)
    either = r"^Needy\(\) missing required keyword argument 'this' \(str \| None\) or 'that' \("
    with pytest.raises(TypeError, match=either):
        Needy([], name_of="a", that=None)
    assert Needy([], name_of="a", this="b") == {"name_of": "a", "this": "b", "that": None}
    assert Needy([], name_of="a", that=["b"])["that"] == ["b"]
    assert "(dnn_feature_columns: Any, *, name_of: str, this: " in str(inspect.signature(Needy))
    assert Needy.needs == [("name_of",), ("this", "that")]
    assert PLE.needs == []


def test_errors_come_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    from mtl.models import network

    def built(*args: object, **kwargs: object) -> None:
        raise AssertionError("something was built")

    monkeypatch.setattr(network.keras, "Input", built)
    monkeypatch.setattr(network, "FeatureEncoder", built)
    for options in (
        {"num_tasks": 0},
        {"expert_features": {"a": ["no feature"]}},
        {"tower_dnn_units_lists": [[4]]},
        {"gate_temperature": -1},
        {"seed": -1},
        {"task_names": ["age", "b"]},
    ):
        with pytest.raises(ValueError, match="Received"):
            MMoE(toy.columns(), **{"num_tasks": 2, **options})


@pytest.mark.slow
def test_docstrings_may_be_stripped() -> None:
    def run(code: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-OO", "-W", "ignore", "-c", code]
        environment = {**os.environ, "KERAS_BACKEND": toy.BACKEND}
        return subprocess.run(
            command, env=environment, check=False, capture_output=True, text=True, timeout=300
        )

    result = run("from mtl.models import MMoE; print(bool(MMoE.__doc__))")
    if result.returncode and run("import keras").returncode:
        pytest.skip("without docstrings Keras itself, or what it needs, doesn't import")
    assert result.stdout.split()[-1:] == ["False"], result.stderr


def test_models_and_layers_are_named_for_readers() -> None:
    options = {"task_names": ["click it", "buy"], "expert_dnn_units": [4]}
    one, two = MMoE(toy.columns(), **options), MMoE(toy.columns(), **options)
    assert one.name.startswith("mmoe")
    assert two.name.startswith("mmoe_")
    assert one.name != two.name
    assert MMoE(toy.columns(), name="mine", **options).name == "mine"
    names = {layer.name for layer in one.layers}
    assert {"encoder", "experts", "gate_click_it", "gate_buy", "click_it", "buy"} <= names
    both = keras.Model(one.input, [*one(one.input), *two(one.input)])
    assert len(both.outputs) == 4
