"""A training goes on where it was stopped, to the bit on JAX."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
from typing import Any

import keras
import numpy as np
import pytest
import toy

pytest.importorskip("pyarrow", reason="the extra parquet is not installed")

from mtl.callbacks import Checkpoint
from mtl.data import ParquetStream
from mtl.optimizers import LazyAdam

ROWS, BATCH = 640, 32
EXACT = {"rtol": 0, "atol": 0} if toy.BACKEND == "jax" else {"rtol": 1e-4, "atol": 1e-5}


class Stop(keras.callbacks.Callback):
    """Stops the training, as a kill would, after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("rows")
    toy.write_parquet(folder / "rows.parquet", ROWS, group=50, missing=7)
    return folder


def stream(files: pathlib.Path, **options: Any) -> ParquetStream:
    given = {"tasks": ["task_1", "task_2"], "batch_size": BATCH, "pool_rows": 200, **options}
    return ParquetStream(files, toy.columns(), **given)


def model() -> Any:
    one = toy.build("SharedBottom", dnn_dropout=0.3)
    lazy = LazyAdam(0.02) if toy.BACKEND != "torch" else keras.optimizers.Adam(0.02)
    one.compile(lazy, balancer="uncertainty", metrics=["mae"], **toy.NO_XLA)
    return one


def state(model: Any) -> list[np.ndarray]:
    variables = [*model.weights, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(v.value)) for v in variables]


@pytest.fixture(scope="module")
def whole(files: pathlib.Path) -> tuple[Any, dict[str, list[float]]]:
    """A training that nothing stopped, and its logs."""
    one, data = model(), stream(files)
    return one, one.fit(data, epochs=3, validation_data=data, verbose=0).history


# The first ones: within an epoch, at the end of one before it is written, at the last step but one.
@pytest.mark.parametrize("stops", [[7, 14, 41], [25, 31, 1]])
def test_it_ends_as_without_the_stops(
    stops: list[int], files: pathlib.Path, whole: Any, tmp_path: pathlib.Path
) -> None:
    folder, data = tmp_path / "run", stream(files)
    for left in stops:
        with pytest.raises(KeyboardInterrupt):
            model().fit(
                data, epochs=3, validation_data=data, verbose=0,
                callbacks=[Checkpoint(folder, every=6), Stop(left)],
            )  # fmt: skip
    rest = model()
    history = rest.fit(
        data, epochs=3, validation_data=data, verbose=0, callbacks=[Checkpoint(folder, every=6)]
    )
    expected, logs = whole
    toy.same(state(rest), state(expected), **EXACT)
    assert history.epoch[-1] == 2
    assert history.history["val_loss"][-1] == pytest.approx(logs["val_loss"][-1], rel=1e-4)
    # Which is the end: nothing is left to train.
    again = model()
    with pytest.warns(UserWarning, match=r"`epochs` should be more than 3.*Received: 3") as warned:
        logs = again.fit(data, epochs=3, verbose=0, callbacks=[Checkpoint(folder)]).history
    assert logs == {}
    assert warned[0].filename == __file__
    toy.same(again.get_weights(), rest.get_weights(), rtol=0, atol=0)
    assert len(list(folder.iterdir())) == 3


