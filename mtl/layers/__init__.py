"""The layers that every model is built from."""

from mtl.layers.calibrators import Isotonic, Platt
from mtl.layers.dnn import DNN
from mtl.layers.encoder import FeatureEncoder
from mtl.layers.experts import Experts
from mtl.layers.extraction import Extraction
from mtl.layers.gate import Gate
from mtl.layers.information_transfer import InformationTransfer
from mtl.layers.tower import Tower

__all__ = [
    "DNN",
    "Experts",
    "Extraction",
    "FeatureEncoder",
    "Gate",
    "InformationTransfer",
    "Isotonic",
    "Platt",
    "Tower",
]
