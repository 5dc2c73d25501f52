"""DeepCTR is imported here, before the tests do: without its request to the package index."""

from mtl.migrate._deepctr import import_columns

import_columns()