def test_callbacks_see_one_training(files: pathlib.Path, tmp_path: pathlib.Path) -> None:
    seen: list[str] = []

    class Sees(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            seen.append("begin")

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            seen.append(f"epoch {epoch}")

        def on_train_end(self, logs: Any = None) -> None:
            seen.append("end")

    data = stream(files)
    with pytest.raises(KeyboardInterrupt):
        model().fit(data, epochs=2, verbose=0, callbacks=[Checkpoint(tmp_path, every=5), Stop(8)])
    one = model()
    history = one.fit(data, epochs=2, verbose=0, callbacks=[Checkpoint(tmp_path, 5), Sees()])
    assert seen == ["begin", "epoch 0", "epoch 1", "end"]
    assert history.epoch == [0, 1]
    assert int(one.optimizer.iterations) == 40


def test_processes_may_each_write_what_they_hold(
    files: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    if toy.BACKEND != "jax":
        with pytest.raises(ValueError, match="`sharded` should be False with other backends"):
            Checkpoint(tmp_path, sharded=True)
        return
    pytest.importorskip("orbax.checkpoint", reason="the extra scale is not installed")
    whole, data = model(), stream(files)
    whole.fit(data, epochs=2, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        model().fit(
            data, epochs=2, verbose=0, callbacks=[Checkpoint(tmp_path, 6, sharded=True), Stop(27)]
        )
    (tmp_path / "000009-0000000000.orbax-checkpoint-tmp").mkdir()  # of a write that was cut off
    with pytest.raises(ValueError, match="with the same `sharded`"):
        model().fit(data, epochs=2, verbose=0, callbacks=[Checkpoint(tmp_path)])
    rest, again = model(), Checkpoint(tmp_path, 6, keep=2, sharded=True)
    rest.fit(data, epochs=2, verbose=0, callbacks=[again])
    toy.same(state(rest), state(whole), **EXACT)
    assert [path.name for path in again.checkpoints()] == ["000001-0000000018", "000002-0000000000"]


def test_arrays_go_on_at_an_epochs_end(tmp_path: pathlib.Path) -> None:
    x, y = toy.features(48), toy.labels(rows=48)
    options: dict[str, Any] = {"batch_size": 16, "shuffle": False, "verbose": 0}
    whole = model()
    whole.fit(x, y, epochs=3, **options)
    model().fit(x, y, epochs=2, callbacks=[Checkpoint(tmp_path)], **options)
    rest = model()
    rest.fit(x, y, epochs=3, callbacks=[Checkpoint(tmp_path)], **options)
    toy.same(state(rest), state(whole), **EXACT)
    with pytest.raises(ValueError, match=r"`every` should be None without a ParquetStream.*2"):
        model().fit(x, y, callbacks=[Checkpoint(tmp_path, every=2)], **options)


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # of the other model
def test_checkpoints_of_another_training_are_refused(
    files: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    data = stream(files)
    model().fit(data, verbose=0, callbacks=[Checkpoint(tmp_path, every=5, keep=1)])
    assert [path.name for path in tmp_path.iterdir()] == ["000001-0000000000"]
    for options, names in (({"seed": 1}, "`seed`"), ({"batch_size": 16}, "`batch_size`")):
        with pytest.raises(ValueError, match=f"`folder` should hold .* differs in {names}"):
            model().fit(
                stream(files, **options), epochs=2, verbose=0, callbacks=[Checkpoint(tmp_path)]
            )
    other = toy.build("SharedBottom", bottom_dnn_units=(9,))
    other.compile("adam", **toy.NO_XLA)
    with pytest.raises(ValueError, match="`folder` should hold checkpoints of this model"):
        other.fit(data, epochs=2, verbose=0, callbacks=[Checkpoint(tmp_path)])
    averaging = toy.build("SharedBottom")
    averaging.compile(keras.optimizers.SGD(0.1, use_ema=True), **toy.NO_XLA)
    with pytest.raises(ValueError, match="`every` should be None with an optimizer that averages"):
        averaging.fit(data, verbose=0, callbacks=[Checkpoint(tmp_path, every=2)])
    with pytest.raises(ValueError, match="`steps_per_epoch` should be None with a ParquetStream"):
        model().fit(data, steps_per_epoch=3, verbose=0)
    for bad in ({"every": 0}, {"keep": 0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Checkpoint(tmp_path, **bad)
    with pytest.raises(TypeError, match="`folder`"):
        Checkpoint(3)  # type: ignore[arg-type]


_SCRIPT = """
    import os, pathlib, signal, sys
    sys.path[:0] = {path!r}
    import keras
    import test_checkpoint as t

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            Kill.left -= 1
            if Kill.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    Kill.left = {step}
    one = t.model()
    one.fit(
        t.stream(pathlib.Path({files!r})), epochs=2, verbose=0,
        callbacks=[t.Checkpoint({folder!r}, every=3), Kill()],
    )
    one.save_weights({folder!r} + "/end.weights.h5")
"""


@pytest.mark.slow
def test_after_sigkill_nothing_is_half_written_and_it_ends_alike(
    files: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = [str(pathlib.Path(__file__).parent)]
    codes = []
    for step in (7, 10**9):
        values = {"path": path, "files": str(files), "folder": str(tmp_path), "step": step}
        script = textwrap.dedent(_SCRIPT.format(**values))
        done = subprocess.run([sys.executable, "-c", script], env=os.environ, timeout=600)
        codes.append(done.returncode)
        for checkpoint in Checkpoint(tmp_path).checkpoints():
            assert json.loads((checkpoint / "position.json").read_text())["data"]
    assert codes == [-signal.SIGKILL, 0]
    whole, rest = model(), model()
    whole.fit(stream(files), epochs=2, verbose=0)
    rest.load_weights(tmp_path / "end.weights.h5")
    toy.same(rest.get_weights(), whole.get_weights(), **EXACT)
