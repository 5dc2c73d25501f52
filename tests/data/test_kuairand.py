import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pandas as pd
import pytest
from keras import ops

from mtl.benchmark import config
from mtl.benchmark.recipes import KUAIRAND
from mtl.data import kuairand, load_kuairand
from mtl.data.download import home_of
from mtl.data.past import history_before, rates_before
from mtl.features import DenseFeat, get_feature_names

FEEDBACK = list(kuairand.FEEDBACK.values())


def log(*rows):
    """Return a log of (user, video, date, hour, tab, clicked, long viewed, liked)."""
    table = [
        {
            **dict.fromkeys(FEEDBACK, 0),
            "user_id": user,
            "video_id": video,
            "date": date,
            "hourmin": hour * 100,
            "time_ms": int(pd.Timestamp(str(date)).value / 1e6) + hour * 3_600_000,
            "duration_ms": 1000 * video,
            "tab": tab,
            "is_click": click,
            "long_view": view,
            "is_like": like,
            "play_time_ms": 99 * click,
            "is_rand": 0,
        }
        for user, video, date, hour, tab, click, view, like in rows
    ]
    return pd.DataFrame(table)


APRIL = log(
    (1, 10, 20220420, 9, 1, 1, 1, 1),
    (1, 11, 20220421, 9, 1, 0, 0, 0),
)
MAY = log(
    (1, 12, 20220425, 8, 1, 1, 1, 0),
    (1, 12, 20220425, 8, 1, 1, 1, 0),  # twice in the log
    (2, 10, 20220426, 8, 0, 0, 0, 0),
    (1, 10, 20220426, 9, 1, 1, 1, 0),
    (1, 11, 20220426, 23, 11, 0, 1, 0),  # a scenario without clicks
    (2, 11, 20220429, 8, 0, 1, 0, 1),
    (3, 13, 20220501, 8, 4, 0, 0, 0),
    (1, 10, 20220508, 9, 1, 1, 1, 1),
)


def features():
    users = pd.DataFrame({"user_id": [1, 2], **dict.fromkeys(kuairand._USER, "a")})
    users[[*kuairand._USER_CODES, *kuairand._USER_NUMBERS]] = 5
    users["user_active_degree"] = ["full", "low"]
    videos = pd.DataFrame({"video_id": [10, 11, 12], **dict.fromkeys(kuairand._VIDEO, 1)})
    videos["author_id"] = [7, 7, 8]
    videos["tag"] = ["3", "3,4", None]
    videos["upload_dt"] = ["2022-04-20", "2022-04-24", "2022-04-25"]
    videos[["server_width", "server_height"]] = 720
    return users, videos


