import ast
import graphlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest

import mtl

PACKAGE = Path(mtl.__file__).parent

# What each part of mtl may import of it, from the leaves up.
LEAVES = {"context", "checks", "devices", "names", "probabilities", "rows", "seeds", "shards"}
COLUMNS = {*LEAVES, "encodings", "columns", "features", "tasks"}
LAYERS = {*COLUMNS, "layers"}
OBJECTIVES = {*LAYERS, "losses", "balancing", "optimizers"}
TRAINING = {*OBJECTIVES, "training"}
MODELS = {*TRAINING, "models"}
TOOLS = {*MODELS, "metrics", "calibration", "inspection", "serving", "migrate"}
ALLOWED = {
    "checks": set(),
    "context": set(),
    "quiet": set(),
    "names": set(),
    "probabilities": set(),
    "devices": {"context"},
    "rows": {"context"},
    "shards": {"devices"},
    "seeds": LEAVES,
    "encodings": LEAVES,
    "columns": {*LEAVES, "encodings"},
    "features": {*LEAVES, "encodings", "columns"},
    "tasks": LEAVES,
    "layers": LAYERS,
    "losses": {*LEAVES, "tasks", "losses"},
    "balancing": OBJECTIVES,
    "optimizers": LEAVES,
    "callbacks": LEAVES,
    "training": TRAINING,
    "models": MODELS,
    "migrate": {*MODELS, "migrate"},
    "metrics": {*TRAINING, "metrics"},
    "calibration": {*TRAINING, "metrics"},
    "inspection": {*MODELS, "metrics", "inspection"},
    "serving": {*MODELS, "metrics", "data", "serving"},
    "data": {*COLUMNS, "data"},
    "benchmark": {*TOOLS, "data", "benchmark"},
    "__init__": {*TOOLS, "data", "quiet"},
}
# Doors: what users find on a model, or beside the models, is built above them.
DOORS = {
    "training/model.py": {"serving"},  # export, imported when it is called
    "models/__init__.py": {"migrate"},  # from_deepctr
}

NETWORK = """
import os, socket, sys, threading
calls = []
def refuse(*args, **kwargs):
    calls.append(args)
    raise OSError("no network in this test")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = socket.create_connection = refuse
"""

IMPORT = """
import mtl
assert calls == [], calls
others = [t for t in threading.enumerate() if t is not threading.main_thread()]
assert others == [], others
import keras
assert keras.backend.backend() == os.environ["KERAS_BACKEND"]
unwanted = {"deepctr"} if keras.backend.backend() == "tensorflow" else {"deepctr", "tensorflow"}
assert not unwanted & set(sys.modules)
"""

WITHOUT_DEEPCTR = """
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "deepctr":
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, NotInstalled())
import mtl
columns = [mtl.features.SparseFeat("a", 3), mtl.features.DenseFeat("b")]
assert mtl.features.check_columns(columns) == columns
try:
    mtl.migrate.to_deepctr(columns)
except (ImportError, RuntimeError) as error:
    message = str(error)
if os.environ["KERAS_BACKEND"] == "tensorflow":
    assert "needs DeepCTR: pip install deepctr. Received: No module named 'deepctr'" in message
else:
    assert "should be called on the TensorFlow backend" in message
assert not [name for name in sys.modules if name.startswith("deepctr")]
"""

QUIETLY = """
import mtl.migrate._deepctr
columns = mtl.migrate._deepctr.import_columns()
assert calls == [], calls
others = [t for t in threading.enumerate() if t is not threading.main_thread()]
assert others == [], others
assert "deepctr.utils" not in sys.modules
import deepctr.feature_column, deepctr.utils
assert columns is deepctr.feature_column
assert deepctr.utils.__file__.endswith("utils.py")
assert deepctr.utils.check_version.__code__.co_filename == deepctr.utils.__file__
"""

DEEPCTR_LATER = """
import mtl.features as own
import requests
requests.get = refuse
from deepctr.feature_column import DenseFeat, SparseFeat, VarLenSparseFeat
columns = [SparseFeat("a", 3), VarLenSparseFeat(SparseFeat("b", 3, 2), 4), DenseFeat("c")]
checked = own.check_columns(columns)
assert [type(c) for c in checked] == [own.SparseFeat, own.VarLenSparseFeat, own.DenseFeat]
assert type(checked[1].sparsefeat) is own.SparseFeat
assert checked == columns
"""

