"""Adult: two binary tasks on 48,842 persons."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pandas as pd

from mtl import checks
from mtl.data.dataset import MultiTaskData
from mtl.data.download import DataFile, load_files
from mtl.data.frames import stack
from mtl.data.protocol import PROTOCOLS, assemble

_URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult/"
_FILES = (
    DataFile(
        "adult",
        "adult.data",
        "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
        _URL + "adult.data",
    ),
    DataFile(
        "adult",
        "adult.test",
        "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
        _URL + "adult.test",
    ),
)
# fmt: off
_COLUMNS = (
    "age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation",
    "relationship", "race", "gender", "capital_gain", "capital_loss", "hours_per_week",
    "native_country", "income_bracket",
)
# fmt: on
_NUMERIC = ("fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week")
_LABELS = ("income_bracket", "marital_status")


def load_adult(
    protocol: str = "default", encoder: Mapping[str, Any] | None = None
) -> MultiTaskData:
    """Load Adult, UCI data set 2, with the tasks "income" (over 50K) and "marital".

    "marital" is whether a person never married. The two tasks are no funnel (neither is a part
    of the other), so ESMM's numbers on them only show that it runs.

    Args:
        protocol: str. "default": leak-free, with the last fifth of the training file (in file
            order) as validation rows, vocabularies and min-max scalings fitted on the other
            training rows only, and `fnlwgt` (the number of persons that a row stands for) as
            `sample_weight`, divided by its training mean, instead of a feature: 26,049, 6,512
            and 16,281 rows. "reference": as published tables were made, the whole training
            file for training, no validation rows, fitted on all rows, test rows included, with
            `fnlwgt` as a feature. Defaults to "default".
        encoder: dict or None. Settings of the `TableEncoder` for all columns that replace the
            protocol's, such as `{"encoding": "piecewise_linear"}`. Defaults to None.

    Returns:
        A MultiTaskData with 8 categorical features (age among them) of embedding size 16 and 4
        numeric ones (5 with the reference protocol), scaled to [0, 1] over the rows that were
        fitted.

    Raises:
        ValueError: an unknown protocol, or a data file with a wrong checksum.
        OSError: the files are neither on disk nor to be had from UCI.

    References:
        - Becker and Kohavi, Adult, UCI Machine Learning Repository, 1996,
          https://doi.org/10.24432/C5XW20
    """
    checks.one_of(*PROTOCOLS)("protocol", protocol)
    train, test = load_files(_FILES, parse)
    return build(train, test, protocol, encoder)


def parse(content: bytes) -> pd.DataFrame:
    """Read the bytes of an Adult file: 15 columns, no header, values after a space.

    The test file's first line ("|1x3 Cross validator") is skipped, and the full stop after its
    labels removed.

    Args:
        content: bytes. The uncompressed file.

    Returns:
        A pd.DataFrame with integer columns for age and the numeric features and columns of
        strings for the rest. "?" is an ordinary value.
    """
    integers = dict.fromkeys(("age", *_NUMERIC), "int64")
    frame = pd.read_csv(
        io.BytesIO(content),
        header=None,
        names=list(_COLUMNS),
        dtype={name: integers.get(name, "str") for name in _COLUMNS},
        skipinitialspace=True,
        na_filter=False,
        comment="|",
    )
    frame["income_bracket"] = frame["income_bracket"].str.rstrip(".")
    return frame


def build(
    train: pd.DataFrame,
    test: pd.DataFrame,
    protocol: str,
    encoder: Mapping[str, Any] | None = None,
) -> MultiTaskData:
    """Make the data set out of two parsed files; see `load_adult` for the arguments."""
    frame = stack([train, test])
    splits = {"train": slice(0, len(train)), "test": slice(len(train), len(frame))}
    if protocol == "default":
        middle = len(train) - len(train) // 5
        splits |= {"train": slice(0, middle), "val": slice(middle, len(train))}
    return assemble(
        frame,
        splits,
        {
            "income": (frame["income_bracket"] == ">50K").to_numpy(),
            "marital": (frame["marital_status"] == "Never-married").to_numpy(),
        },
        categorical=[name for name in _COLUMNS if name not in (*_NUMERIC, *_LABELS)],
        numeric=_NUMERIC,
        weight="fnlwgt",
        encoder={"embedding_dim": 16, **(encoder or {})},
        protocol=protocol,
    )
