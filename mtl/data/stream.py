"""ParquetStream: batches from Parquet files that needn't fit into memory."""

from __future__ import annotations

import copy
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import keras
import numpy as np

from mtl import checks
from mtl.data.arrow import Features, Kind, frame_of, number, numbers
from mtl.data.parquet import Group, ParquetTable
from mtl.data.table import TableEncoder
from mtl.features import check_columns

POOL_ROWS = 1 << 20
_DECODERS = max(1, min(8, (os.cpu_count() or 1) // 2))  # threads; the others train


class ParquetStream(keras.utils.PyDataset):
    """Batches of Parquet files for `fit`, `evaluate` and `predict`, on every backend.

    ```python
    train = ParquetStream("log/day=2024-01-*", encoder, tasks=["click", "buy"], batch_size=4096)
    model.fit(train, epochs=2)
    ```

    Row groups are read in an order drawn anew for each epoch, gathered into pools, and rows are
    drawn from one pool at a time: each row comes once per epoch. Only two pools are in memory, the
    one in use and the next. A batch follows from the files, the seed, the epoch, the step and the
    process alone, so that training goes on after a stop as if there had been none (see
    `mtl.callbacks.Checkpoint`).

    `evaluate` and `predict` of the models of `mtl.models` read the rows in the order of the files.

    Args:
        path: str, path, or list of them. Files, folders (all `*.parquet` in them and below; folders
            named `key=value` give a column) or globs.
        encoder: a fitted `TableEncoder`, for files of raw values; or a list of feature columns, for
            files of ids and numbers. Lists of ids are sequences, padded with 0 to `maxlen`; of a
            longer one the last entries count. The length of a sequence, if the files don't have a
            column for it, is that of its list.
        tasks: list of str, or None. The columns of the labels, in task order; null and NaN are
            missing. None for rows to predict.
        batch_size: int. Rows of a batch, in each process.
        shuffle: bool. Whether to permute row groups, and rows within pools. Defaults to True.
        seed: int. Seed of the order. Defaults to 0.
        pool_rows: int. Rows at least in a pool; memory grows with it, and so does how well rows
            are mixed. Defaults to 1,048,576.
        sample_weight: str, list of str or dict from task to str, or None. The columns of the
            sample weights: one for every task, or one per task. Defaults to None.
        shard: tuple of two int, or None. Which of how many processes this is: each reads row groups
            of its own, and all make the same number of batches, that of the one with the fewest
            rows (`left_out` counts what is left over). Defaults to None: JAX's own processes.

    Attributes:
        table: the `ParquetTable`.
        goes_on: bool. Whether another epoch follows, so that its first rows are read ahead: `fit`
            says so.
        left_out: int. Rows of all processes that no batch holds, so that all have equally many.

    Raises:
        FileNotFoundError: no such file.
        ImportError: pyarrow isn't installed.
        RuntimeError: an encoder that isn't fitted.
        TypeError: an argument of a wrong type.
        ValueError: a damaged file, a column that is absent or of a wrong type, fewer row groups
            than processes, or an argument out of range.
    """

    def __init__(
        self,
        path: Any,
        encoder: TableEncoder | Sequence[Any],
        tasks: Sequence[str] | None,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        pool_rows: int = POOL_ROWS,
        sample_weight: str | Sequence[str] | Mapping[str, str] | None = None,
        shard: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = checks.positive_int("batch_size", batch_size)
        self.shuffle, self.seed = bool(shuffle), checks.non_negative_int("seed", seed)
        self.pool_rows = checks.positive_int("pool_rows", pool_rows)
        self._shard = _check_shard(shard)
        self._tasks = None if tasks is None else _names("tasks", tasks)
        self._weights = _weights(sample_weight, self._tasks)
        columns: dict[str, Kind]
        if isinstance(encoder, TableEncoder):
            self.feature_columns = encoder.feature_columns  # it raises if it isn't fitted
            columns = {name: column.holds for name, column in encoder.columns.items()}
            self._encode: Any = _Encode(encoder, list(columns))
        else:
            self.feature_columns = check_columns(encoder)
            features = Features(self.feature_columns)
            self._encode, columns = features.arrays, dict(features.kinds)
        columns |= dict.fromkeys(self._tasks or (), numbers)
        columns |= dict.fromkeys(keras.tree.flatten(self._weights or ()), number)
        self.table = ParquetTable(path, columns)
        self._groups = self._own_groups()
        self._function: Callable[[Any], Any] | None = None
        self.goes_on = False
        self.start(0)
        self._reset()

    def _own_groups(self) -> list[Group]:
        """Share the groups out, the same way in every process, and return this one's."""
        index, count = self._shard
        groups = self.table.groups
        if len(groups) < count:
            raise ValueError(
                "`path` should have at least as many row groups as there are processes. "
                f"Received: {len(groups)} row groups for {count} processes"
            )
        shares: list[list[Group]] = [[] for _ in range(count)]
        rows = [0] * count
        # The largest first, to whom has least: shares of almost equal rows.
        for group in sorted(groups, key=lambda g: -g.rows):
            least = rows.index(min(rows))
            shares[least].append(group)
            rows[least] += group.rows
        every = [_batches(n, self.batch_size, count) for n in rows]
        self._batches = min(every)
        used = [min(n, self._batches * self.batch_size) for n in rows]
        self.left_out = sum(rows) - sum(used)
        if not self._batches:
            raise ValueError(
                "`batch_size` should leave every process a batch. "
                f"Received: {self.batch_size} with {min(rows)} rows in a process"
            )
        return sorted(shares[index])

    def _reset(self) -> None:
        self._lock = threading.Lock()
        # Kept: in threads that are new to each pool, decoding takes twice as long.
        self._reader: ThreadPoolExecutor | None = None
        self._decoders: ThreadPoolExecutor | None = None
        self._pool: tuple[Any, Any] | None = None
        self._next: tuple[Any, Future[Any]] | None = None
        self._plans: dict[int, tuple[Any, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: no pools, no threads."""
        unshared = ("_lock", "_reader", "_decoders", "_pool", "_next", "_plans")
        return {**self.__dict__, **dict.fromkeys(unshared)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def start(self, epoch: int, step: int = 0) -> None:
        """Begin the next epoch as the given one, at a step of it.

        Args:
            epoch: int. Number of the epoch, from 0.
            step: int. Batches of it that were seen already. Defaults to 0.
        """
        if step >= self._batches:
            raise ValueError(
                f"`step` should be below {self._batches}, the batches of an epoch. Received: {step}"
            )
        self._epoch, self._first = self._coming = epoch, step

    def on_epoch_begin(self) -> None:
        """Go on to the next epoch."""
        self._epoch, self._first = self._coming
        self._coming = self._epoch + 1, 0

    def by_pool(self, function: Callable[[Any], Any], in_order: bool = False) -> ParquetStream:
        """Return a stream of what a function makes of `(x, y, sample_weight)`.

        Args:
            function: function of a batch of any size, to a batch; rows stay in their order.
            in_order: bool. Whether to read the rows in the order of the files. Defaults to False.
        """
        other = copy.copy(self)
        other._reset()
        other._function = function
        other.shuffle = self.shuffle and not in_order
        return other

    def state(self) -> dict[str, Any]:
        """Return what the order of the rows follows from, for JSON."""
        return {
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "pool_rows": self.pool_rows,
            "processes": self._shard[1],
            "groups": self.table.state(),
        }

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole epoch."""
        return self._batches

    @property
    def num_batches(self) -> int:
        """Batches of the epoch, or what is left of it after `start`."""
        return self._batches - self._first

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.num_batches:
            raise IndexError(f"Received: batch {index} of {self.num_batches}")
        with self._lock:
            epoch, starts = self._epoch, self._plan(self._epoch)[1]
            begin = (index + self._first) * self.batch_size
            end = min(begin + self.batch_size, int(starts[-1]))
            parts = []
            while begin < end:
                pool = int(np.searchsorted(starts, begin, "right")) - 1
                low, until = begin - starts[pool], min(end, int(starts[pool + 1]))
                batch, order = self._pool_of(epoch, pool)
                rows = slice(low, until - starts[pool])
                parts.append(keras.tree.map_structure(partial(_taken, rows, order), batch))
                begin = until
        if len(parts) == 1:
            return parts[0]
        return keras.tree.map_structure(lambda *pieces: np.concatenate(pieces), *parts)

    def _plan(self, epoch: int) -> tuple[list[list[Group]], Any]:
        """Return the groups of each pool, and the number of rows before each pool and the end."""
        if epoch not in self._plans:
            order = np.arange(len(self._groups))
            if self.shuffle:
                order = np.random.default_rng([self.seed, epoch]).permutation(order)
            pools: list[list[Group]] = [[]]
            for i in order:
                if sum(group.rows for group in pools[-1]) >= self.pool_rows:
                    pools.append([])
                pools[-1].append(self._groups[i])
            sizes = [sum(group.rows for group in pool) for pool in pools]
            kept = {e: plan for e, plan in self._plans.items() if e == epoch - 1}
            self._plans = {**kept, epoch: (pools, np.cumsum([0, *sizes]))}
        return self._plans[epoch]

    def _pool_of(self, epoch: int, pool: int) -> Any:
        """Return a pool's rows and their order; the next pool is read meanwhile."""
        pools, _ = self._plan(epoch)
        if self._pool is None or self._pool[0] != (epoch, pool):
            self._pool = None  # two are enough
            waiting, self._next = self._next, None
            if waiting is not None and waiting[0] == (epoch, pool):
                self._pool = (epoch, pool), waiting[1].result()
            else:
                self._pool = (epoch, pool), self._read(epoch, pool, pools[pool])
            then = (epoch, pool + 1) if pool + 1 < len(pools) else (epoch + 1, 0)
            if then[1] or (self.goes_on and then == self._coming):
                self._reader = self._reader or _threads(1)
                groups = self._plan(then[0])[0][then[1]]
                self._next = then, self._reader.submit(self._read, *then, groups)
        return self._pool[1]

    def _read(self, epoch: int, pool: int, groups: Sequence[Group]) -> tuple[Any, Any]:
        starts = np.cumsum([0, *(group.rows for group in groups)])
        rows = int(starts[-1])
        first = self._group(groups[0])
        whole = keras.tree.map_structure(lambda v: np.empty((rows, *v.shape[1:]), v.dtype), first)

        def place(batch: Any, start: int) -> None:
            flat = keras.tree.flatten(batch)
            for to, values in zip(keras.tree.flatten(whole), flat, strict=True):
                to[start : start + len(values)] = values

        place(first, 0)
        self._decoders = self._decoders or _threads(_DECODERS)
        rest = zip(groups[1:], starts[1:-1].tolist(), strict=True)
        # Its results are asked for, so that errors are raised.
        list(self._decoders.map(lambda pair: place(self._group(pair[0]), pair[1]), rest))
        order = None
        if self.shuffle:
            seed = [self.seed, epoch, self._shard[0], pool]
            order = np.random.default_rng(seed).permutation(rows)
        return whole, order

    def _group(self, group: Group) -> Any:
        """Return a row group as `(x,)`, `(x, y)` or `(x, y, sample_weight)`."""
        table = self.table.read(group)
        try:
            x = self._encode(table)
            batch: tuple[Any, ...] = (x,)
            if self._tasks is not None:
                batch = (x, tuple(numbers.array(table[name]) for name in self._tasks))
            if self._weights is not None:
                batch = (
                    *batch,
                    keras.tree.map_structure(lambda name: number.array(table[name]), self._weights),
                )
            return batch if self._function is None else self._function(batch)
        except (TypeError, ValueError) as error:
            raise type(error)(f"In {self.table.name_of(group)!r}: {error}") from error


class _Encode:
    """From a `pyarrow.Table` to what an encoder makes of it; it can go to other processes."""

    def __init__(self, encoder: TableEncoder, columns: list[str]) -> None:
        self._encoder, self._columns = encoder, columns

    def __call__(self, table: Any) -> dict[str, np.ndarray]:
        return self._encoder.transform(frame_of(table.select(self._columns)))


def _threads(number: int) -> ThreadPoolExecutor:
    """Return threads that give way to those that train, which wait for each other."""

    def give_way() -> None:
        if sys.platform == "linux":  # elsewhere it would be the whole process
            os.nice(10)

    return ThreadPoolExecutor(number, "ParquetStream", give_way)


def _taken(rows: slice, order: Any, values: Any) -> Any:
    """Return some rows, in an order or as they lie."""
    # Three times as fast as an index.
    return values[rows] if order is None else np.take(values, order[rows], axis=0)


def _batches(rows: int, batch_size: int, processes: int) -> int:
    """Return the number of batches; of several processes all of the same size."""
    return rows // batch_size if processes > 1 else -(-rows // batch_size)


def _names(argument: str, names: Any) -> list[str]:
    given = checks.entries(argument, names, "a list of column names")
    if not given or not all(isinstance(name, str) and name for name in given):
        raise ValueError(f"`{argument}` should be a list of column names. Received: {names!r}")
    return given


def _weights(given: Any, tasks: list[str] | None) -> Any:
    """Return the columns of the sample weights, as `fit` takes the weights."""
    weights: Any = given
    if isinstance(given, str) and given:
        pass
    elif isinstance(given, Mapping):
        _names("sample_weight", list(given.values()))
        weights = dict(given)
    elif given is not None:
        weights = _names("sample_weight", given)
    if weights is not None and tasks is None:
        raise ValueError(f"`sample_weight` needs `tasks`. Received: {given!r} without any")
    return weights


def _check_shard(shard: Any) -> tuple[int, int]:
    if shard is None:
        if keras.backend.backend() != "jax":
            return 0, 1
        import jax

        return jax.process_index(), jax.process_count()
    index, count = checks.entries("shard", shard, "a pair of integers")
    count = checks.positive_int("shard[1]", count)
    if checks.non_negative_int("shard[0]", index) >= count:
        raise ValueError(f"`shard` should be (index, number of processes). Received: {shard!r}")
    return index, count
