"""KuaiRand: a recommender's log of short videos, with eight kinds of feedback."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtl import checks
from mtl.data.dataset import MultiTaskData, take
from mtl.data.download import fetch_archive, home_of
from mtl.data.past import history_before, rates_before
from mtl.data.table import TableEncoder

URL = "https://zenodo.org/records/10439422/files/KuaiRand-Pure.tar.gz"
FEEDBACK = {
    "click": "is_click",
    "long_view": "long_view",
    "like": "is_like",
    "profile_enter": "is_profile_enter",
    "comment": "is_comment",
    "follow": "is_follow",
    "forward": "is_forward",
    "hate": "is_hate",
}
FUNNEL = "click_and_long_view"
# First days of the examples, the validation rows and the test rows, and the last day.
PROTOCOLS = {
    "default": ("2022-04-25", "2022-04-29", "2022-05-01", "2022-05-08"),
    "late": ("2022-04-25", "2022-05-01", "2022-05-04", "2022-05-08"),
}
# Where videos are watched long, but no click is ever recorded.
_WITHOUT_CLICK = (11, 14)
_USER = (
    "user_active_degree", "is_lowactive_period", "is_live_streamer", "is_video_author",
    "follow_user_num_range", "fans_user_num_range", "friend_user_num_range", "register_days_range",
    *(f"onehot_feat{i}" for i in (0, 6, *range(9, 18))),
)  # fmt: skip
# Of 7 to 1,421 values that nobody explains: together they tell one user from all others, and with
# embeddings networks learn users by heart. As numbers they gain.
_USER_CODES = tuple(f"onehot_feat{i}" for i in (1, 2, 3, 4, 5, 7, 8))
_USER_NUMBERS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
_VIDEO_NUMBERS = ("duration_ms", "video_age", "server_width", "server_height")
_IDS = ("user_id", "video_id", "author_id")
_VIDEO = ("video_type", "upload_type", "visible_status", "music_type", "tag")
_LOG = ("user_id", "video_id", "date", "hourmin", "time_ms", "duration_ms", "tab")
# Whose rates are features, and how many rows the whole log's rate counts as.
_RATED = {
    "user": (("user_id",), 20.0),
    "video": (("video_id",), 20.0),
    "author": (("author_id",), 20.0),
    "tag": (("tag",), 20.0),
    "user_tag": (("user_id", "tag"), 5.0),
    "user_author": (("user_id", "author_id"), 5.0),
}
_RATES = [name for name in FEEDBACK if name != "hate"]  # of which there are 187 in these days
_HISTORY = 50  # videos
_TIME_ZONE = 8 * 3600  # seconds, of the log's dates
# Chosen on the validation rows. An id has a single number, for the same reason.
_ENCODER = {
    "embedding_dim": 8,
    "encoding": "piecewise_linear",
    "bins": 16,
    "min_count": 5,
    "min_share": 0.09,
    "clip": True,  # for counts grow from day to day, beyond those of the training rows
}


def load_kuairand(
    path: str | os.PathLike[str] | None = None,
    tasks: Sequence[str] = ("click", "long_view", "like", "profile_enter"),
    protocol: str = "default",
    encoder: Mapping[str, Any] | None = None,
    download: bool = False,
) -> MultiTaskData:
    """Load KuaiRand-Pure's standard log of 2022-04-25 to 2022-05-08, a row per impression.

    Every feature is known before the day of its row: what a user, a video, an author or a tag
    did is counted up to the day before. The log's times of feedback (`play_time_ms`,
    `profile_stay_time`, `comment_stay_time`) and the file of video statistics, which counts the
    test days too, are no features. Rows with the same user, video and time are one.

    The folder holds the files of the published archive, or Parquet files of the same names and
    columns: `log_standard_*`, one or several; `user_features_*`; `video_features_basic_*`. Days
    before 04-25 are no examples, but the past of those that are. Where no log has them,
    `user_sequences_*` may stand for them: the last videos that each user was shown, liked and
    viewed long; of other feedback nothing is known before 04-25 then.

    Args:
        path: str, path or None. The folder, or one whose subfolder "data" it is. Defaults to
            None: "kuairand" in `$MTL_DATA_HOME`, or in the cache folder.
        tasks: list of str, out of "click", "long_view", "like", "profile_enter", "comment",
            "follow", "forward", "hate", and "click_and_long_view", which with "click" is a
            funnel. Defaults to the four commonest. A click is NaN in the scenarios (`tab`) that
            record none.
        protocol: str. "default": validation from 04-29, test from 05-01. "late": validation from
            05-01, test from 05-04. What is before is for training. Vocabularies and scalings are
            fitted on the training rows. Defaults to "default".
        encoder: dict or None. Settings of the `TableEncoder` for all columns that replace the
            recipe's. Defaults to None.
        download: bool. Whether to fetch the published archive (194 MB unpacked, CC BY-SA 4.0) if
            there is no such folder. Defaults to False: an error says where to get it.

    Returns:
        A MultiTaskData of binary tasks. Features are the ids `user_id`, `video_id` and
        `author_id` (priors, whose embeddings are of size 1), the scenario `tab`, the user's and
        the video's properties, hour and weekday; `history`, the last 50 videos viewed long up to
        the day before, with the embedding of `video_id`; and by user, video, author, tag, user
        and tag, user and author the number of impressions up to the day before, the days since
        the last of them and the rate of each feedback, such as `user_like_rate`. `groups` are the
        users, for group AUC.

    Raises:
        FileNotFoundError: the folder, or a file in it, isn't there.
        ImportError: Parquet files without pyarrow.
        OSError: the archive can't be downloaded.
        ValueError: a file without a column that it should have, or no rows of some split; an
            unknown task or protocol, or a task given twice.

    References:
        - Gao et al., KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed
          Videos, CIKM 2022, https://kuairand.com
    """
    chosen = checks.entries("tasks", tasks, "a list of kinds of feedback")
    for task in chosen:
        checks.one_of(*FEEDBACK, FUNNEL)("tasks", task)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"`tasks` should name each task once. Received: {chosen}")
    checks.one_of(*PROTOCOLS)("protocol", protocol)
    folder = _folder(path, download)
    frame, history = read(folder, PROTOCOLS[protocol])
    return build(frame, history, chosen, protocol, encoder)


def _folder(path: str | os.PathLike[str] | None, download: bool) -> Path:
    base = home_of("kuairand") if path is None else Path(path).expanduser()
    for folder in (base, base / "data", base / "KuaiRand-Pure" / "data"):
        if any(folder.glob("log_standard_*")):
            return folder
    if download:
        fetch_archive(URL, base / "KuaiRand-Pure")
        return base / "KuaiRand-Pure" / "data"
    raise FileNotFoundError(
        f"`path` should be a folder with KuaiRand's files, such as log_standard_*.csv. "
        f"Received: {base}, which has none. They are in {URL}: unpack it there, or pass "
        "`download=True`."
    )


def read(folder: Path, dates: Sequence[str]) -> tuple[pd.DataFrame, list[Any]]:
    """Read a folder's log with what is known of each row's user and video.

    Args:
        folder: Path.
        dates: list of str. The first and the last are those of the examples.

    Returns:
        A pd.DataFrame of the examples in the order of time, with all features, `day` and labels
        by their tasks' names; and their histories.
    """
    columns = [*_LOG, *FEEDBACK.values()]
    logs = [_table(file, columns) for file in _files(folder, "log_standard_*")]
    users = _table(
        _files(folder, "user_features_*")[0], ["user_id", *_USER, *_USER_CODES, *_USER_NUMBERS]
    )
    videos = _table(
        _files(folder, "video_features_basic_*")[0],
        ["video_id", "author_id", *_VIDEO, "upload_dt", "server_width", "server_height"],
    )
    log = pd.concat(logs, ignore_index=True).drop_duplicates(["user_id", "video_id", "time_ms"])
    log = log.sort_values("time_ms", kind="stable", ignore_index=True)
    log = log.rename(columns={column: task for task, column in FEEDBACK.items()})
    dated = pd.to_datetime(log["date"].astype(str), format="%Y%m%d")
    first, last = pd.Timestamp(dates[0]), pd.Timestamp(dates[-1])
    log["day"] = (dated - first).dt.days
    log["click"] = log["click"].astype(float).mask(log["tab"].isin(_WITHOUT_CLICK))
    log[FUNNEL] = log["click"] * log["long_view"]
    log["counted"] = True
    if log["day"].min() >= 0 and any(folder.glob("user_sequences_*")):
        earlier = _earlier(_files(folder, "user_sequences_*")[0], first)
        log = pd.concat([earlier, log], ignore_index=True)
    log = log.merge(users, "left", "user_id").merge(videos, "left", "video_id")
    rows = log["day"].between(0, (last - first).days)
    # Of what a user liked long ago the list doesn't hold what else he was shown: no rates from it.
    counted = log["counted"]
    past = rates_before(log[counted], _RATED, _RATES, rows[counted].to_numpy())
    frame = pd.concat([log[rows], past], axis=1)
    frame["hour"] = frame["hourmin"] // 100
    days = first + pd.to_timedelta(frame["day"], "D")
    frame["weekday"] = days.dt.day_of_week
    frame["video_age"] = (days - pd.to_datetime(frame["upload_dt"])).dt.days
    viewed = log[log["long_view"] == 1]
    history = history_before(viewed, frame, "user_id", "video_id", _HISTORY)
    return frame.reset_index(drop=True), history


def _earlier(file: Path, first: pd.Timestamp) -> pd.DataFrame:
    """Return what a file of sequences tells of the days before the first, as rows of a log.

    The videos last shown are rows whose likes and long views are known, on the day of the user's
    last one. What was viewed long before those has rows, too, which count in no rate.
    """
    table = _table(file, ["user_id", "last_time_ms", "watch_seq", "like_seq", "long_watch_seq"])
    shown, liked, viewed = (
        _exploded(table, column) for column in ("watch_seq", "like_seq", "long_watch_seq")
    )
    older = viewed[~viewed.isin(shown)]
    rows = older.append(shown)
    seconds = table.set_index("user_id")["last_time_ms"] / 1000 + _TIME_ZONE
    day = (pd.to_datetime(seconds, unit="s") - first).dt.days
    return rows.to_frame(index=False).assign(
        like=rows.isin(liked).astype(float),
        long_view=rows.isin(viewed).astype(float),
        counted=np.arange(len(rows)) >= len(older),
        day=rows.get_level_values("user_id").map(dict(day)),
    )


def _exploded(table: pd.DataFrame, column: str) -> pd.MultiIndex:
    """Return each user beside each entry of a column of lists."""
    users = np.repeat(table["user_id"].to_numpy(), table[column].str.len())
    videos = np.concatenate([*table[column], np.array([], np.int64)]).astype(np.int64)
    return pd.MultiIndex.from_arrays([users, videos], names=["user_id", "video_id"])


def _files(folder: Path, pattern: str) -> list[Path]:
    """Return the CSV and Parquet files of a pattern, one for each name."""
    found = {
        file.stem: file for kind in ("csv", "parquet") for file in folder.glob(f"{pattern}.{kind}")
    }
    if not found:
        raise FileNotFoundError(
            f"`path` should be a folder with all of KuaiRand's files. "
            f"Received: {folder}, without {pattern}.csv or .parquet"
        )
    return [found[stem] for stem in sorted(found)]


def _table(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Return some columns of a file."""
    try:
        if file.suffix == ".csv":
            return pd.read_csv(file, usecols=list(columns), dtype={"tag": str})
        return pd.read_parquet(file, columns=list(columns))
    except ImportError:
        raise
    except Exception as error:  # of pandas, pyarrow or the file system, all about the file
        raise ValueError(
            f"{file} should be a file of KuaiRand's with the columns {list(columns)}. "
            f"Received: {type(error).__name__}: {error}"
        ) from error