def write(folder, suffix="csv", **more):
    users, videos = features()
    files = {
        "log_standard_4_22_to_5_08_pure": MAY,
        "user_features_pure": users,
        "video_features_basic_pure": videos,
        **more,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in files.items():
        if suffix == "csv":
            table.to_csv(folder / f"{name}.csv", index=False)
        else:
            table.to_parquet(folder / f"{name}.parquet")
    return folder


@pytest.fixture
def published(tmp_path):
    return write(tmp_path / "data", log_standard_4_08_to_4_21_pure=APRIL)


def test_what_was_known_before_each_day():
    table = pd.DataFrame(
        {
            "user": [1, 1, 2, 1, 1, 2],
            "day": [0, 0, 0, 1, 2, 2],
            "like": [1, 0, 0, np.nan, 1, 0],
        }
    )
    rates = rates_before(table, {"user": (["user"], 2.0)}, ["like"])
    assert rates["user_seen"].tolist() == [0, 0, 0, 2, 3, 1]
    np.testing.assert_array_equal(rates["user_since"], [np.nan, np.nan, np.nan, 1, 1, 2])
    # Before day 1 one of three rows is liked, and before day 2 still: one is unknown.
    expected = [np.nan, np.nan, np.nan, (1 + 2 / 3) / 4, (1 + 2 / 3) / 4, (0 + 2 / 3) / 3]
    np.testing.assert_allclose(rates["user_like_rate"], expected)


def test_the_rows_of_a_day_tell_nothing_of_it():
    random = np.random.default_rng(0)
    table = pd.DataFrame(random.integers(0, 4, (300, 3)), columns=["a", "b", "day"])
    table["like"] = random.integers(0, 2, 300)
    rates = rates_before(table, {"ab": (["a", "b"], 3.0)}, ["like"])
    for i, row in table.iterrows():
        before = table[table["day"] < row["day"]]
        own = before[(before["a"] == row["a"]) & (before["b"] == row["b"])]
        assert rates["ab_seen"][i] == len(own)
        if row["day"]:
            expected = (own["like"].sum() + 3 * before["like"].mean()) / (len(own) + 3)
            np.testing.assert_allclose(rates["ab_like_rate"][i], expected)
        else:
            assert np.isnan(rates["ab_like_rate"][i])


def test_a_missing_value_is_a_key():
    table = pd.DataFrame({"tag": [None, "a", None], "day": [0, 0, 1], "like": [1, 0, 0]})
    rates = rates_before(table, {"tag": (["tag"], 1.0)}, ["like"])
    assert rates["tag_seen"].tolist() == [0, 0, 1]


def test_a_history_holds_the_last_of_the_days_before():
    events = pd.DataFrame({"u": [1, 1, 2, 1, 1], "v": [5, 6, 7, 8, 9], "day": [0, 0, 0, 1, 2]})
    rows = pd.DataFrame({"u": [1, 1, 1, 2, 3], "day": [0, 1, 3, 3, 3]})
    found = history_before(events, rows, "u", "v", 3)
    assert [list(one) for one in found] == [[], [5, 6], [6, 8, 9], [7], []]


def test_the_published_folder(published):
    for path in (published, published.parent):
        data = load_kuairand(path, encoder={"min_count": 1})
    assert data.task_names == ["click", "long_view", "like", "profile_enter"]
    assert data.task_types == ["binary"] * 4
    # One row of the two that are the same; those before 04-25 are no examples.
    assert [len(split[1][0]) for split in (data.train, data.val, data.test)] == [4, 1, 2]
    np.testing.assert_array_equal(data.train[1][0], [1, 0, 1, np.nan])
    np.testing.assert_array_equal(data.train[1][1], [1, 0, 1, 1])
    np.testing.assert_array_equal(data.test[1][2], [0, 1])
    assert {name: list(g) for name, g in data.groups.items()} == {
        "train": [1, 2, 1, 1], "val": [2], "test": [3, 1],
    }  # fmt: skip
    names = get_feature_names(data.feature_columns)
    assert {"user_id", "video_id", "author_id", "tab", "history", "user_like_rate"} <= set(names)
    sizes = {c.name: getattr(c, "embedding_dim", None) for c in data.feature_columns}
    assert (sizes["user_id"], sizes["history"], sizes["tab"], sizes["onehot_feat3"]) == (
        1, 1, 8, None,
    )  # fmt: skip
    recipe = config.tuned("kuairand", KUAIRAND)
    given = set(get_feature_names(data.without(recipe.leave_out).feature_columns))
    assert given & {"user_id", "video_id", "author_id", "history", "history_length"} == set()
    assert {"tab", "user_like_rate", *recipe.sizes["PEPNet"]["prior_features"]} <= given
    leaks = ("play_time", "stay_time", "is_", "show_cnt")
    allowed = {"is_lowactive_period", "is_live_streamer", "is_video_author"}
    assert not [n for n in names if n not in allowed and any(leak in n for leak in leaks)]


def test_features_tell_of_the_days_before_alone(published):
    dates = kuairand.PROTOCOLS["default"]
    frame, history = kuairand.read(published, dates)
    assert frame["user_id"].tolist() == [1, 2, 1, 1, 2, 3, 1]
    assert frame["user_seen"].tolist() == [2, 0, 3, 3, 1, 0, 5]
    assert frame["author_seen"].tolist() == [0, 2, 2, 2, 5, 0, 6]
    assert frame["user_author_seen"].tolist() == [0, 0, 2, 2, 1, 0, 4]
    assert [list(one) for one in history] == [
        [10],
        [],
        [10, 12],
        [10, 12],
        [],
        [],
        [10, 12, 10, 11],
    ]
    # User 1 has liked one of two videos before 04-25, and so has everybody together.
    np.testing.assert_allclose(frame["user_like_rate"][0], (1 + 20 * 1 / 2) / (2 + 20))
    # On 04-26 one of three; a click in a scenario without clicks is no row of the rate of clicks.
    np.testing.assert_allclose(frame["user_like_rate"][2], (1 + 20 * 1 / 3) / (3 + 20))
    np.testing.assert_allclose(frame["user_click_rate"][6], (3 + 20 * 4 / 7) / (4 + 20))
    assert frame["video_age"].tolist()[:4] == [0, 6, 6, 2]
    assert frame["weekday"].tolist()[:2] == [0, 1]
    assert frame["hour"].tolist()[:4] == [8, 8, 9, 23]
    # What happens on a day changes no feature of that day, or of one before.
    later = MAY.assign(**dict.fromkeys(FEEDBACK, 1)).where(MAY["date"] >= 20220501, MAY)
    write(published, log_standard_4_22_to_5_08_pure=later)
    changed, _ = kuairand.read(published, dates)
    known = [n for n in frame if str(n).endswith(("_rate", "_seen"))]
    pd.testing.assert_frame_equal(frame.loc[:5, known], changed.loc[:5, known])


def test_sequences_stand_for_the_days_before(tmp_path):
    sequences = pd.DataFrame(
        {
            "user_id": [1, 2],
            # 04-24 at noon, and 04-22 at 23:00, in China.
            "last_time_ms": [1650772800000, 1650639600000],
            "watch_seq": [[10, 11], [12]],
            "like_seq": [[10], []],
            "long_watch_seq": [[13, 10], []],
        }
    )
    folder = write(tmp_path / "kuairand", "parquet", user_sequences_to_4_24=sequences)
    frame, history = kuairand.read(folder, kuairand.PROTOCOLS["default"])
    assert frame["user_seen"].tolist() == [2, 1, 3, 3, 2, 0, 5]
    assert frame["user_since"].tolist()[:5] == [1, 4, 1, 1, 3]
    assert [list(one) for one in history][:3] == [[13, 10], [], [13, 10, 12]]
    # Shown last: 10, 11 and 12; of these 10 was liked.
    np.testing.assert_allclose(frame["user_like_rate"][0], (1 + 20 * 1 / 3) / (2 + 20))
    assert np.isnan(frame["user_click_rate"][0])
    assert not frame["user_click_rate"][1:].isna().any()


def test_late_days_and_other_tasks(published):
    more = pd.concat([MAY, log((1, 10, 20220502, 9, 1, 1, 1, 1))])
    write(published, log_standard_4_22_to_5_08_pure=more)
    data = load_kuairand(published, ["like", "hate"], "late")
    assert data.task_names == ["like", "hate"]
    assert [len(split[1][0]) for split in (data.train, data.val, data.test)] == [5, 2, 1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"tasks": ["click", "buy"]}, "`tasks`.*'buy'"),
        ({"tasks": ["click", "click"]}, "`tasks`.*once"),
        ({"tasks": []}, "`tasks`.*once"),
        ({"protocol": "random"}, "`protocol`.*'random'"),
    ],
)
def test_wrong_arguments(arguments, said, published):
    with pytest.raises(ValueError, match=said):
        load_kuairand(published, **arguments)


