"""pCTCVR = pCTR · pCVR, pCVR being hidden."""

import keras
import numpy as np
import pytest
import reference as ref
import toy

from mtl.models import ESMM, extract_task


@pytest.mark.parametrize("use_bn", [False, True])
def test_predictions_follow_the_equation(use_bn: bool) -> None:
    model = toy.randomize(toy.build("ESMM", tower_dnn_units_lists=[[6, 4], [5]], dnn_use_bn=use_bn))
    x, w = toy.features(), ref.weights(model)
    v = ref.encode(model, x)
    p_ctr, p_cvr = ref.tower(w, "ctr", v), ref.tower(w, "cvr", v)
    toy.same(toy.outputs(model, x), [p_ctr, p_ctr * p_cvr], atol=1e-5, rtol=1e-5)
    for name, expected in (("ctr", p_ctr), ("cvr", p_cvr), ("ctcvr", p_ctr * p_cvr)):
        toy.same(toy.outputs(extract_task(model, name), x), [expected], atol=1e-5, rtol=1e-5)


def test_tasks_and_outputs() -> None:
    model = ESMM(toy.columns())
    assert model.task_names == model.output_names == ["ctr", "ctcvr"]
    renamed = ESMM(toy.columns(), task_names=["click", "click and buy"])
    assert renamed.task_names == ["click", "click and buy"]
    assert renamed.output_names == ["click", "click_and_buy"]
    p_ctr, p_ctcvr = toy.outputs(toy.randomize(model), toy.features())
    assert (p_ctcvr <= p_ctr).all()
    assert (p_ctcvr > 0).all()


def test_the_towers_of_a_fresh_model_differ() -> None:
    w = ref.weights(toy.build("ESMM"))
    for part in ("dnn/dense_0/kernel", "logits/kernel"):
        assert np.abs(w[f"ctr/{part}"] - w[f"cvr/{part}"]).max() > 1e-3


def test_the_conversion_loss_reaches_both_towers() -> None:
    model = toy.randomize(toy.build("ESMM"))
    before = ref.weights(model)
    model.compile(keras.optimizers.SGD(0.1), loss={"ctcvr": "binary_crossentropy"}, **toy.QUICK)
    model.train_on_batch(toy.features(), toy.labels())
    after = ref.weights(model)
    for path in ("ctr/logits/kernel", "cvr/logits/kernel", "encoder/table_0"):
        assert np.abs(after[path] - before[path]).max() > 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"task_types": ["binary", "regression"]}, r"two binary tasks.*Received.*regression"),
        ({"num_tasks": 3, "task_names": None}, r"two binary tasks"),
        ({"num_tasks": 1, "task_names": ["a"], "tower_dnn_units_lists": [[4]]}, "two binary tasks"),
        ({"num_tasks": 3}, r"`task_names`.*2 entries for 3 tasks"),
        ({"task_names": ["cvr", "ctcvr"]}, r"`task_names`.*'cvr'.*Received: \['cvr', 'ctcvr'\]"),
        ({"tower_dnn_units_lists": [[4]]}, r"`tower_dnn_units_lists`.*1 lists for 2 tasks"),
    ],
)
def test_what_is_no_funnel_is_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ESMM(toy.columns(), **options)
