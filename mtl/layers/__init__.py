"""The layers that every model is built from."""

from mtl.layers.calibrators import Isotonic, Platt
from mtl.layers.connections import CrossStitchUnit, Routing
from mtl.layers.dnn import DNN
from mtl.layers.dselect_k import DSelectK
from mtl.layers.encoder import FeatureEncoder
from mtl.layers.experts import Experts
from mtl.layers.extraction import Extraction
from mtl.layers.fusion import Fusion
from mtl.layers.gate import Gate
from mtl.layers.gated_dnn import GatedDNN
from mtl.layers.information_transfer import InformationTransfer
from mtl.layers.scaling import Scaling
from mtl.layers.star import PartitionedNormalization, StarDense, StarDNN
from mtl.layers.tower import Tower

__all__ = [
    "DNN",
    "CrossStitchUnit",
    "DSelectK",
    "Experts",
    "Extraction",
    "FeatureEncoder",
    "Fusion",
    "Gate",
    "GatedDNN",
    "InformationTransfer",
    "Isotonic",
    "PartitionedNormalization",
    "Platt",
    "Routing",
    "Scaling",
    "StarDNN",
    "StarDense",
    "Tower",
]
