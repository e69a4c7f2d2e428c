"""Metrics of attention maps against hand-made heads, numbers worked by hand, and counting in loops."""

import doctest
import importlib

import numpy as np
import pytest

from attn_ref import diagnose
from attn_ref.masks import causal_mask
from attn_ref.softmax import softmax

N_Q, N_K = 37, 53


@pytest.fixture
def weights():
    """(layers 2, heads 6, n_q, n_k), causal, not contiguous."""
    rng = np.random.default_rng(5)
    scores = np.where(causal_mask(N_Q, N_K), rng.normal(size=(6, 2, N_Q, N_K)), -np.inf)
    scores[3, 1, 4, :20] += 1000
    return softmax(scores).swapaxes(0, 1)


@pytest.fixture
def square():
    return softmax(np.random.default_rng(6).normal(size=(2, 6, N_Q, N_Q)))


def one_hot(columns, n):
    """A head in which query i looks at columns[i] and nowhere else.  (n, n)"""
    return np.eye(n)[np.asarray(columns)]


def test_entropy_is_that_of_the_sum_with_0_log_0_as_0(weights):
    for row, entropy in zip(weights[1, 3], diagnose.weights_entropy(weights)[1, 3], strict=True):
        assert entropy == pytest.approx(-sum(w * np.log(w) for w in row if w > 0), abs=1e-12)


def test_entropy_runs_from_one_key_to_all_keys():
    rows = np.vstack([one_hot([2], 5), np.full((1, 5), 0.2), np.zeros((1, 5))])
    np.testing.assert_allclose(diagnose.weights_entropy(rows), [0, np.log(5), 0], atol=1e-12)
    assert not np.signbit(diagnose.weights_entropy([1, 0]))  # whole numbers too; 0.0 and not -0.0


@pytest.mark.parametrize("n_q, n_k", [(N_Q, N_K), (N_K, N_Q), (1, N_K)])
def test_distance_is_the_mean_over_keys_counted_one_by_one(n_q, n_k):
    shares = softmax(np.random.default_rng(7).normal(size=(n_q, n_k)))
    by_hand = [sum(shares[i, j] * abs(i + n_k - n_q - j) for j in range(n_k)) for i in range(n_q)]
    np.testing.assert_allclose(diagnose.attention_distance(shares), by_hand, rtol=1e-10)


def test_a_head_that_looks_three_back_has_distance_three():
    back = one_hot([0, 0, 0, *range(N_Q - 3)], N_Q)
    assert diagnose.attention_distance(back).tolist() == [0, 1, 2, *[3] * (N_Q - 3)]


def test_sink_mass_is_the_share_of_the_first_keys(weights):
    np.testing.assert_allclose(diagnose.sink_mass(weights, 4)[1, 5, 8], sum(weights[1, 5, 8, j] for j in range(4)))
    np.testing.assert_allclose(diagnose.sink_mass(weights, N_K), 1)
    assert diagnose.sink_mass([1.0, 0.0]) == 1  # one row will do


def test_coreference_divides_one_rows_attention_among_the_candidates(square):
    scores = diagnose.coreference_score(square, pronoun=31, candidates=[4, 11, 19])
    assert scores.shape == (2, 6, 3)
    np.testing.assert_allclose(scores.sum(-1), 1)
    row = square[1, 4, 31]  # who looks is the row, who is looked at the column
    np.testing.assert_allclose(scores[1, 4], row[[4, 11, 19]] / (row[4] + row[11] + row[19]))


def test_a_pronoun_that_ignores_the_candidates_scores_them_zero():
    assert diagnose.coreference_score(one_hot([0, 0, 0, 0], 4), 3, [1, 2]).tolist() == [0, 0]


def test_a_perfect_previous_token_head_scores_one():
    assert diagnose.previous_token_score(one_hot([0, *range(N_Q - 1)], N_Q)) == 1
    assert diagnose.previous_token_score(np.eye(N_Q)) == 0
    assert diagnose.previous_token_score(np.full((4, 4), 0.25)) == 0.25


