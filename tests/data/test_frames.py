import pandas as pd

from mtl.data.frames import stack


def test_stack_keeps_dtypes_and_order():
    first = pd.DataFrame({"c": pd.Categorical(["b", "a"]), "n": [1, 2], "s": ["x", "y"]})
    second = pd.DataFrame({"c": pd.Categorical(["d", "a"]), "n": [3, 4], "s": ["y", "z"]})
    frame = stack([first, second])
    assert isinstance(frame["c"].dtype, pd.CategoricalDtype)
    assert frame["c"].tolist() == ["b", "a", "d", "a"]
    assert frame["n"].tolist() == [1, 2, 3, 4]
    assert frame["s"].tolist() == ["x", "y", "y", "z"]
    assert frame["n"].dtype == first["n"].dtype
    assert frame.index.tolist() == [0, 1, 2, 3]
