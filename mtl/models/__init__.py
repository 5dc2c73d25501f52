"""The model zoo: one factory per paper, each returning a `MultiTaskModel`."""

from mtl.migrate.from_deepctr import from_deepctr
from mtl.models.adatt import AdaTT
from mtl.models.aitm import AITM
from mtl.models.cgc import CGC
from mtl.models.cross_stitch import CrossStitch
from mtl.models.dbmtl import DBMTL
from mtl.models.escm2 import ESCM2
from mtl.models.esmm import ESMM
from mtl.models.funnel import Funnel
from mtl.models.home import HoME
from mtl.models.mmoe import MMoE
from mtl.models.moe import MoE
from mtl.models.pepnet import PEPNet
from mtl.models.ple import PLE
from mtl.models.shared_bottom import SharedBottom
from mtl.models.snr import SNR
from mtl.models.star import STAR
from mtl.models.stem import STEM
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
    "AdaTT",
    "CrossStitch",
    "DBMTL",
    "ESCM2",
    "Funnel",
    "HoME",
    "PEPNet",
    "SNR",
    "STAR",
    "STEM",
    "extract_task",
    "from_deepctr",
]
