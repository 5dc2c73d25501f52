"""A service of scores: FastAPI and ONNX Runtime, from a file that `Pipeline.export` wrote.

    pip install fastapi uvicorn onnxruntime
    python examples/serve.py model.onnx --port 8000
    curl localhost:8000/score -H "content-type: application/json" -d '{"item": "a", "price": 20}'

Nothing of mtl, Keras or TensorFlow is needed here: the file tells its inputs and its tasks, from
which requests and responses have their types. Copy it, and change what you like.
"""

# %%
import argparse
import json
import math
from datetime import datetime
from typing import Annotated, Any

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictStr,
    create_model,
)

# %%
LARGEST = float(np.finfo(np.float32).max)  # beyond which the encoder refuses numbers
EPOCH = datetime(1970, 1, 1)


# %%
def time_of(value: Any) -> Any:
    """Return a time of its text; a number would be one of an unknown unit."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("should be a time such as '2024-05-31T13:45:00', or null")
    return datetime.fromisoformat(value)


# %%
def within_float32(value: float) -> float:
    """Return a number that the encoder takes."""
    if not abs(value) <= LARGEST:
        raise ValueError("should be a finite number within float32's range, or null")
    return value


# %%
def unicode(value: str) -> str:
    """Return a text that is one: JSON may hold halves of characters."""
    value.encode()
    return value


Text = Annotated[StrictStr, AfterValidator(unicode)]
Numeric = Annotated[StrictFloat, AfterValidator(within_float32)] | StrictBool
Number = Annotated[StrictFloat, Field(allow_inf_nan=False)] | StrictBool
Whole = Annotated[int, Field(strict=True, gt=-(2**63), lt=2**63)] | StrictBool


# %%
def type_of(column: dict[str, Any]) -> Any:
    """Return what a request holds in a column; null is a missing value."""
    if column["kind"] == "times":
        return Annotated[datetime | None, BeforeValidator(time_of)]
    if column["kind"] == "numeric":
        return Numeric | None
    value: Any = {"string": Text, "float64": Number, "int64": Whole}[column["dtype"]]
    return list[value | None] | None if column["rank"] == 2 else value | None


# %%
def value_of(column: dict[str, Any], value: Any) -> Any:
    """Return a value as the graph takes it."""
    if value is None:
        return math.nan if column["missing"] is None else column["missing"]
    if column["kind"] == "times":
        return math.floor((value.replace(tzinfo=None) - EPOCH).total_seconds())
    return value


# %%
def array_of(column: dict[str, Any], values: list[Any]) -> np.ndarray:
    """Return a column of N rows: `(N,)`, or `(N, L)` of lists, padded with missing values."""
    if column["rank"] == 2:
        length = max(len(row or ()) for row in values)
        values = [[*(row or ()), *[None] * (length - len(row or ()))] for row in values]
        shape: tuple[int, ...] = (len(values), length)
        flat = [value for row in values for value in row]
    else:
        shape, flat = (len(values),), values
    kind = object if column["dtype"] == "string" else column["dtype"]
    return np.array([value_of(column, value) for value in flat], dtype=kind).reshape(shape)


# %%
def finite(values: np.ndarray) -> Any:
    """Return a number, or a list of several; null where it is none that JSON has."""
    numbers = [value if math.isfinite(value) else None for value in values.tolist()]
    return numbers[0] if len(numbers) == 1 else numbers


# %%
def make_app(path: str, threads: int = 1) -> FastAPI:
    """Return the service of a file.

    Args:
        path: str. What `Pipeline.export` wrote, with `format="onnx"`.
        threads: int. Threads of one request; several requests run beside each other. Defaults to 1.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options)
    told = json.loads(session.get_modelmeta().custom_metadata_map["mtl"])
    columns, tasks = told["inputs"], told["tasks"]
    outputs = [task["output"] for task in tasks]
    # Names of columns need not be names in Python.
    fields: dict[str, Any] = {
        f"column_{i}": (type_of(column), Field(alias=column["column"]))
        for i, column in enumerate(columns)
    }
    scores: dict[str, Any] = {
        f"task_{i}": (
            float | None if len(task["columns"]) == 1 else list[float | None],
            Field(alias=task["name"]),
        )
        for i, task in enumerate(tasks)
    }
    row_type: Any = create_model("Row", **fields)
    scores_type: Any = create_model("Scores", **scores)
    app = FastAPI(title="Scores", version=told["versions"]["mtl"])

    def scored(rows: list[Any]) -> list[dict[str, Any]]:
        inputs = {
            column["name"]: array_of(column, [getattr(row, name) for row in rows])
            for name, column in zip(fields, columns, strict=True)
        }
        found = session.run(outputs, inputs)
        return [
            {task["name"]: finite(one[i]) for task, one in zip(tasks, found, strict=True)}
            for i in range(len(rows))
        ]

    @app.exception_handler(RequestValidationError)
    def refuse(request: Request, error: RequestValidationError) -> Response:
        # Without the values: not every one that JSON has can be written as JSON.
        found = [
            {"where": [part for part in one["loc"] if part != "body"], "message": one["msg"]}
            for one in error.errors()
        ]
        return Response(json.dumps({"detail": found}), 422, media_type="application/json")

    @app.post("/score", response_model=scores_type)
    def score(row: row_type) -> Any:
        return scored([row])[0]

    @app.post("/scores", response_model=list[scores_type])
    def score_batch(rows: list[row_type]) -> Any:
        return scored(rows) if rows else []

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/about")
    def about() -> dict[str, Any]:
        return told  # type: ignore[no-any-return]

    return app


# %%
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="an ONNX file that Pipeline.export wrote")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=1, help="of one request")
    args = parser.parse_args()
    app = make_app(args.model, args.threads)
    uvicorn.run(app, host=args.host, port=args.port, log_level="warning")


# %%
if __name__ == "__main__":
    main()
