"""Draw the README's picture: who reads whom in four models of two tasks.

python examples/draw_models.py --output examples/models.png
"""

# %%
import argparse
from pathlib import Path

import matplotlib

matplotlib.use("agg")  # a file, on any machine

from matplotlib import pyplot as plt

COLORS = {"shared": "#c9d3e0", "a": "#f6b26b", "b": "#93c47d", "x": "#ffffff"}

# %%
# Of each model its parts, with place, label and whose they are, and who reads whom. A part named
# gate mixes what it reads, by weights that it makes of x.
TOWERS = {"ta": (-1, 3, "tower", "a"), "tb": (1, 3, "tower", "b")}
TASKS = {"a": (-1, 4, "click", "a"), "b": (1, 4, "like", "b")}
GATES = {"gate_a": (-1, 2, "gate", "a"), "gate_b": (1, 2, "gate", "b")}
UP = ["ta a", "tb b"]
MIXED = ["gate_a ta", "gate_b tb", *UP]
MODELS = {
    "SharedBottom: one network for all": (
        {"h": (0, 1.5, "bottom", "shared"), **TOWERS, **TASKS},
        ["x h", "h ta", "h tb", *UP],
    ),
    "MMoE: a gate for each task": (
        {
            **{f"e{i}": (x, 1, "expert", "shared") for i, x in enumerate((-1.4, 0, 1.4))},
            **GATES, **TOWERS, **TASKS,
        },
        [*(f"x e{i}" for i in range(3)),
         *(f"e{i} gate_{task}" for i in range(3) for task in "ab"), *MIXED],
    ),
    "CGC, a level of PLE: own experts, too": (
        {
            "ea": (-1.4, 1, "expert", "a"), "es": (0, 1, "expert", "shared"),
            "eb": (1.4, 1, "expert", "b"), **GATES, **TOWERS, **TASKS,
        },
        ["x ea", "x es", "x eb", "ea gate_a", "es gate_a", "es gate_b", "eb gate_b", *MIXED],
    ),
    "ESMM: click and buy = click × (buy | click)": (
        {
            "ta": (-1, 1.5, "tower", "a"), "tb": (1, 1.5, "tower", "b"),
            "a": (-1, 4, "click", "a"), "cvr": (1, 2.75, "buy | click", "b"),
            "b": (1, 4, "click and buy", "shared"),
        },
        ["x ta", "x tb", "ta a", "tb cvr", "cvr b", "a b"],
    ),
}  # fmt: skip


# %%
def draw(axes, title: str, parts: dict, reads: list[str]) -> None:
    """Draw a model's parts as boxes, gates as circles, and who reads whom as lines."""
    parts = {"x": (0, 0, "x", "x"), **parts}
    for pair in reads:
        (x0, y0, *_), (x1, y1, *_) = (parts[name] for name in pair.split())
        axes.plot([x0, x1], [y0, y1], color="#888888", linewidth=0.9, zorder=1)
    for name, (x, y, label, whose) in parts.items():
        style = "circle,pad=0.25" if name.startswith("gate") else "round,pad=0.35"
        box = {"boxstyle": style, "facecolor": COLORS[whose], "edgecolor": "#555555"}
        axes.text(x, y, label, ha="center", va="center", fontsize=8, bbox=box, zorder=2)
    axes.set(xlim=(-2.1, 2.1), ylim=(-0.4, 4.4))
    axes.set_title(title, fontsize=9)
    axes.axis("off")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default="models.png", help="a PNG or SVG")
    args = parser.parse_args()
    figure, axes = plt.subplots(1, len(MODELS), figsize=(12, 3.4), layout="constrained")
    for ax, (title, (parts, reads)) in zip(axes, MODELS.items(), strict=True):
        draw(ax, title, parts, reads)
    figure.savefig(args.output, dpi=100, metadata={"Software": None})
    print(f"wrote {args.output}")


# %%
if __name__ == "__main__":
    main()