DEEPCTR_FIRST = """
import requests
requests.get = refuse  # deepctr.utils asks through it, from a thread
import deepctr, deepctr.utils
from deepctr.feature_column import DenseFeat
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join()
before, own = len(calls), deepctr.utils
import mtl
assert mtl.features.check_columns([DenseFeat("a")]) == [mtl.features.DenseFeat("a")]
if os.environ["KERAS_BACKEND"] == "tensorflow":
    (column,) = mtl.migrate.to_deepctr([mtl.features.DenseFeat("a")])
    assert type(column) is DenseFeat
assert len(calls) == before
assert sys.modules["deepctr.utils"] is own
"""


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(IMPORT, id="alone"),
        pytest.param(WITHOUT_DEEPCTR, id="without_deepctr", marks=pytest.mark.slow),
        pytest.param(QUIETLY, id="deepctr_by_us", marks=pytest.mark.slow),
        pytest.param(DEEPCTR_FIRST, id="after_deepctr", marks=pytest.mark.slow),
        pytest.param(DEEPCTR_LATER, id="before_deepctr", marks=pytest.mark.slow),
    ],
)
def test_import_in_a_process_of_its_own(script):
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
    code = f"{NETWORK}{script}\nimport time; print('imported at', time.time())"
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    ended = time.time()
    assert result.returncode == 0, result.stderr
    asked = script in (DEEPCTR_FIRST, DEEPCTR_LATER)
    assert asked or "check the latest version" not in result.stdout
    imported = float(re.search(r"imported at ([\d.]+)", result.stdout)[1])
    assert ended - imported < 30  # deepctr would wait for the network, without a time-out


LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def errors_of(*arguments, **environment):
    """Return what a fresh Python writes to its standard error."""
    unset = {name: value for name, value in os.environ.items() if name != LEVEL}
    unset["KERAS_BACKEND"] = keras.backend.backend()
    result = subprocess.run(
        [sys.executable, *arguments],
        env={**unset, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


LATE = """
import importlib.util, mtl, sys, warnings, os
importlib.util.find_spec("tensorflow")  # as PyTorch asks whether it is installed
os.write(2, b"I0000 ours\\n")  # after mtl, before TensorFlow: not held back
import tensorflow
assert tensorflow.constant([1.0]).numpy() == 1
print("ours", file=sys.stderr)
"""


@pytest.mark.slow
def test_commands_begin_without_tensorflows_log():
    pytest.importorskip("jax", reason="the extra jax is not installed")
    assert errors_of("-m", "mtl.benchmark", "--help") == ""
    # On other backends than TensorFlow, Keras loads it later.
    late = {"KERAS_BACKEND": "jax", LEVEL: "3"}
    assert errors_of("-c", LATE, **late) == "I0000 ours\nours\n"


@pytest.mark.slow
def test_the_users_log_level_is_kept():
    pytest.importorskip("jax", reason="the extra jax is not installed")
    assert "oneDNN" in errors_of("-c", "import mtl, tensorflow")
    for backend in ("tensorflow", "jax"):
        chosen = {"KERAS_BACKEND": backend, LEVEL: "0"}
        shown = errors_of("-m", "mtl.benchmark", "--help", **chosen)
        assert ("oneDNN" in shown) == (backend == "tensorflow")


def test_examples_set_the_log_level_before_they_import_mtl():
    for path in sorted((PACKAGE.parent / "examples").glob("*.py")):
        lines = path.read_text().splitlines()
        loads = [
            i for i, line in enumerate(lines) if re.match(r"(import|from) (keras|mtl)\b", line)
        ]
        if not loads:  # in processes of their own alone, whose log they keep
            continue
        level = next(i for i, line in enumerate(lines) if LEVEL in line)
        assert 'setdefault("TF_CPP_MIN_LOG_LEVEL", "3")' in lines[level], path
        assert level < loads[0], path
        assert "mtl" in lines[loads[0]], path  # which holds back what the level doesn't


def sources():
    return sorted(PACKAGE.rglob("*.py"))


def part(path):
    """Return the part of mtl that a file belongs to, e.g. "layers"."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Yield the dotted names that a file imports, anywhere in it."""
    package = ["mtl", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def test_the_reader_of_imports_sees_them():
    assert "deepctr.feature_column" in set(imports(PACKAGE / "migrate" / "_deepctr.py"))
    assert {"mtl.checks", "mtl.seeds.glorot"} <= set(imports(PACKAGE / "layers" / "dnn.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    assert part(path) in ALLOWED, "a new part of mtl: give it a place in ALLOWED"
    own = {name.split(".")[1] for name in imports(path) if name.startswith("mtl.")}
    doors = DOORS.get(path.relative_to(PACKAGE).as_posix(), set())
    assert own <= ALLOWED[part(path)] | doors


def file_of(name):
    """Return the file of mtl that holds a dotted name: a module, a package, or a name in one."""
    parts = name.split(".")[1:]
    for end in range(len(parts), -1, -1):
        path = PACKAGE.joinpath(*parts[:end])
        if path.with_suffix(".py").is_file():
            return path.with_suffix(".py")
        if (path / "__init__.py").is_file():
            return path / "__init__.py"
    raise AssertionError(name)


def test_no_files_import_each_other_in_a_circle():
    graph = {
        path: {file_of(name) for name in imports(path) if name.split(".")[0] == "mtl"} - {path}
        for path in sources()
    }
    order = graphlib.TopologicalSorter(graph)
    try:
        order.prepare()
    except graphlib.CycleError as error:
        circle = [path.relative_to(PACKAGE).as_posix() for path in error.args[1]]
        pytest.fail(f"a circle of imports: {circle}")


def test_deepctr_is_imported_by_migrate_alone():
    users = [
        path.relative_to(PACKAGE).as_posix()
        for path in sources()
        if any(name.split(".")[0] == "deepctr" for name in imports(path))
    ]
    assert users == ["migrate/_deepctr.py"]