class TestInduction:
    half = 19
    tokens = np.tile(np.random.default_rng(8).permutation(100)[:19], 2)

    def head(self, shift):
        """Looks `shift` after the earlier occurrence of its token, and at the first token where there is none."""
        return one_hot([0] * self.half + [i + shift for i in range(self.half)], 2 * self.half)

    def test_a_perfect_head_scores_one(self):
        assert diagnose.induction_score(self.head(1), self.tokens) == 1

    @pytest.mark.parametrize("shift", [0, 2], ids=["the occurrence itself", "one too far"])
    def test_a_head_that_is_off_by_one_scores_zero(self, shift):
        assert diagnose.induction_score(self.head(shift), self.tokens) == 0

    def test_the_first_half_does_not_count(self):
        head = self.head(1)
        head[: self.half] = 1 / (2 * self.half)
        assert diagnose.induction_score(head, self.tokens) == 1

    def test_the_score_is_the_mean_counted_one_by_one(self):
        tokens = np.random.default_rng(9).integers(0, 12, size=N_Q)  # every token several times, some in a row
        shares = softmax(np.random.default_rng(10).normal(size=(3, N_Q, N_Q)))
        by_hand = []
        for i in range(N_Q):
            after = [m + 1 for m in range(i) if tokens[m] == tokens[i]]
            if after:
                by_hand.append(sum(shares[2, i, j] for j in after))
        assert diagnose.induction_score(shares, tokens)[2] == pytest.approx(np.mean(by_hand))


def test_what_is_copied_is_counted_by_ngrams():
    source = [3, 1, 4, 1, 5, 9, 2, 6]
    assert diagnose.copy_rate(source, source) == 1
    assert diagnose.copy_rate([1, 4, 1, 7, 5, 9, 2], source, n=3) == pytest.approx(2 / 5)  # 141 and 592
    assert diagnose.copy_rate([7, 8, 7], source, n=1) == 0
    assert diagnose.copy_rate([6, 2, 9], source, n=2) == 0  # the order counts


def test_a_text_that_never_repeats_itself_scores_zero_and_a_stuck_one_nearly_one():
    assert diagnose.copy_rate(range(30)) == 0
    assert diagnose.copy_rate([7] * 42) == pytest.approx(39 / 40)  # 40 trigrams, one of them new
    assert diagnose.copy_rate([1, 2, 1, 2, 1], n=2) == 0.5


def test_needles_found_are_counted_by_trial_and_depth():
    answers = np.array([[7, 7, 7, 1], [2, 7, 3, 7]])
    assert diagnose.needle_accuracy(answers, np.full((2, 4), 7)).tolist() == [0.75, 0.5]
    assert diagnose.needle_accuracy(["blue whale", "red"], ["blue whale", "blue"]) == 0.5


def calls_for(weights, square):
    return {
        "weights_entropy": lambda of: diagnose.weights_entropy(of(weights)),
        "attention_distance": lambda of: diagnose.attention_distance(of(weights)),
        "sink_mass": lambda of: diagnose.sink_mass(of(weights), 4),
        "coreference_score": lambda of: diagnose.coreference_score(of(square), 31, of(np.array([4, 11]))),
        "previous_token_score": lambda of: diagnose.previous_token_score(of(square)),
        "induction_score": lambda of: diagnose.induction_score(of(square), of(np.arange(N_Q) % 11)),
        "needle_accuracy": lambda of: diagnose.needle_accuracy(of(np.array([1, 2])), of(np.array([1, 3]))),
        "copy_rate": lambda of: diagnose.copy_rate(of(np.arange(9) % 4), of(np.arange(5)), n=2),
    }


