"""Measured gradients against ones worked by hand, and lookups that learn against differences."""

import numpy as np
import pytest

import attn_ref


@pytest.fixture
def task():
    rng = np.random.default_rng(3)
    keys, values = rng.normal(size=(7, 3)), rng.normal(size=(7, 2))
    return {"keys": keys, "values": values, "targets": rng.normal(size=(5, 2)), "queries": rng.normal(size=(5, 3))}


def test_central_differences_are_exact_for_a_parabola():
    x = np.array([[3, -2], [0, 5]])
    found = attn_ref.numerical_gradient(lambda y: (y**2).sum(), x, eps=0.5)
    np.testing.assert_allclose(found, 2.0 * x, rtol=1e-12)


def test_a_function_that_holds_x_sees_it_unchanged():
    x = np.array([1.0, 2.0, 4.0])
    np.testing.assert_allclose(attn_ref.numerical_gradient(lambda y: (y * x).sum(), x, eps=0.25), x, rtol=1e-12)


def test_backward_passes_equal_the_measurement(task):
    q, k, v = task["queries"], task["keys"], task["values"]

    def loss(q, k, v):
        return (attn_ref.attention(q, k, v) ** 2).sum()

    grads = attn_ref.attention_backward(q, k, v, 2 * attn_ref.attention(q, k, v))
    measured = (
        attn_ref.numerical_gradient(lambda y: loss(y, k, v), q, 1e-5),
        attn_ref.numerical_gradient(lambda y: loss(q, y, v), k, 1e-5),
        attn_ref.numerical_gradient(lambda y: loss(q, k, y), v, 1e-5),
    )
    assert max(map(attn_ref.gradient_error, grads, measured)) < 1e-8


def test_gradient_error_is_zero_safe_and_lets_no_nan_pass():
    assert attn_ref.gradient_error(np.zeros((2, 3)), np.zeros((2, 3))) == 0
    assert attn_ref.gradient_error([1.0], [0.0]) == attn_ref.gradient_error([0.0], [1e-12]) == 1
    assert np.isnan(attn_ref.gradient_error([np.nan, 1.0], [0.0, 1.0]))


def test_one_step_of_training_follows_the_measured_gradient(task):
    def loss(queries):
        return np.mean((attn_ref.attention(queries, task["keys"], task["values"]) - task["targets"]) ** 2)

    before = {name: array.copy() for name, array in task.items()}
    queries, losses = attn_ref.train_lookup(**task, steps=1, lr=0.5)
    slope = attn_ref.numerical_gradient(loss, task["queries"], 1e-5)
    np.testing.assert_allclose(queries, task["queries"] - 0.5 * slope, atol=1e-9)
    assert losses == [loss(task["queries"])]
    assert all((task[name] == before[name]).all() for name in task)


def test_training_lowers_the_loss_and_no_steps_change_nothing(task):
    _, losses = attn_ref.train_lookup(**task, steps=50, lr=1.0)
    assert (np.diff(losses) < 0).all()
    queries, losses = attn_ref.train_lookup(**task, steps=0, lr=1.0)
    assert losses == [] and (queries == task["queries"]).all() and queries is not task["queries"]


def test_straight_through_reads_one_value_and_passes_the_soft_gradient_back(task):
    out, dq = attn_ref.straight_through(**task)
    best = (task["queries"] @ task["keys"].T).argmax(1)
    np.testing.assert_array_equal(out, task["values"][best])

    def soft(queries):  # a function with this gradient, whose output is weighed by what the hard one got wrong
        return (attn_ref.attention(queries, task["keys"], task["values"]) * 2 * (out - task["targets"])).mean()

    assert attn_ref.gradient_error(dq, attn_ref.numerical_gradient(soft, task["queries"], 1e-5)) < 1e-8


def test_sampled_gradients_average_to_the_exact_one():
    weights, losses = attn_ref.softmax([1.0, 0.5, 0.0, -0.5]), np.array([3.0, 2.0, 2.5, 1.0])
    exact = attn_ref.softmax_vjp(weights, losses)
    for baseline in (0.0, 2.0):
        each = [attn_ref.sampled_gradient(weights, [j], losses[[j]], baseline) for j in range(4)]
        np.testing.assert_allclose(weights @ np.array(each), exact, atol=1e-14)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attn_ref.numerical_gradient(3.0, [1.0], 0.1), "f must be a function of x, got float"),
        (lambda: attn_ref.numerical_gradient(np.sin, [1.0, 2.0], 0.1), "f must return one number, got shape (2,)"),
        (lambda: attn_ref.numerical_gradient(np.sum, [1.0], 0), "eps must be greater than 0"),
        (lambda: attn_ref.gradient_error([1.0], [1.0, 2.0]), "analytic has shape (1,) but numeric has (2,)"),
        (lambda: attn_ref.sampled_gradient([0.5, 0.5], [0], [1.0, 2.0]), "picks and losses must hold one entry a try"),
        (
            lambda: attn_ref.straight_through([[1.0]], [[1.0]], [[1.0], [2.0]], [[1.0]]),
            "targets must be (1, 1), a target for each query",
        ),
    ],
)
def test_a_wrong_call_is_told_what_is_wrong(call, message):
    with pytest.raises((TypeError, ValueError)) as raised:
        call()
    assert message in str(raised.value)