def build(
    frame: pd.DataFrame,
    history: Sequence[Any],
    tasks: Sequence[str],
    protocol: str,
    encoder: Mapping[str, Any] | None = None,
) -> MultiTaskData:
    """Make the data set out of what `read` returned; see `load_kuairand` for the arguments."""
    first, *splits, _ = PROTOCOLS[protocol]
    bounds = [0, *((pd.Timestamp(day) - pd.Timestamp(first)).days for day in splits)]
    split = np.searchsorted(bounds, frame["day"], side="right") - 1
    parts = {name: split == place for place, name in enumerate(("train", "val", "test"))}
    for name, rows in parts.items():
        if not rows.any():
            raise ValueError(
                f"The log should have rows of each split by {protocol!r}: {PROTOCOLS[protocol]}. "
                f"Received: none to {name}"
            )
    frame = frame.assign(history=pd.Series(list(history), index=frame.index, dtype=object))
    rates = [f"{name}_{what}_rate" for name in _RATED for what in _RATES]
    counts = [f"{name}_{what}" for name in _RATED for what in ("seen", "since")]
    settings = {**_ENCODER, **(encoder or {})}
    fitted = TableEncoder(
        categorical={
            **{name: {"embedding_dim": 1} for name in _IDS},
            **{name: {} for name in (*_VIDEO, "tab", *_USER, "hour", "weekday")},
        },
        numeric={
            **{n: {"scaling": "log"} for n in (*_USER_NUMBERS, *_VIDEO_NUMBERS, *counts)},
            **{name: {} for name in (*rates, *_USER_CODES)},
        },
        sequences={"history": {"vocabulary": "video_id", "maxlen": _HISTORY}},
        **settings,
    )
    x = fitted.fit(frame[parts["train"]]).transform(frame)
    y = [frame[task].to_numpy(np.float32) for task in tasks]
    users = frame["user_id"].to_numpy()
    taken = {name: take(x, y, rows) for name, rows in parts.items()}
    return MultiTaskData(
        feature_columns=fitted.feature_columns,
        task_names=list(tasks),
        task_types=["binary"] * len(tasks),
        train=taken["train"],
        val=taken["val"],
        test=taken["test"],
        groups={name: users[rows] for name, rows in parts.items()},
    )
