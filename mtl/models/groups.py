"""Groups of experts that see some of the features: which columns of x these are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mtl import checks
from mtl.features import DenseFeat, sparse_part
from mtl.layers.encoder import layout

_DEFAULT_GROUP = "default_group"  # DeepCTR's


def expert_subsets(
    columns: list[Any],
    dense_embedding_dim: int | None,
    expert_features: Any,
    expert_units: Sequence[int] | None,
) -> dict[str, list[int]] | None:
    """Return the `subsets` of `mtl.layers.Experts` that `expert_features` asks for.

    Args:
        columns: checked feature columns.
        dense_embedding_dim: int or None. As in `FeatureEncoder`.
        expert_features: dict from group name to list of feature names, "group_name" or None.
        expert_units: the checked widths of the experts.

    Returns:
        A dict from group name to the columns of x that the group sees, or None.

    Raises:
        TypeError: no dict of lists of names.
        ValueError: a group without features, an unknown feature, a feature twice in a group,
            columns that name a single group, or experts without units.
    """
    if expert_features is None:
        return None
    if not expert_units:
        raise ValueError(
            "`expert_dnn_units` should hold at least one width with `expert_features`: groups see "
            "inputs of different widths. Received: none."
        )
    spans = layout(columns, dense_embedding_dim)
    if isinstance(expert_features, str) and expert_features == "group_name":
        groups = _named_by_columns(columns)
    else:
        groups = _checked(expert_features, list(spans))
    return {
        group: [i for feature, span in spans.items() if feature in features for i in span]
        for group, features in groups.items()
    }


def _named_by_columns(columns: list[Any]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for column in columns:
        dense = isinstance(column, DenseFeat)
        group = _DEFAULT_GROUP if dense else sparse_part(column).group_name
        if not isinstance(group, str):
            raise TypeError(
                f"`group_name` of feature {column.name!r} should be a string. Received: {group!r}"
            )
        groups.setdefault(group, []).append(column.name)
    if len(groups) == 1:
        raise ValueError(
            "`expert_features='group_name'` should find more than one `group_name` among the "
            f"columns. Received: {next(iter(groups))!r} for all of them"
        )
    return groups


def _checked(expert_features: Any, known: list[str]) -> dict[str, list[str]]:
    if not isinstance(expert_features, Mapping) or not expert_features:
        raise TypeError(
            "`expert_features` should be a dict from group name to list of feature names, "
            f"'group_name' or None. Received: {expert_features!r}"
        )
    groups = {}
    for group, features in expert_features.items():
        if not isinstance(group, str):
            raise TypeError(f"A group of `expert_features` should be a string. Received: {group!r}")
        argument = f"expert_features[{group!r}]"
        features = checks.entries(argument, features, "a list of feature names", Collection)
        if not features:
            raise ValueError(f"`{argument}` should hold at least one feature. Received: none.")
        if unknown := [feature for feature in features if feature not in known]:
            raise ValueError(f"`{argument}` should hold features of {known}. Received: {unknown}")
        if len(set(features)) < len(features):
            raise ValueError(f"`{argument}` should hold each feature once. Received: {features}")
        groups[group] = features
    return groups
