"""The models' equations in numpy, in double precision, on the weights of a built model."""

import itertools
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]


def weights(model: Any) -> Weights:
    """Return the weights in double precision by their path, such as 'task_1/logits/kernel'."""
    return {
        weight.path: value.astype("float64")
        for weight, value in zip(model.weights, model.get_weights(), strict=True)
    }


def encode(model: Any, x: dict[str, np.ndarray], name: str = "encoder") -> np.ndarray:
    """Return embeddings, then the mean of the sequence's without padding, then dense values."""
    embeddings = model.get_layer(name).embeddings
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


def smooth_step(v: np.ndarray, gamma: float) -> np.ndarray:
    inner = -2 * v**3 / gamma**3 + 3 * v / (2 * gamma) + 0.5
    return np.where(v <= -gamma / 2, 0, np.where(v >= gamma / 2, 1, inner))


def selectors(
    w: Weights, path: str, v: np.ndarray, experts: int, selected: int, gamma: float = 1
) -> np.ndarray:
    """The choices of a DSelect-k gate `(B, k, E)`: Π over the bits of e, of S(z) or 1 - S(z)."""
    bits = int(np.ceil(np.log2(experts)))
    if not bits:
        return np.ones((len(v), selected, 1))
    v = dnn(w, f"{path}/dnn", v)
    z = v @ w[f"{path}/selectors/kernel"] + w[f"{path}/selectors/bias"]
    s = smooth_step(z.reshape(-1, selected, 1, bits), gamma)
    codes = np.array([[e >> b & 1 for b in range(bits)] for e in range(experts)])
    return np.where(codes, s, 1 - s).prod(axis=-1)


def dselect_k(
    w: Weights, path: str, v: np.ndarray, experts: int, selected: int, gamma: float = 1
) -> np.ndarray:
    r = selectors(w, path, v, experts, selected, gamma)
    if selected == 1:
        return r[:, 0]
    v = dnn(w, f"{path}/dnn", v)
    shares = softmax(v @ w[f"{path}/shares/kernel"] + w[f"{path}/shares/bias"])
    return (shares[..., None] * r).sum(axis=1)


def mix(values: list[np.ndarray], g: np.ndarray) -> np.ndarray:
    assert g.shape[1] == len(values)
    return sum(g[:, i : i + 1] * value for i, value in enumerate(values))


def routing(w: Weights, path: str, u: list[np.ndarray]) -> list[np.ndarray]:
    """v_i = Σ_j z_ij W_ij u_j, or without W, with the gates that are open outside of training."""
    z = np.clip(sigmoid(w[f"{path}/log_alpha"]) * 1.2 - 0.1, 0, 1)
    kernel = w.get(f"{path}/kernel")
    outputs = []
    for i in range(len(z)):
        sent = [u_j if kernel is None else u_j @ kernel[i, j] for j, u_j in enumerate(u)]
        outputs.append(sum(z[i, j] * sent[j] for j in range(len(u))))
    return outputs


def tower(
    w: Weights, name: str, v: np.ndarray, head: Any = sigmoid, activation: Any = relu
) -> np.ndarray:
    logits = dnn(w, f"{name}/dnn", v, activation) @ w[f"{name}/logits/kernel"]
    return head(logits + w[f"{name}/logits/bias"])


def gated_dnn(
    w: Weights, path: str, x: np.ndarray, v: np.ndarray, position: str = "input", seen: Any = None
) -> np.ndarray:
    """A DNN of x whose gates see v and, at the input, x; or `seen` in place of x."""
    if position == "input":
        v = np.concatenate([v, x if seen is None else seen], axis=1)
    gates = []
    while f"{path}/scores_{len(gates)}/kernel" in w:
        i = len(gates)
        scores = dnn(w, f"{path}/gate_{i}", v) @ w[f"{path}/scores_{i}/kernel"]
        gates.append(2 * sigmoid(scores + w[f"{path}/scores_{i}/bias"]))
    h = gates.pop(0) * x if position == "input" else x
    for i, g in enumerate(gates):
        h = g * relu(h @ w[f"{path}/dnn/dense_{i}/kernel"] + w[f"{path}/dnn/dense_{i}/bias"])
    return h


