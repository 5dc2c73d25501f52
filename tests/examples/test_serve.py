"""The service of scores, as a server of its own on the loopback."""

import ast
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import toy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtl.data import TableEncoder
from mtl.models import SharedBottom
from mtl.serving import Pipeline

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytestmark = [
    pytest.mark.skipif(toy.BACKEND != "tensorflow", reason="ONNX is exported on TensorFlow only"),
    pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning:keras"),
]
SCRIPT = Path(__file__).parents[2] / "examples" / "serve.py"
ROWS = 64


def log() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "home town": rng.choice(["Rome", "Zürich", None], ROWS),
            "code": rng.integers(0, 5, ROWS),
            "big": rng.choice([2**60, 2**60 + 1], ROWS),
            "member": rng.random(ROWS) < 0.5,
            "age": np.where(rng.random(ROWS) < 0.1, np.nan, rng.normal(40, 9, ROWS)),
            "when": pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(ROWS), unit="h"),
            "history": rng.choice(["a|b", "c", ""], ROWS),
        }
    )
    frame["seen"] = [rng.integers(0, 5, n % 4).tolist() for n in range(ROWS)]
    return frame


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    encoder = TableEncoder(
        ["home town", "code", "big", "member"], ["age"], times=["when"],
        sequences={"history": {"separator": "|"}, "seen": {"maxlen": 2}},
    ).fit(log())  # fmt: skip
    model = SharedBottom(
        encoder.feature_columns,
        task_names=["a click", "why"],
        task_types=["binary", ("multiclass", 3)],
        tower_dnn_units_lists=[[4], [4]],
    )
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.5, weight.shape) for weight in model.weights])
    return Pipeline(encoder, model)