@pytest.mark.parametrize("name", calls_for(None, None))
def test_torch_gives_what_numpy_gives_and_no_input_is_written_to(weights, square, name):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    before = weights.copy(), square.copy()
    call = calls_for(weights, square)[name]
    ours, theirs = call(lambda x: x), call(lambda x: torch.as_tensor(x.copy()))
    assert np.shape(ours) == np.shape(theirs)
    np.testing.assert_allclose(np.asarray(theirs), ours, rtol=1e-12)
    assert isinstance(theirs, torch.Tensor) == (name not in ("needle_accuracy", "copy_rate"))
    np.testing.assert_array_equal(weights, before[0])
    np.testing.assert_array_equal(square, before[1])


@pytest.mark.parametrize("name", ["weights_entropy", "attention_distance", "sink_mass", "induction_score"])
def test_metrics_keep_their_gradient(weights, square, name):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    leaf = {}

    def with_gradient(x):
        x = torch.as_tensor(x.copy())
        return leaf.setdefault("x", x.requires_grad_()) if x.is_floating_point() else x

    calls_for(weights, square)[name](with_gradient).sum().backward()
    gradient = leaf["x"].grad
    assert torch.isfinite(gradient).all() and (gradient != 0).any()


def test_half_precision_does_not_lose_a_long_distance():
    far = np.zeros((1, 70001), np.float16)
    far[0, 0] = 1
    assert diagnose.attention_distance(far).tolist() == [70000]  # above the largest float16


MAP, SQUARE = np.full((5, 7), 1 / 7), np.full((5, 5), 1 / 5)
SHARES = {
    "text": (["ab"], "weights must hold real numbers"),
    "complex": (np.ones((5, 5)) * 1j, "weights must hold real numbers"),
    "a number": (0.5, r"weights needs a shape"),
    "scores": (np.full((5, 5), 3.0), r"row above 1 in sum \(got 15\); are these scores"),
    "a negative share": (SQUARE - 0.3, r"none below 0 \(got -0.1\)"),
    "NaN": (SQUARE * np.nan, "weights must be shares"),
}
VECTOR = {"a vector": (np.ones(1), r"weights needs a shape \(\.\.\., n_q, n_k\)")}
CROSS = {"cross-attention": (MAP, r"self-attention's, \(\.\.\., n, n\), got shape \(5, 7\)")}


def with_weights(function, cases, *rest):
    return {kind: (lambda x=x: function(x, *rest), message) for kind, (x, message) in cases.items()}


def corefer(pronoun=4, candidates=(0, 1)):
    return lambda: diagnose.coreference_score(SQUARE, pronoun, candidates)