def star_dnn(
    w: Weights, path: str, v: np.ndarray, rows: np.ndarray, activation: Any = relu
) -> np.ndarray:
    """Star layers; `rows` is which scenario's parameters each row of v has."""
    depth = 0
    while f"{path}/dense_{depth}/kernel" in w:
        part = f"{path}/dense_{depth}"
        bent = w[f"{part}/kernel"] * (1 + w[f"{part}/scenario_factor"])[rows]
        bias = w[f"{part}/bias"] + w[f"{part}/scenario_bias"][rows]
        v = np.einsum("bi,bio->bo", v, bent) + bias
        v = activation(normalize_by_scenario(w, f"{path}/bn_{depth}", v, rows))
        depth += 1
    return v


def normalize_by_scenario(w: Weights, path: str, v: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Partitioned normalisation with the moving statistics; Keras' epsilon."""
    if f"{path}/gamma" not in w:
        return v
    spread = np.sqrt(w[f"{path}/moving_variance"] + 1e-3)
    scale = w[f"{path}/gamma"] * (1 + w[f"{path}/scenario_gamma"]) / spread
    shift = w[f"{path}/beta"] + w[f"{path}/scenario_beta"]
    return (v - w[f"{path}/moving_mean"][rows]) * scale[rows] + shift[rows]


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


def feature_gate(w: Weights, path: str, e: int, v: np.ndarray) -> np.ndarray:
    """v ⊗ F(v), F(v) = Σ_j softmax(W v)_j · 2σ(A_j B_j v), of expert e."""
    up, down = w[f"{path}/up_kernel"][e], w[f"{path}/down_kernel"][e]
    shares = np.ones((len(v), 1))
    if len(up) > 1:
        shares = softmax(v @ w[f"{path}/mix_kernel"][e, 0])
    pairs = [2 * sigmoid(v @ b @ a) for a, b in zip(up, down, strict=True)]
    return v * sum(shares[:, [j]] * pair for j, pair in enumerate(pairs))


def fusion(
    w: Weights,
    path: str,
    per_bank: list[np.ndarray],
    per_gate: list[np.ndarray],
    sizes: list[int],
    reads: list[list[int]],
    residual: Any = None,
    expert_activation: Any = relu,
) -> list[np.ndarray]:
    """One level: gate k mixes the experts of the banks in `reads[k]`.

    `residual(k, u)` gives weights of the experts of bank k, which is gate k's own. Experts have
    feature gates if there are weights of some.
    """
    inputs = [v for v, size in zip(per_bank, sizes, strict=True) for _ in range(size)]
    if f"{path}/feature_gate/up_kernel" in w:
        inputs = [feature_gate(w, f"{path}/feature_gate", e, v) for e, v in enumerate(inputs)]
    values = experts(w, f"{path}/experts", inputs, expert_activation)
    ends = np.cumsum([0, *sizes])
    banks = [values[start:end] for start, end in itertools.pairwise(ends)]
    outputs = []
    for k, u in enumerate(per_gate):
        name = f"{path}/gate_{k}"
        z = mix([e for b in reads[k] for e in banks[b]], gate(w, name, u))
        outputs.append(z + (mix(banks[k], residual(k, u)) if residual and banks[k] else 0))
    return outputs


def transfer(w: Weights, path: str, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """AITM's mixture of p and q, whose scores are each that of one vector with itself."""
    h1, h2, h3 = np.split(w[f"{path}/kernel"], 3, axis=1)
    scores = [np.sum((u @ h2) * (u @ h3), axis=1) / np.sqrt(u.shape[1]) for u in (p, q)]
    return mix([p @ h1, q @ h1], softmax(np.stack(scores, axis=1)))
