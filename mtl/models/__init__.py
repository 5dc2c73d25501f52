"""The model zoo: one factory per paper, each returning a `MultiTaskModel`."""

from mtl.migrate.from_deepctr import from_deepctr
from mtl.models.aitm import AITM
from mtl.models.cgc import CGC
from mtl.models.escm2 import ESCM2
from mtl.models.esmm import ESMM
from mtl.models.funnel import Funnel
from mtl.models.mmoe import MMoE
from mtl.models.moe import MoE
from mtl.models.ple import PLE
from mtl.models.shared_bottom import SharedBottom
from mtl.training.extract import extract_task

# In the order of tables.
__all__ = [
    "SharedBottom",
    "MoE",
    "MMoE",
    "CGC",
    "PLE",
    "ESMM",
    "AITM",
    "ESCM2",
    "Funnel",
    "extract_task",
    "from_deepctr",
]