ENTROPY = {kind: case for kind, case in SHARES.items() if kind in ("text", "complex", "a number")}
ENTROPY |= {
    "dates": (np.array(["2020-01-01"], "M8[D]"), "got dtype datetime64"),
    "objects": ([[None]], "list of other objects"),
    "bytes": ([b"ab"], "got dtype .S2"),
    "a dictionary": ({"a": 1}, "must hold real numbers"),
    "nothing": (None, "must be an array, got None"),
}
WRONG = {
    "weights_entropy": with_weights(diagnose.weights_entropy, ENTROPY),
    "attention_distance": with_weights(
        diagnose.attention_distance, SHARES | VECTOR | {"objects": ([[None]], "list of other objects")}
    ),
    "sink_mass": with_weights(diagnose.sink_mass, SHARES)
    | {
        "no sinks": (lambda: diagnose.sink_mass(MAP, 0), "n_sinks must be at least 1"),
        "half a sink": (lambda: diagnose.sink_mass(MAP, 1.5), "n_sinks must be a whole number"),
        "more sinks than keys": (lambda: diagnose.sink_mass(MAP, 8), "at most the 7 keys there are, got 8"),
    },
    "coreference_score": with_weights(diagnose.coreference_score, SHARES | VECTOR | CROSS, 4, [0, 1])
    | {
        "a word for a position": (corefer("he"), "pronoun must be a whole number"),
        "a pronoun beyond the text": (corefer(5), r"positions 0\.\.4 of the text, got \[5, 0, 1\]"),
        "a negative candidate": (corefer(candidates=[0, -1]), r"positions 0\.\.4 of the text"),
        "no candidate": (corefer(candidates=[]), "one or more different positions"),
        "a candidate twice": (corefer(candidates=[1, 1]), r"different positions, got \[1, 1\]"),
        "one bare candidate": (corefer(candidates=1), "candidates must have 1 axis"),
        "words for candidates": (corefer(candidates=["cat"]), "candidates must hold whole numbers"),
    },
    "previous_token_score": with_weights(
        diagnose.previous_token_score, SHARES | VECTOR | CROSS | {"one token": (np.ones((1, 1)), "at least 2 tokens")}
    ),
    "induction_score": with_weights(diagnose.induction_score, SHARES | CROSS, [1, 2, 3, 1, 2])
    | {
        "too few tokens": (lambda: diagnose.induction_score(SQUARE, [1, 1]), "the 5 tokens of the map, got 2"),
        "nothing repeats": (lambda: diagnose.induction_score(SQUARE, range(5)), "no token occurs twice"),
        "words": (lambda: diagnose.induction_score(SQUARE, list("abcab")), "tokens must hold whole numbers"),
    },
    "copy_rate": {
        "words": (lambda: diagnose.copy_rate(["a", "b"]), "tokens must hold whole numbers"),
        "a batch": (lambda: diagnose.copy_rate([[1, 2, 3]]), "tokens must have 1 axis"),
        "fractions": (lambda: diagnose.copy_rate([1.5, 2.0, 3.0]), "tokens must hold whole numbers"),
        "too short": (lambda: diagnose.copy_rate([1, 2]), "at least n=3 tokens, got 2"),
        "a short source": (lambda: diagnose.copy_rate([1, 2, 3], [1, 2]), "source must hold at least n=3"),
        "a source of words": (lambda: diagnose.copy_rate([1, 2, 3], "abc"), "source must hold whole numbers"),
        "no n-gram": (lambda: diagnose.copy_rate([1, 2, 3], n=0), "n must be at least 1"),
        "half an n-gram": (lambda: diagnose.copy_rate([1, 2, 3], n=1.5), "n must be a whole number"),
    },
    "needle_accuracy": {
        "logits": (lambda: diagnose.needle_accuracy([0.5], [1]), "answers must hold tokens .* argmax of logits"),
        "needles as floats": (lambda: diagnose.needle_accuracy([1], [1.0]), "needles must hold tokens"),
        "None": (lambda: diagnose.needle_accuracy(None, [1]), "answers must hold tokens"),
        "booleans": (lambda: diagnose.needle_accuracy([True], [1]), "answers must hold tokens"),
        "tokens against text": (lambda: diagnose.needle_accuracy([1], ["one"]), "both be tokens or both texts"),
        "other shapes": (lambda: diagnose.needle_accuracy([1, 2], [1]), r"one shape .*got \(2,\) and \(1,\)"),
        "bare numbers": (lambda: diagnose.needle_accuracy(1, 1), "with a trial or more"),
        "no trials": (lambda: diagnose.needle_accuracy(np.ones((3, 0), int), np.ones((3, 0), int)), "a trial or more"),
    },
}
CASES = [(name, kind) for name, table in WRONG.items() for kind in table]


@pytest.mark.parametrize("name, kind", CASES, ids=[f"{name}-{kind}" for name, kind in CASES])
def test_an_error_names_the_argument_and_the_cause(name, kind):
    call, message = WRONG[name][kind]
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_every_public_function_has_eight_wrong_calls():
    public = {name for name, x in vars(diagnose).items() if getattr(x, "__module__", "") == diagnose.__name__}
    assert {name for name in public if not name.startswith("_")} == set(WRONG)
    assert {name: len(table) for name, table in WRONG.items() if len(table) < 8} == {}


def test_the_examples_in_docstrings_hold():
    result = doctest.testmod(importlib.import_module("attn_ref.diagnose"))
    assert result.attempted and not result.failed