def test_a_partial_folder_names_the_file(published, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"log_standard.*none.*zenodo"):
        load_kuairand(tmp_path / "empty")
    (published / "video_features_basic_pure.csv").unlink()
    with pytest.raises(FileNotFoundError, match="video_features_basic"):
        load_kuairand(published)
    write(published).joinpath("user_features_pure.csv").write_text("user_id\n1\n")
    with pytest.raises(ValueError, match=r"user_features_pure.csv.*user_active_degree"):
        load_kuairand(published)
    write(published, log_standard_4_22_to_5_08_pure=MAY[:4])
    with pytest.raises(ValueError, match="none to val"):
        load_kuairand(published)


def test_the_archive_is_fetched_when_asked(published, tmp_path, monkeypatch):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as content:
        content.add(published, "KuaiRand-Pure/data")
    answers = {"/whole": archive.getvalue(), "/half": archive.getvalue()[:-100]}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in answers else 404)
            self.end_headers()
            self.wfile.write(answers.get(self.path, b""))

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        for path in ("/half", "/absent"):
            monkeypatch.setattr(kuairand, "URL", address + path)
            with pytest.raises(OSError, match="Could not download"):
                load_kuairand(tmp_path / "new", download=True)
            assert list((tmp_path / "new").iterdir()) == []
        monkeypatch.setattr(kuairand, "URL", address + "/whole")
        monkeypatch.setenv("MTL_DATA_HOME", str(tmp_path / "home"))
        data = load_kuairand(download=True)
    finally:
        server.shutdown()
        server.server_close()
    assert len(data.train[1][0]) == 4
    assert (home_of("kuairand") / "KuaiRand-Pure" / "data").is_dir()


def test_the_real_log():
    if not any(home_of("kuairand").glob("**/log_standard_*")):
        pytest.skip("KuaiRand is neither in MTL_DATA_HOME nor in the cache")
    data = load_kuairand()
    rows = [len(split[1][0]) for split in (data.train, data.val, data.test)]
    assert rows == [56_033, 35_772, 130_639]
    rates = [np.nanmean(np.concatenate([s[1][k] for s in (data.train, data.val, data.test)]))
             for k in range(4)]  # fmt: skip
    np.testing.assert_allclose(rates, [0.4501, 0.3169, 0.0174, 0.0189], atol=3e-4)
    assert sum(np.isnan(data.train[1][0])) == 56
    for column in (c for c in data.feature_columns if isinstance(c, DenseFeat)):
        seen, later = data.train[0][column.name], data.test[0][column.name]
        assert seen.min() <= later.min()
        assert later.max() <= seen.max()
        code = ops.convert_to_numpy(column.transform_fn(seen[:, None]))
        assert code.shape[1] <= 11  # bins, of 9 % of the rows at least
