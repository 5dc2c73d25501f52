import pandas as pd
import pytest

from mtl.data import adult, census_income
from mtl.data.download import find, load_files


@pytest.fixture(scope="session")
def census_frames() -> list[pd.DataFrame]:
    # Straight from the repository's own files: these tests never skip.
    for file in census_income._FILES:
        path = find(file)
        assert path is not None
        assert path.parts[-3:] == ("data", "census-income", f"{file.name}.xz")
    return load_files(census_income._FILES, census_income.parse)


@pytest.fixture(scope="session")
def adult_frames() -> list[pd.DataFrame]:
    if not all(find(file) for file in adult._FILES):
        pytest.skip("adult.data and adult.test are neither in MTL_DATA_HOME nor in the cache")
    return load_files(adult._FILES, adult.parse)
