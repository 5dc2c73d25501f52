"""Balancing the tasks of a model in training, by `compile(balancer=…)`.

Some methods weigh the tasks' losses (`Fixed`, `Uncertainty`, `RLW`, `DWA`, `GradNorm`, `FAMO`,
`STCH`), some change the gradient on the shared parameters where tasks conflict (`PCGrad`,
`GradVac`, `MGDA`, `CAGrad`, `AlignedMTL`, `IMTLG`, `NashMTL`, `FairGrad`, `UPGrad`, `GradDrop`) or
differ in magnitude (`DualBalancing`, `MetaBalance`).
"""

from __future__ import annotations

from typing import Any

from mtl.balancing.alignment import IMTLG, AlignedMTL
from mtl.balancing.bargaining import FairGrad, NashMTL
from mtl.balancing.base import Balancer, GradientBalancer
from mtl.balancing.convex import MGDA, CAGrad, UPGrad
from mtl.balancing.magnitudes import DualBalancing, MetaBalance
from mtl.balancing.scalarization import STCH
from mtl.balancing.surgery import GradDrop, GradVac, PCGrad
from mtl.balancing.weighting import DWA, FAMO, RLW, Fixed, GradNorm, Uncertainty

BY_NAME: dict[str, type[Balancer]] = {
    "fixed": Fixed,
    "uncertainty": Uncertainty,
    "rlw": RLW,
    "dwa": DWA,
    "gradnorm": GradNorm,
    "famo": FAMO,
    "stch": STCH,
    "pcgrad": PCGrad,
    "gradvac": GradVac,
    "mgda": MGDA,
    "cagrad": CAGrad,
    "aligned_mtl": AlignedMTL,
    "imtl_g": IMTLG,
    "nash_mtl": NashMTL,
    "fairgrad": FairGrad,
    "upgrad": UPGrad,
    "db_mtl": DualBalancing,
    "metabalance": MetaBalance,
    "graddrop": GradDrop,
}

__all__ = [
    "BY_NAME",
    "DWA",
    "FAMO",
    "IMTLG",
    "MGDA",
    "RLW",
    "STCH",
    "AlignedMTL",
    "Balancer",
    "CAGrad",
    "DualBalancing",
    "FairGrad",
    "Fixed",
    "GradDrop",
    "GradNorm",
    "GradVac",
    "GradientBalancer",
    "MetaBalance",
    "NashMTL",
    "PCGrad",
    "UPGrad",
    "Uncertainty",
    "get",
]


def get(balancer: Any) -> Balancer | None:
    """Return a balancer given by name, as an instance or as None.

    Args:
        balancer: str, `Balancer` or None.

    Returns:
        A `Balancer`, or None.

    Raises:
        TypeError: something else.
        ValueError: an unknown name.
    """
    if balancer is None or isinstance(balancer, Balancer):
        return balancer
    if not isinstance(balancer, str):
        raise TypeError(f"`balancer` should be a name or a Balancer. Received: {balancer!r}")
    if balancer.lower() not in BY_NAME:
        raise ValueError(f"`balancer` should be one of {list(BY_NAME)}. Received: {balancer!r}")
    return BY_NAME[balancer.lower()]()
