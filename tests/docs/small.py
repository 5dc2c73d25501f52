"""The small table that the documentation's hidden set-ups run on: the log of a shop."""

from pathlib import Path

import numpy as np
import pandas as pd


def shop(rows=400, seed=0):
    """Return impressions: columns of every kind, and nested labels, of which some are missing."""
    rng = np.random.default_rng(seed)
    click = rng.integers(0, 2, rows)
    buy = click * rng.integers(0, 2, rows)
    return pd.DataFrame(
        {
            "user": rng.choice([f"u{i}" for i in range(20)], rows),
            "item": rng.choice([f"i{i}" for i in range(12)], rows),
            "city": rng.choice(["Kyoto", "Lima", "Oslo"], rows),
            "tab": rng.choice(["home", "search"], rows),
            "history": rng.choice(["i1|i2", "i3", "", "i2|i3|i1"], rows),
            "when": pd.Timestamp("2024-01-30")
            + pd.to_timedelta(rng.integers(0, 10**5, rows), unit="s"),
            "age": rng.integers(18, 80, rows),
            "price": rng.lognormal(3, 1, rows).round(2),
            "click": click,
            "cart": np.maximum(buy, click * rng.integers(0, 2, rows)),
            "buy": buy,
            "rating": np.where(buy, rng.integers(1, 6, rows), np.nan),
        }
    )


def write_days(folder="log", days=("2024-01-30", "2024-01-31", "2024-02-01")):
    """Write a Parquet file of two row groups for each day."""
    for number, day in enumerate(days):
        path = Path(folder) / f"day={day}"
        path.mkdir(parents=True, exist_ok=True)
        shop(seed=number).to_parquet(path / "part-0.parquet", row_group_size=200)
