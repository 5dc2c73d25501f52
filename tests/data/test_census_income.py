import numpy as np
import pandas as pd
import pytest

from mtl.data import MultiTaskData, census_income, load_census_income
from mtl.encodings import PiecewiseLinear
from mtl.features import get_feature_names

# One row as it stands in the file, and what the tests change in it.
ROW = (
    "73, Not in universe, 0, 0, High school graduate, 0, Not in universe, Widowed, "
    "Not in universe or children, Not in universe, White, All other, Female, Not in universe, "
    "Not in universe, Not in labor force, 0, 0, 0, Nonfiler, Not in universe, Not in universe, "
    "Other Rel 18+ ever marr not in subfamily, Other relative of householder, 1700.09, ?, ?, ?, "
    "Not in universe under 1 year old, ?, 0, Not in universe, United-States, United-States, "
    "United-States, Native- Born in the United States, 0, Not in universe, 2, 0, 95, - 50000."
)
CATEGORICAL = [
    "class_worker",
    "det_ind_code",
    "det_occ_code",
    "education",
    "hs_college",
    "major_ind_code",
    "major_occ_code",
    "race",
    "hisp_origin",
    "sex",
    "union_member",
    "unemp_reason",
    "full_or_part_emp",
    "tax_filer_stat",
    "region_prev_res",
    "state_prev_res",
    "det_hh_fam_stat",
    "det_hh_summ",
    "mig_chg_msa",
    "mig_chg_reg",
    "mig_move_reg",
    "mig_same",
    "mig_prev_sunbelt",
    "fam_under_18",
    "country_father",
    "country_mother",
    "country_self",
    "citizenship",
    "vet_question",
]
NUMERIC = [
    "age",
    "wage_per_hour",
    "capital_gains",
    "capital_losses",
    "stock_dividends",
    "num_emp",
    "own_or_self",
    "vet_benefits",
    "weeks_worked",
    "year",
]


def write(rows: list[dict[str, str]]) -> bytes:
    lines = []
    for changes in rows:
        values = dict(zip(census_income._COLUMNS, ROW.split(", "), strict=True)) | changes
        lines.append(", ".join(values.values()))
    return "\n".join([*lines, ""]).encode()


def small(train, test, group=1, protocol="default") -> MultiTaskData:
    frames = [census_income.parse(write(rows)) for rows in (train, test)]
    return census_income.build(*frames, group, protocol)


@pytest.fixture(scope="module")
def default():
    return load_census_income()


@pytest.fixture(scope="module")
def reference(census_frames):
    return census_income.build(*census_frames, 1, "reference")


@pytest.fixture(scope="module")
def group2(census_frames):
    return census_income.build(*census_frames, 2, "default")


def test_features_and_tasks_of_group_1(default):
    assert get_feature_names(default.feature_columns) == CATEGORICAL + NUMERIC
    assert {c.embedding_dim for c in default.feature_columns[:29]} == {4}
    assert default.task_names == ["income", "marital"]
    assert default.task_types == ["binary", "binary"]
    assert default.truth is None


def test_encodings_of_numbers(default, reference, census_frames):
    number = {
        protocol: {c.name: c.transform_fn for c in data.feature_columns[29:]}
        for protocol, data in {"default": default, "reference": reference}.items()
    }
    assert all(isinstance(f, PiecewiseLinear) for f in number["default"].values())
    assert set(number["reference"].values()) == {None}
    # Zero is the most frequent wage by far: a bin of its own, up to halfway to the next wage.
    wages = census_frames[0]["wage_per_hour"]
    half = wages[wages > 0].min() / wages.max() / 2
    np.testing.assert_allclose(number["default"]["wage_per_hour"].edges[:2], [0, half], rtol=1e-5)
    plain = census_income.build(*census_frames, 1, "default", {"encoding": None})
    assert all(c.transform_fn is None for c in plain.feature_columns[29:])


