import numpy as np
import pytest

from mtl.data import adult, load_adult
from mtl.features import get_feature_names

TRAIN = b"""39, State-gov, 100, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, \
Male, 2174, 0, 40, United-States, <=50K
50, ?, 300, Bachelors, 13, Married-civ-spouse, Exec-managerial, Husband, White, Male, 0, 0, 13, \
United-States, >50K
39, Private, 100, HS-grad, 9, Divorced, Sales, Not-in-family, Black, Male, 0, 0, 40, Cuba, <=50K
28, Private, 100, 11th, 7, Divorced, Sales, Wife, Black, Female, 0, 0, 40, Cuba, >50K
61, Private, 700, 11th, 7, Never-married, Sales, Wife, Black, Female, 0, 0, 99, Cuba, <=50K

"""
TEST = b"""|1x3 Cross validator
25, Private, 200, 11th, 7, Never-married, Sales, Own-child, Black, Male, 0, 0, 40, NA, <=50K.
50, Private, 400, 11th, 7, Divorced, Sales, Own-child, Black, Male, 0, 0, 40, Cuba, >50K.

"""
CATEGORICAL = [
    "age",
    "workclass",
    "education",
    "occupation",
    "relationship",
    "race",
    "gender",
    "native_country",
]
NUMERIC = ["education_num", "capital_gain", "capital_loss", "hours_per_week"]


def small(protocol):
    return adult.build(adult.parse(TRAIN), adult.parse(TEST), protocol)


def test_parse_skips_the_first_line_and_the_full_stops():
    frame = adult.parse(TEST)
    assert frame["income_bracket"].tolist() == ["<=50K", ">50K"]
    assert frame["age"].tolist() == [25, 50]
    assert frame["native_country"].tolist() == ["NA", "Cuba"]
    assert adult.parse(TRAIN)["workclass"].tolist()[:2] == ["State-gov", "?"]


def test_small_files_default_protocol():
    data = small("default")
    assert get_feature_names(data.feature_columns) == CATEGORICAL + NUMERIC
    assert {c.embedding_dim for c in data.feature_columns[:8]} == {16}
    assert (data.task_names, data.task_types) == (["income", "marital"], ["binary"] * 2)
    # Ages 28, 39 and 50 of the first four rows are ids 1 to 3; 61 (validation) and 25 are unknown.
    assert data.train[0]["age"].tolist() == [2, 3, 2, 1]
    assert data.val[0]["age"].tolist() == [0]
    assert data.test[0]["age"].tolist() == [0, 3]
    np.testing.assert_allclose(data.val[0]["hours_per_week"], (99 - 13) / (40 - 13), rtol=1e-6)
    np.testing.assert_array_equal(data.train[1], [[0, 1, 0, 1], [1, 0, 0, 0]])
    np.testing.assert_array_equal(data.test[1], [[0, 1], [1, 0]])
    np.testing.assert_allclose(data.sample_weight["train"], [2 / 3, 2, 2 / 3, 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(data.sample_weight["val"], [14 / 3], rtol=1e-6)


def test_small_files_reference_protocol():
    data = small("reference")
    assert get_feature_names(data.feature_columns) == [*CATEGORICAL, "fnlwgt", *NUMERIC]
    assert data.val is None
    assert data.sample_weight is None
    assert data.train[0]["age"].tolist() == [3, 4, 3, 2, 5]
    assert data.test[0]["age"].tolist() == [1, 4]
    np.testing.assert_allclose(data.train[0]["fnlwgt"], [0, 1 / 3, 0, 0, 1], rtol=1e-6)


def test_real_files_default_protocol(adult_frames, monkeypatch):
    monkeypatch.setattr(adult, "load_files", lambda files, parse: adult_frames)
    data = load_adult()
    # Positives counted with awk, not with this loader.
    counts = [(len(y[0]), *(int(t.sum()) for t in y)) for _, y in (data.train, data.val, data.test)]
    assert counts == [
        (26_049, 7841 - 1600, 10683 - 2136),
        (6_512, 1600, 2136),
        (16_281, 3846, 5434),
    ]
    assert not {"income_bracket", "marital_status", "fnlwgt"} & set(data.train[0])
    # Row 1: 39 years (the 23rd age from 17 on), 40 hours of 1 to 99.
    assert data.train[0]["age"][0] == 23
    np.testing.assert_allclose(data.train[0]["hours_per_week"][0], 39 / 98, rtol=1e-6)
    weights = data.sample_weight["train"]
    np.testing.assert_allclose(weights[1] / weights[0], 83311 / 77516, rtol=1e-6)
    np.testing.assert_allclose(weights.mean(dtype=np.float64), 1, rtol=1e-5)


def test_real_files_reference_protocol(adult_frames):
    data = adult.build(*adult_frames, "reference")
    assert len(data.train[1][0]) == 32_561
    assert len(data.test[1][0]) == 16_281
    sizes = {c.name: c.vocabulary_size for c in data.feature_columns[:8]}
    assert sizes["age"] == 1 + 74
    assert sizes["native_country"] == 1 + 42
    assert min(values.min() for values in data.test[0].values()) >= 0


def test_real_files_leak_nothing(adult_frames):
    train, test = adult_frames
    changed = test.assign(age=1000, hours_per_week=1000, race="A new one")
    data, other = (adult.build(train, frame, "default") for frame in (test, changed))
    for name, values in data.train[0].items():
        np.testing.assert_array_equal(values, other.train[0][name])
    assert set(other.test[0]["race"]) == {0}


def test_unknown_protocol_before_any_file(monkeypatch):
    monkeypatch.setattr(adult, "load_files", None)
    with pytest.raises(
        ValueError, match=r"`protocol` should be one of 'default', 'reference'\. Received: 1"
    ):
        load_adult(protocol=1)
