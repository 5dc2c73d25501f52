"""What a trained model does inside, and whether its tasks help or harm each other."""

from mtl.inspection.collectives import collectives
from mtl.inspection.gates import dead_experts, expert_utilization, gate_entropy, gate_weights
from mtl.inspection.gradients import gradient_conflict
from mtl.inspection.importance import permutation_importance
from mtl.inspection.monitor import GateMonitor
from mtl.inspection.network import plot_model
from mtl.inspection.plots import (
    plot_expert_utilization,
    plot_gate_history,
    plot_gradient_conflict,
    plot_negative_transfer,
    plot_permutation_importance,
)
from mtl.inspection.transfer import negative_transfer

__all__ = [
    "GateMonitor",
    "collectives",
    "dead_experts",
    "expert_utilization",
    "gate_entropy",
    "gate_weights",
    "gradient_conflict",
    "negative_transfer",
    "permutation_importance",
    "plot_expert_utilization",
    "plot_gate_history",
    "plot_gradient_conflict",
    "plot_model",
    "plot_negative_transfer",
    "plot_permutation_importance",
]