def test_group_2_swaps_education_and_income(group2):
    names = [name for name in CATEGORICAL if name != "education"] + ["income_50k"]
    assert get_feature_names(group2.feature_columns) == names + NUMERIC
    assert group2.task_names == ["education", "marital"]
    # "- 50000." and "50000+." sort in this order: 1 and 2.
    np.testing.assert_array_equal(np.unique(group2.test[0]["income_50k"]), [1, 2])


def test_group_3_has_the_tasks_of_both(census_frames, default, group2):
    data = census_income.build(*census_frames, 3, "default")
    names = [name for name in CATEGORICAL if name != "education"]
    assert get_feature_names(data.feature_columns) == names + NUMERIC
    assert data.task_names == ["education", "marital", "income"]
    for split in ("train", "val", "test"):
        labels = [*getattr(group2, split)[1], getattr(default, split)[1][0]]
        np.testing.assert_array_equal(getattr(data, split)[1], labels)


def test_reference_protocol_has_the_weights_as_feature(reference):
    numeric = [*NUMERIC[:5], "instance_weight", *NUMERIC[5:]]
    assert get_feature_names(reference.feature_columns) == CATEGORICAL + numeric
    assert reference.sample_weight is None
    # Hand-checked: first row's 1700.09 over the minimum and maximum of both files.
    np.testing.assert_allclose(
        reference.train[0]["instance_weight"][0], (1700.09 - 37.87) / (18656.3 - 37.87), rtol=1e-6
    )
    for column, values in reference.train[0].items():
        every = np.concatenate([reference.val[0][column], reference.test[0][column], values])
        if every.dtype == np.int32:
            assert every.min() == 1  # fitted on all rows: none is unknown
        else:
            assert (every.min(), every.max()) == (0, 1)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_shapes_and_types(default, split):
    x, y = getattr(default, split)
    rows = {"train": 199_523, "val": 49_881, "test": 49_881}[split]
    assert all(values.shape == (rows,) for values in [*x.values(), *y])
    assert {x[name].dtype for name in CATEGORICAL} == {np.dtype("int32")}
    assert {x[name].dtype for name in NUMERIC} == {np.dtype("float32")}
    assert {values.dtype for values in y} == {np.dtype("float32")}
    assert default.sample_weight[split].shape == (rows,)
    assert default.sample_weight[split].dtype == np.float32


def test_positive_labels_as_counted_in_the_files(default, group2):
    # Counted with awk, not with this loader.
    counts = {
        split: [int(task.sum()) for task in [*getattr(default, split)[1], group2_y]]
        for split in ("train", "val", "test")
        for group2_y in [getattr(group2, split)[1][0]]
    }
    assert counts == {
        "train": [12382, 86485, 57282],
        "val": [3143, 21502, 14313],
        "test": [3043, 21641, 14328],
    }
    np.testing.assert_array_equal(default.val[1][1], group2.val[1][1])


def test_rows_checked_by_hand(default, census_frames):
    train, test = census_frames
    assert train.loc[0, ["age", "education", "instance_weight"]].tolist() == [
        73,
        "High school graduate",
        1700.09,
    ]
    assert test.loc[49_880, ["age", "education", "capital_gains"]].tolist() == [
        90,
        "Bachelors degree(BA AB BS)",
        1086,
    ]
    # Ages of the training file span 0 to 90.
    np.testing.assert_allclose(default.train[0]["age"][:2], [73 / 90, 58 / 90], rtol=1e-6)
    np.testing.assert_allclose(default.val[0]["age"][-1], 1)
    np.testing.assert_allclose(default.test[0]["age"][[0, -1]], [19 / 90, 67 / 90], rtol=1e-6)
    # The 17 values of education in sorted order; 13 is "High school graduate".
    assert default.train[0]["education"][0] == 13
    assert default.test[0]["education"][-1] == 7  # "9th grade"
    # Codes sort as numbers: code 4 of 0, 1, 2, 3, 4, … has id 5, and not that of "4" after "39".
    assert default.train[0]["det_ind_code"][:2].tolist() == [1, 5]
    np.testing.assert_allclose(
        default.sample_weight["train"][0], 1700.09 / census_frames[0]["instance_weight"].mean()
    )


