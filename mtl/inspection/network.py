"""A picture of a model's layers, which needs no Graphviz and shows all inputs as one box."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import keras
import numpy as np

from mtl.inspection.figures import pyplot, saved
from mtl.training.graph import maker, sources
from mtl.training.model import MultiTaskModel

_CHARACTER = 0.085  # inches
_BOX, _GAP = (0.5, 0.55)  # inches: the height of a box, and what is between two rows of them


def plot_model(model: MultiTaskModel, path: Any = None) -> Any:
    """Draw the layers of a model, from its inputs down to its tasks, without Graphviz.

    Each box has a layer's name, and below its class and number of parameters. Hidden tasks have
    dashed boxes.

    Args:
        model: a model of `mtl.models`.
        path: str, path or None. Image file to write, too. Defaults to None.

    Returns:
        A matplotlib Figure.

    Raises:
        ImportError: matplotlib isn't installed.
    """
    parents = _parents(model)
    rows = _rows(parents)
    texts = {node: _text(model, node) for node in parents}
    width = {n: _CHARACTER * max(map(len, t.splitlines())) + 0.2 for n, t in texts.items()}
    whole = max(sum(width[n] + 0.3 for n in row) for row in rows)
    height = len(rows) * (_BOX + _GAP)
    figure = pyplot().figure(figsize=(whole, height))
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, whole), ylim=(0, height))  # in inches
    ax.axis("off")
    place: dict[Any, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        # Below the middle of what they are made from: fewer lines cross.
        row.sort(key=lambda n: np.mean([place[p][0] for p in parents[n]] or [0]))
        space = (whole - sum(width[n] for n in row)) / (len(row) + 1)
        x = 0.0
        for n in row:
            x += space
            place[n] = (x + width[n] / 2, height - number * (_BOX + _GAP) - (_BOX + _GAP) / 2)
            x += width[n]
    for n, (x, y) in place.items():
        hidden = getattr(getattr(n, "task", None), "hidden", False)
        box = {"boxstyle": "round", "facecolor": "0.95", "linestyle": "--" if hidden else "-"}
        ax.text(x, y, texts[n], ha="center", va="center", fontsize=9, bbox=box, zorder=2)
        for parent in parents[n]:
            above, over = place[parent]
            ax.annotate(
                "",
                (x, y + _BOX / 2),
                (above, over - _BOX / 2),
                arrowprops={"arrowstyle": "->", "color": "0.55"},
                zorder=1,
            )
    return saved(figure, path)


def _parents(model: MultiTaskModel) -> dict[Any, list[Any]]:
    """Return, for each layer, those that feed it; None stands for the inputs.

    Operations between layers, such as the sums that mix experts, are no boxes of their own.
    """
    found: dict[Any, list[Any]] = {None: []}

    def layers_of(tensor: Any) -> list[Any]:
        """Return the layer that made a tensor, or those that an operation's come from."""
        node = maker(tensor)
        if isinstance(node, keras.layers.InputLayer):
            return [None]
        if node in found:
            return [node]
        before = [layer for source in sources(tensor) for layer in layers_of(source)]
        if not isinstance(node, keras.layers.Layer):
            return before
        found[node] = list(dict.fromkeys(before))
        return [node]

    for output in [*model.outputs, *model.hidden_outputs]:
        layers_of(output)
    return found


def _rows(parents: dict[Any, list[Any]]) -> list[list[Any]]:
    """Return the nodes by their distance from the inputs, the longest way."""
    depth: dict[Any, int] = {}

    def depth_of(node: Any) -> int:
        if node not in depth:
            depth[node] = 1 + max((depth_of(p) for p in parents[node]), default=-1)
        return depth[node]

    rows = defaultdict(list)
    for node in parents:
        rows[depth_of(node)].append(node)
    return [rows[number] for number in sorted(rows)]


def _text(model: MultiTaskModel, node: Any) -> str:
    if node is None:
        return f"{len(model.input)} inputs"
    kind = type(node).__name__
    parameters = sum(int(np.prod(w.shape)) for w in getattr(node, "weights", ()))
    return f"{node.name}\n{kind}, {parameters:,}" if parameters else f"{node.name}\n{kind}"
