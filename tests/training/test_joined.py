"""Two processes of two devices each train what one does, and go on where one was killed."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import toy

pytest.importorskip("pyarrow", reason="the extra parquet is not installed")

ROWS = 203  # in 11 row groups: batches of 8 rows leave some out
HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    pytest.importorskip("jax", reason="the extra jax is not installed")
    folder = tmp_path_factory.mktemp("together")
    toy.write_parquet(folder / "rows.parquet", ROWS, group=19, missing=3)
    return folder


def start(folder: pathlib.Path, run: str, processes: int, *more: str) -> list[int]:
    """Run the processes, and return how they ended; none is left behind."""
    (folder / run).mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(HERE.parent), *sys.path])
    # They find the coordinator and each other on the loopback alone.
    environment = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2"}
    running = [
        subprocess.Popen(
            [
                sys.executable,
                HERE / "together.py",
                folder,
                run,
                str(i),
                str(processes),
                port,
                *more,
            ],
            env=environment,
        )
        for i in range(processes)
    ]
    deadline = time.monotonic() + 240
    try:
        return [one.wait(max(deadline - time.monotonic(), 1)) for one in running]
    finally:
        for one in running:
            one.kill()


def found(folder: pathlib.Path, run: str, process: int, processes: int) -> dict[str, np.ndarray]:
    with np.load(folder / run / f"{process}-of-{processes}.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def whole(folder: pathlib.Path) -> pathlib.Path:
    """A training by two processes that nothing stopped."""
    assert start(folder, "whole", 2) == [0, 0]
    return folder


@pytest.mark.slow
def test_two_processes_train_what_one_does(whole: pathlib.Path) -> None:
    """On the same batches, with missing labels, sharded tables, a lazy optimizer and surgery."""
    assert start(whole, "alone", 1) == [0]
    [alone] = [found(whole, "alone", 0, 1)]
    both = [found(whole, "whole", i, 2) for i in range(2)]
    # Dropout is drawn for the whole batch, wherever its rows are.
    for key, expected in alone.items():
        for ours in both:
            np.testing.assert_allclose(ours[key], expected, rtol=1e-5, atol=1e-6, err_msg=key)
    for loss in ("loss", "task_1_loss", "task_2_loss"):
        np.testing.assert_allclose(both[0][loss], alone[loss], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_each_process_predicts_its_own_rows(whole: pathlib.Path) -> None:
    model = keras.models.load_model(whole / "whole" / "2.keras")
    x = toy.features(20)
    predicted = np.concatenate(model.predict(x, verbose=0), axis=1)
    for process, rows in enumerate((20, 7)):
        own = found(whole, "whole", process, 2)
        for key in ("predicted", "on_batch", "loaded"):
            np.testing.assert_allclose(own[key], predicted[:rows], rtol=1e-5, atol=1e-6)
        for method in ("fit", "evaluate"):
            assert "Received: [5, 2] batches in the 2" in str(own[f"refused_{method}"])


@pytest.mark.slow
def test_a_lost_process_ends_the_others_and_all_go_on_together(whole: pathlib.Path) -> None:
    started = time.monotonic()
    first, second = start(whole, "killed", 2, "17")
    assert second == 9
    assert first != 0
    assert time.monotonic() - started < 200  # of which most is the start
    assert not list((whole / "killed").glob("*.npz"))
    left = sorted(path.name for path in (whole / "killed").glob("[0-9]*"))
    assert left  # and none is half written: the next start reads the last
    assert start(whole, "killed", 2) == [0, 0]
    expected, ours = (found(whole, run, 0, 2) for run in ("whole", "killed"))
    for key in (key for key in expected if key.startswith("weight")):
        np.testing.assert_array_equal(ours[key], expected[key], err_msg=key)
