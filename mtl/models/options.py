"""Options: what every model takes beside its own parameters; `@model`: the door to the zoo."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import wraps
from types import MappingProxyType
from typing import (
    Annotated,
    Any,
    Literal,
    TypedDict,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import keras
from typing_extensions import Unpack

from mtl import checks
from mtl.layers.dselect_k import GATES
from mtl.tasks import per_task

__all__ = [
    "Embeddings",
    "GatedOptions",
    "Groups",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Options",
    "PositiveFloat",
    "PositiveInt",
    "PositiveIntOrNone",
    "PositiveShare",
    "Towers",
    "Units",
    "UnitsOrNone",
    "Unpack",
    "Widths",
    "model",
    "per_task",
]

# A type as users and type checkers see it, and the function that checks a value of it.
PositiveInt = Annotated[int, checks.positive_int]
NonNegativeInt = Annotated[int, checks.non_negative_int]
PositiveIntOrNone = Annotated[int | None, checks.positive_int_or_none]
PositiveFloat = Annotated[float, checks.positive_float]
NonNegativeFloat = Annotated[float, checks.non_negative_float]
Rate = Annotated[float, checks.rate]
Embeddings = Annotated[
    Literal["shared", "per_task", "shared_and_per_task"],
    checks.one_of("shared", "per_task", "shared_and_per_task"),
]
PositiveShare = Annotated[float, checks.positive_share]
Seed = Annotated[int | None, checks.seed]
Units = Annotated[Sequence[int], checks.units]
UnitsOrNone = Annotated[Sequence[int] | None, checks.units]
Activation = Annotated[Any, checks.activation]
GateKind = Annotated[Literal["softmax", "dselect_k"], checks.one_of(*GATES)]
# Checked by Network, which knows the tasks and the features.
Towers = Sequence[Sequence[int]]
Groups = Mapping[str, Sequence[str]] | str | None


class Options(TypedDict, total=False):
    """What every model takes beside its own parameters.

    Args:
        num_tasks: int or None. Number of tasks; may be left out where another argument tells it.
        task_types: list or None. Per task "binary", "regression", `("multiclass", C)`,
            `("multilabel", C)` or "lifetime_value" (amounts of at least 0, most of them 0, of which
            it predicts `(B, 4)`: the expected value, P(value > 0), and μ and σ of the logarithm of
            a value above 0). Defaults to binary tasks.
        task_names: list of str or None. Any names; outputs carry them, made safe for backends.
            Defaults to "task_1", "task_2", ….
        dense_embedding_dim: int or None. Size to which a linear map of its own takes each numeric
            feature. Defaults to None: the numbers as they are.
        l2_reg_embedding: float. L2 strength on the embeddings that a batch looks up.
            Defaults to 1e-5.
        l2_reg_dnn: float. L2 strength on the kernels of every DNN. Defaults to 0.
        seed: int or None. Seed of all weights and dropout. Defaults to 1024.
        dnn_dropout: float in [0, 1). Dropout of every DNN. Defaults to 0.
        embedding_dropout: float in [0, 1). Dropout of the encoded features. Defaults to 0.
        dense_scaling: float. If above 0, each column that encodes a number is multiplied by a
            learned number, 1 at first, which Adam learns that many times as fast as other weights
            (see `mtl.layers.Scaling`): 6 in RealMLP. Defaults to 0: without.
        dnn_activation: str or function. Activation of every DNN. Defaults to "relu".
        dnn_use_bn: bool. Batch normalisation in every DNN. Defaults to False.
        name: str or None. Name of the model. Defaults to one like "mmoe" or "mmoe_1".
    """

    num_tasks: int | None
    task_types: Sequence[Any] | None
    task_names: Sequence[str] | None
    dense_embedding_dim: PositiveIntOrNone
    l2_reg_embedding: NonNegativeFloat
    l2_reg_dnn: NonNegativeFloat
    seed: Seed
    dnn_dropout: Rate
    embedding_dropout: Rate
    dense_scaling: NonNegativeFloat
    dnn_activation: Activation
    dnn_use_bn: bool
    name: str | None


class GatedOptions(Options, total=False):
    """What models whose gates mix experts take besides.

    Args:
        gate: str. "softmax", gates g = softmax(W x / τ) that weigh all experts; or "dselect_k",
            gates that come to select k of them for an example (Hazimeh et al., NeurIPS 2021; see
            `mtl.layers.DSelectK`). Defaults to "softmax".
        num_selected: int or None. The k of "dselect_k". Defaults to None: 2, or 1 of one expert.
        entropy_weight: float. With "dselect_k", weight of the entropy of each gate's selectors in
            the loss: the greater, the sooner they choose. Defaults to 0.
        gate_dnn_units: list of int or None. Widths of a DNN in each gate before its linear layer.
            Defaults to None: a linear gate, as in the papers.
        gate_temperature: float above 0. Divides the gates' logits: τ of a softmax, γ of the smooth
            step of "dselect_k". Defaults to 1.
    """

    gate: GateKind
    num_selected: PositiveIntOrNone
    entropy_weight: NonNegativeFloat
    gate_dnn_units: UnitsOrNone
    gate_temperature: PositiveFloat


# Of all options, in the order in which they are shown.
DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "gate": "softmax",
        "num_selected": None,
        "entropy_weight": 0,
        "gate_dnn_units": None,
        "gate_temperature": 1.0,
        "num_tasks": None,
        "task_types": None,
        "task_names": None,
        "dense_embedding_dim": None,
        "l2_reg_embedding": 1e-5,
        "l2_reg_dnn": 0,
        "seed": 1024,
        "dnn_dropout": 0,
        "embedding_dropout": 0,
        "dense_scaling": 0,
        "dnn_activation": "relu",
        "dnn_use_bn": False,
        "name": None,
    }
)

_RETURNS = """\
Returns:
    A `MultiTaskModel`, which is a functional `keras.Model` with one output per task.