@pytest.fixture(scope="module")
def port(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    path = tmp_path_factory.mktemp("serve") / "model.onnx"
    pipeline.export(path, format="onnx")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    command = [sys.executable, SCRIPT, str(path), "--port", str(number)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = subprocess.Popen(command, env=environment)
    try:
        for _ in range(600):
            assert server.poll() is None
            try:
                assert ask(number, "GET", "/health") == (200, {"status": "ok"})
                break
            except ConnectionError:
                time.sleep(0.05)
        yield number
        assert ask(number, "GET", "/health") == (200, {"status": "ok"})  # whatever it was asked
    finally:
        server.terminate()
        server.wait()


def ask(port: int, method: str, path: str, content: Any = None) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    body = content if content is None or isinstance(content, bytes) else json.dumps(content)
    connection.request(method, path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text)


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as JSON has them: null is missing, a time is its text."""
    rows = json.loads(frame.astype(object).to_json(orient="records", date_format="iso"))
    for row, big in zip(rows, frame["big"], strict=True):
        row["big"] = None if pd.isna(big) else int(big)
    for row, when in zip(rows, frame["when"], strict=True):
        row["when"] = None if pd.isna(when) else when.isoformat()
    return rows  # type: ignore[no-any-return]


def scores_of(answers: list[dict[str, Any]]) -> np.ndarray:
    return np.array([[row["a click"], *row["why"]] for row in answers], "float32")


def strange() -> pd.DataFrame:
    frame = log()
    frame["code"] = frame["code"].astype(float)
    for i, (name, value) in enumerate(
        [
            ("home town", "Bonn"), ("home town", " Rome"), ("code", np.nan), ("code", 1.5),
            ("age", np.nan), ("age", 1e30), ("when", pd.NaT), ("history", "|a||x"),
        ]
    ):  # fmt: skip
        frame.loc[i::9, name] = value
    frame["seen"] = [
        None if i % 5 == 0 else [None, 77, *row] for i, row in enumerate(log()["seen"])
    ]
    return frame


@pytest.mark.filterwarnings("ignore:`frame` should hold values of the kind:UserWarning")
@pytest.mark.parametrize("frame", [log(), strange()], ids=["known", "strange"])
def test_answers_are_the_pipelines_scores(
    frame: pd.DataFrame, pipeline: Pipeline, port: int
) -> None:
    expected = pipeline.predict(frame).to_numpy()
    rows = rows_of(frame)
    status, answers = ask(port, "POST", "/scores", rows)
    assert status == 200
    np.testing.assert_allclose(scores_of(answers), expected, rtol=1e-5, atol=1e-6)
    singles = [ask(port, "POST", "/score", {**row, "more": 1}) for row in rows[:8]]
    assert [status for status, _ in singles] == [200] * 8
    one_by_one = scores_of([answer for _, answer in singles])
    np.testing.assert_allclose(one_by_one, expected[:8], rtol=1e-5, atol=1e-6)
    assert ask(port, "POST", "/scores", []) == (200, [])
    assert ask(port, "GET", "/about")[1] == json.loads(json.dumps(pipeline.describe()))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"home town": 3}, "home town"),
        ({"code": "3"}, "code"),
        ({"code": 10**400}, "code"),
        ({"big": 1.5}, "big"),
        ({"big": 2**63}, "big"),
        ({"age": 1e39}, "age"),
        ({"age": float("nan")}, "age"),
        ({"age": "old"}, "age"),
        ({"age": [1]}, "age"),
        ({"when": 3}, "when"),
        ({"when": "yesterday"}, "when"),
        ({"seen": "a"}, "seen"),
        ({"seen": [1, "a"]}, "seen"),
        ({"history": "\ud800"}, "history"),
    ],
)
def test_bad_input_is_refused_by_the_columns_name(
    change: dict[str, Any], where: str, port: int
) -> None:
    row = {**rows_of(log()[:1])[0], **change}
    status, answer = ask(port, "POST", "/score", row)
    assert status == 422
    assert answer["detail"][0]["where"][0] == where
    status, answer = ask(port, "POST", "/scores", [rows_of(log()[:1])[0], row])
    assert (status, answer["detail"][0]["where"][:2]) == (422, [1, where])


def test_bad_requests_are_refused(port: int) -> None:
    row = rows_of(log()[:1])[0]
    del row["age"]
    status, answer = ask(port, "POST", "/score", row)
    assert (status, answer["detail"][0]["where"]) == (422, ["age"])
    for content in (b"", b"{", b"[1]", b"null", b"\xff", b"[" * 100_000):
        assert ask(port, "POST", "/score", content)[0] in (400, 422)
    assert ask(port, "GET", "/score")[0] == 405


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(change=st.dictionaries(st.sampled_from(list(log())), anything, min_size=1))
def test_any_json_is_scored_or_refused(change: dict[str, Any], port: int) -> None:
    status, answer = ask(port, "POST", "/score", {**rows_of(log()[:1])[0], **change})
    assert status in (200, 422)
    assert ("a click" in answer) == (status == 200)


def test_clients_at_once_get_their_own_answers(port: int) -> None:
    rows = rows_of(log())

    def answers(client: int) -> str:
        found = [ask(port, "POST", "/score", rows[(client + i) % ROWS])[1] for i in range(5)]
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()

    alone = [answers(client) for client in range(64)]
    with ThreadPoolExecutor(64) as clients:
        assert list(clients.map(answers, range(64))) == alone


def test_clients_that_cut_off_harm_no_other(port: int) -> None:
    row = rows_of(log()[:1])[0]
    body = json.dumps([row] * 50).encode()
    head = f"POST /scores HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    expected = ask(port, "POST", "/score", row)
    for cut in (len(head) - 5, len(head) + 40, len(head) + len(body)):
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall((head + body)[:cut])
        assert ask(port, "POST", "/score", row) == expected


def test_the_service_needs_nothing_but_its_own_packages() -> None:
    tree = ast.parse(SCRIPT.read_text())
    names = {n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    packages = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert packages == {"fastapi", "numpy", "onnxruntime", "pydantic", "uvicorn"}
