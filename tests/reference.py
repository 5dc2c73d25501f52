"""The models' equations in numpy, in double precision, on the weights of a built model."""

from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]


def weights(model: Any) -> Weights:
    """Return the weights in double precision by their path, such as 'task_1/logits/kernel'."""
    return {
        weight.path: value.astype("float64")
        for weight, value in zip(model.weights, model.get_weights(), strict=True)
    }


def encode(model: Any, x: dict[str, np.ndarray]) -> np.ndarray:
    """Return embeddings, then the mean of the sequence's without padding, then dense values."""
    embeddings = model.get_layer("encoder").embeddings
    user, item = embeddings("user").astype("float64"), embeddings("item").astype("float64")
    mask = (x["history"] != 0)[..., None]
    history = (item[x["history"]] * mask).sum(1) / np.maximum(mask.sum(1), 1)
    dense = [x["price"], x["age"][:, None]]
    return np.concatenate([user[x["user"]], item[x["item"]], history, *dense], axis=1)


def relu(v: np.ndarray) -> np.ndarray:
    return np.maximum(v, 0)


def sigmoid(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v))


def softmax(v: np.ndarray) -> np.ndarray:
    e = np.exp(v - v.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def normalize(w: Weights, path: str, v: np.ndarray) -> np.ndarray:
    """Batch normalisation with the moving statistics; Keras' epsilon."""
    if f"{path}/gamma" not in w:
        return v
    spread = np.sqrt(w[f"{path}/moving_variance"] + 1e-3)
    return (v - w[f"{path}/moving_mean"]) / spread * w[f"{path}/gamma"] + w[f"{path}/beta"]


def dnn(w: Weights, path: str, v: np.ndarray, activation: Any = relu) -> np.ndarray:
    depth = 0
    while f"{path}/dense_{depth}/kernel" in w:
        v = v @ w[f"{path}/dense_{depth}/kernel"] + w[f"{path}/dense_{depth}/bias"]
        v = activation(normalize(w, f"{path}/bn_{depth}", v))
        depth += 1
    return v


def experts(
    w: Weights, path: str, per_expert: list[np.ndarray], activation: Any = relu
) -> list[np.ndarray]:
    """Return e_i(x_i) for every expert i of a stack, one expert after the other."""
    results = []
    for e, v in enumerate(per_expert):
        depth = 0
        while f"{path}/kernel_{depth}" in w:
            kernel, bias = w[f"{path}/kernel_{depth}"][e], w[f"{path}/bias_{depth}"][e]
            width = len(bias)
            part = {
                f"bn/{key.rsplit('/', 1)[1]}": value[e * width : (e + 1) * width]
                for key, value in w.items()
                if key.startswith(f"{path}/bn_{depth}/")
            }
            v = activation(normalize(part, "bn", v @ kernel + bias))
            depth += 1
        results.append(v)
    return results


def gate(
    w: Weights, path: str, v: np.ndarray, temperature: float = 1, activation: Any = relu
) -> np.ndarray:
    return softmax(dnn(w, f"{path}/dnn", v, activation) @ w[f"{path}/logits/kernel"] / temperature)


def mix(values: list[np.ndarray], g: np.ndarray) -> np.ndarray:
    assert g.shape[1] == len(values)
    return sum(g[:, i : i + 1] * value for i, value in enumerate(values))


def tower(
    w: Weights, name: str, v: np.ndarray, head: Any = sigmoid, activation: Any = relu
) -> np.ndarray:
    logits = dnn(w, f"{name}/dnn", v, activation) @ w[f"{name}/logits/kernel"]
    return head(logits + w[f"{name}/logits/bias"])


def extraction(
    w: Weights,
    path: str,
    inputs: list[np.ndarray],
    specific: int,
    shared: int,
    shared_gate: bool,
    **gates: Any,
) -> list[np.ndarray]:
    """One level: `inputs` is one per task, then the shared one."""
    tasks = len(inputs) - 1
    per_expert = [inputs[k] for k in range(tasks) for _ in range(specific)]
    results = experts(w, f"{path}/experts", per_expert + [inputs[-1]] * shared)
    own = [results[k * specific : (k + 1) * specific] for k in range(tasks)]
    common = results[tasks * specific :]
    outputs = [
        mix(own[k] + common, gate(w, f"{path}/gate_{k}", inputs[k], **gates)) for k in range(tasks)
    ]
    if shared_gate:
        outputs.append(mix(results, gate(w, f"{path}/gate_shared", inputs[-1], **gates)))
    return outputs


def transfer(w: Weights, path: str, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """AITM's mixture of p and q, whose scores are each that of one vector with itself."""
    h1, h2, h3 = np.split(w[f"{path}/kernel"], 3, axis=1)
    scores = [np.sum((u @ h2) * (u @ h3), axis=1) / np.sqrt(u.shape[1]) for u in (p, q)]
    return mix([p @ h1, q @ h1], softmax(np.stack(scores, axis=1)))