"""
_RAISES = """\
Raises:
    TypeError: an argument of a wrong type.
    ValueError: an argument out of range, or arguments that disagree.
"""


@dataclass(frozen=True)
class Widths:
    """In a search space: a list of widths, `factor` times a width common to all models.

    A search tries the common width, and how many layers there are, each half as wide as the one
    before.
    """

    factor: int = 1


F = TypeVar("F", bound=Callable[..., Any])


def model(
    *,
    search: Mapping[str, Sequence[Any] | Widths],
    funnel: bool = False,
    any_of: Sequence[str] = (),
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Callable[[F], F]:
    """Return a decorator that makes a function a factory of the zoo.

    It checks the arguments by their annotations before anything is built, and writes each option
    that `**options` stands for, `Options` or `GatedOptions`, with its default, into the signature
    and the docstring that `help` shows. The
    benchmark, its tuner and the tests of what every model does find a factory by its name in
    `mtl.models.__all__`, and by the attributes `search`, `funnel` and `needs`: for each thing that
    must be given, the parameters that do, of which one is enough. A parameter without a default
    is such a thing by itself.

    Args:
        search: dict from parameter to the values that a search tries, the smallest first: a list,
            or `Widths`.
        funnel: bool. Whether the tasks are steps of a funnel, in their order. Defaults to False.
        any_of: list of str. Parameters whose default is None, of which at least one must be given.
            Defaults to none.
        defaults: dict. The factory's own defaults of options; what its docstring says of them
            stands in place of what `Options` says. Defaults to none.
    """

    def decorate(factory: F) -> F:
        hints = get_type_hints(factory, include_extras=True)
        (kind,) = get_args(hints.pop("options"))
        options = get_type_hints(kind, include_extras=True)
        hints = {**options, **hints}
        check = {key: hint.__metadata__[0] for key, hint in hints.items() if _is_checked(hint)}
        # As plain types: what checks a value is nothing to read.
        types = {key: hint.__origin__ if key in check else hint for key, hint in hints.items()}
        first, *own = (
            p.replace(annotation=types.get(p.name, p.empty))
            for p in inspect.signature(factory).parameters.values()
        )
        own = [p for p in own if p.kind is not p.VAR_KEYWORD]
        shared = [
            inspect.Parameter(key, first.KEYWORD_ONLY, default=value, annotation=types[key])
            for key, value in {**DEFAULTS, **defaults}.items()
            if key in options
        ]
        known = {p.name: p.default for p in (*own, *shared)}
        required = [p.name for p in own if p.default is p.empty]
        needs = [*((name,) for name in required), *([tuple(any_of)] if any_of else [])]

        @wraps(factory)
        def build(dnn_feature_columns: Any, **given: Any) -> Any:
            for key in given:
                if key not in known:
                    raise TypeError(_unexpected(factory.__name__, key, list(known)))
            values = {**known, **dict.fromkeys(required), **given}
            for names in needs:
                if all(values[name] is None for name in names):
                    raise TypeError(_missing(factory.__name__, {n: types[n] for n in names}))
            values |= {key: check[key](key, values[key]) for key in values if key in check}
            if values["name"] is None:
                values["name"] = _name_like(factory)
            return factory(dnn_feature_columns, **values)

        shown: Any = build
        shown.__signature__ = inspect.Signature(
            [first, *own, *shared], return_annotation=types.get("return", inspect.Signature.empty)
        )
        shown.__doc__ = _documented(factory.__doc__ or "", kind)
        shown.search, shown.funnel, shown.needs = dict(search), funnel, needs
        return shown  # type: ignore[no-any-return]

    return decorate


def _is_checked(hint: Any) -> bool:
    return get_origin(hint) is Annotated


def _name_like(factory: Callable[..., Any]) -> str:
    """Return the name of a factory's file, with a number if a model has it already."""
    name = factory.__module__.rsplit(".", 1)[-1]
    number = keras.backend.get_uid(name)
    return name if number == 1 else f"{name}_{number - 1}"


def _unexpected(factory: str, key: str, known: list[str]) -> str:
    close = get_close_matches(key, known, n=1)
    hint = f". Did you mean {close[0]!r}?" if close else f". It takes {known}"
    return f"{factory}() got an unexpected keyword argument {key!r}{hint}"


def _missing(factory: str, types: Mapping[str, Any]) -> str:
    expected = " or ".join(
        f"{key!r} ({inspect.formatannotation(kind)})" for key, kind in types.items()
    )
    return f"{factory}() missing required keyword argument {expected}"


def _documented(doc: str, options: type) -> str:
    """Return a factory's docstring with the options in place of `**options`."""
    if not doc:  # as under python -OO
        return doc
    entries: dict[str, list[str]] = {}
    own = [inspect.cleandoc(kind.__doc__ or "") for kind in dict.fromkeys([options, Options])]
    for line in "\n".join(text.split("Args:\n")[1] for text in own).splitlines():
        if not line.startswith("     "):
            entries[line.split(":")[0].strip()] = [line]
        else:
            next(reversed(entries.values())).append(line)
    doc = inspect.cleandoc(doc)
    lines: list[str] = []
    for line in doc.splitlines():
        if line.strip().startswith("**options:"):
            rest = [key for key in entries if f"\n    {key}: " not in doc]
            lines += [entry for key in rest for entry in entries[key]]
            sections = [s for s in (_RETURNS, _RAISES) if s.splitlines()[0] not in doc]
            lines += ["", *"\n".join(sections).splitlines()] if sections else []
        else:
            lines.append(line)
    return "\n".join(lines)