def test_na_is_an_ordinary_category(census_frames):
    assert "NA" in census_frames[0]["hisp_origin"].cat.categories
    assert "?" in census_frames[0]["mig_chg_msa"].cat.categories
    assert not census_frames[0].isna().any(axis=None)


def test_labels_are_no_features(default, group2):
    assert not {"income_50k", "marital_stat"} & set(default.train[0])
    assert not {"education", "marital_stat"} & set(group2.train[0])


def test_test_rows_leak_nothing_into_the_default_protocol(default, census_frames):
    train, test = census_frames
    changed = test.copy()
    changed["age"] = 1000.0
    changed["race"] = pd.Categorical(["A new one"] * len(test))
    other = census_income.build(train, changed, 1, "default")
    for name, values in default.train[0].items():
        np.testing.assert_array_equal(values, other.train[0][name])
    assert [c[:3] for c in default.feature_columns] == [c[:3] for c in other.feature_columns]
    assert set(other.test[0]["race"]) == {0}
    np.testing.assert_allclose(other.test[0]["age"], 1000 / 90, rtol=1e-6)


def test_vocabularies_are_those_of_the_training_rows(default, reference, census_frames):
    for data, frames in ((default, census_frames[:1]), (reference, census_frames)):
        for column in data.feature_columns[:29]:
            known = set().union(*(frame[column.name].unique() for frame in frames))
            assert column.vocabulary_size == 1 + len(known), column.name


def test_small_files_split_and_labels():
    train = [{"age": "20", "income_50k": "50000+."}, {"age": "60", "marital_stat": "Never married"}]
    test = [{"age": "40"}, {"age": "20"}, {"age": "60"}, {"age": "80", "income_50k": "50000+."}]
    data = small(train, test)
    np.testing.assert_array_equal(data.train[0]["age"], [0, 1])
    np.testing.assert_array_equal(data.val[0]["age"], [0.5, 0])
    np.testing.assert_array_equal(data.test[0]["age"], [1, 1.5])
    np.testing.assert_array_equal(data.train[1], [[1, 0], [0, 1]])
    np.testing.assert_array_equal(data.test[1], [[0, 1], [0, 0]])
    np.testing.assert_allclose(data.sample_weight["test"], 1)


@pytest.mark.parametrize(
    ("education", "label"),
    [
        ("Some college but no degree", 1),
        ("Bachelors degree(BA AB BS)", 1),
        ("Masters degree(MA MS MEng MEd MSW MBA)", 1),
        ("Prof school degree (MD DDS DVM LLB JD)", 1),
        ("Doctorate degree(PhD EdD)", 1),
        ("Associates degree-academic program", 0),
        ("High school graduate", 0),
    ],
)
def test_small_files_education(education, label):
    data = small([{"education": education}], [{}, {}], group=2)
    np.testing.assert_array_equal(data.train[1][0], [label])


def test_small_files_reference_knows_the_test_rows():
    test = [{"race": "Black", "age": "80"}, {"instance_weight": "3400.18"}]
    default, reference = (small([{}], test, protocol=p) for p in ("default", "reference"))
    assert default.val[0]["race"].tolist() == [0]  # unseen in training
    assert reference.val[0]["race"].tolist() == [1]
    assert reference.train[0]["race"].tolist() == [2]
    assert reference.train[0]["age"].tolist() == [0]
    assert default.train[0]["age"].tolist() == default.val[0]["age"].tolist() == [0]
    assert reference.test[0]["instance_weight"].tolist() == [1]
    np.testing.assert_allclose(default.sample_weight["test"], [2])


@pytest.mark.parametrize("group", [0, 4, "1", None, True, 1.5])
def test_unknown_group_before_any_file(group, monkeypatch):
    monkeypatch.setattr(census_income, "load_files", None)
    with pytest.raises(ValueError, match=r"`group` should be one of 1, 2, 3\. Received: "):
        load_census_income(group)


def test_unknown_protocol_before_any_file(monkeypatch):
    monkeypatch.setattr(census_income, "load_files", None)
    with pytest.raises(
        ValueError, match=r"`protocol` should be one of 'default', 'reference'\. Received: 'Def'"
    ):
        load_census_income(protocol="Def")
