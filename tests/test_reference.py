"""attn_ref against a triple loop, its own docstrings, and the promises of its import."""

import doctest
import subprocess
import sys

import numpy as np
import pytest

import attn_ref
from attn_ref import plots


def by_loops(q, k, v, allowed):
    """Attention as a person with a pencil would do it, in float64, for (n, d) arrays."""
    out = np.zeros((len(q), v.shape[1]))
    for i in range(len(q)):
        scores = [sum(q[i] * k[j]) / q.shape[1] ** 0.5 for j in range(len(k)) if allowed[i, j]]
        keys = [j for j in range(len(k)) if allowed[i, j]]
        if keys:
            shares = np.exp(np.array(scores) - max(scores))
            for share, j in zip(shares / shares.sum(), keys, strict=True):
                out[i] += share * v[j]
    return out


@pytest.fixture
def qkv():
    rng = np.random.default_rng(4)
    return rng.normal(size=(5, 4)), rng.normal(size=(7, 4)), rng.normal(size=(7, 3))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_the_loops(qkv, causal):
    q, k, v = qkv
    q[2] *= 1000
    allowed = attn_ref.causal_mask(5, 7) if causal else np.ones((5, 7), bool)
    np.testing.assert_allclose(attn_ref.attention(q, k, v, causal=causal), by_loops(q, k, v, allowed), rtol=1e-10)


def test_a_query_with_nothing_to_attend_to_gets_zero(qkv):
    q, k, v = qkv
    allowed = np.ones((5, 7), bool)
    allowed[3] = False
    out, weights = attn_ref.attention(q, k, v, allowed=allowed, return_weights=True)
    assert (out[3] == 0).all() and (weights[3] == 0).all()
    np.testing.assert_allclose(out, by_loops(q, k, v, allowed), rtol=1e-10)


def test_batch_axes_are_independent(qkv):
    q, k, v = qkv
    together = attn_ref.attention(np.stack([q, -q]), np.stack([k, k]), np.stack([v, v]))
    np.testing.assert_array_equal(together[1], attn_ref.attention(-q, k, v))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_is_kept_and_the_inputs_are_not_written_to(qkv, dtype):
    arrays = [array.astype(dtype) for array in qkv]
    before = [array.copy() for array in arrays]
    assert attn_ref.attention(*arrays).dtype == dtype
    assert attn_ref.logsumexp(arrays[0]).dtype == dtype
    assert attn_ref.weights_entropy(attn_ref.softmax(arrays[0])).dtype == dtype
    for one, other in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_softmax_and_logsumexp_at_the_extremes():
    x = np.array([[1000.0, -1000.0], [-np.inf, -np.inf], [-np.inf, 5.0]])
    np.testing.assert_array_equal(attn_ref.softmax(x), [[1, 0], [0, 0], [0, 1]])
    np.testing.assert_array_equal(attn_ref.logsumexp(x), [1000, -np.inf, 5])


ERRORS = {
    "sizes that do not meet": (
        lambda: attn_ref.attention_scores(np.ones((2, 3)), np.ones((2, 4))),
        "k has d=4 but q has d=3",
    ),
    "a vector": (lambda: attn_ref.attention_scores(np.ones(3), np.ones((2, 3))), "a single vector is"),
    "keys without values": (
        lambda: attn_ref.attention(np.ones((1, 3)), np.ones((2, 3)), np.ones((4, 3))),
        "k holds 2 keys but v holds 4",
    ),
    "text": (lambda: attn_ref.softmax(["a"]), "must hold real numbers"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_names_the_argument(kind):
    call, message = ERRORS[kind]
    with pytest.raises((ValueError, TypeError), match=message):
        call()


@pytest.mark.parametrize(
    "name", ["softmax", "masks", "scores", "attention", "backends", "backward", "online", "tiled", "diagnose"]
)
def test_the_examples_in_docstrings_hold(name):
    module = sys.modules[f"attn_ref.{name}"]  # the attribute of that name may be a function
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


def test_importing_needs_numpy_alone():
    code = "import sys, attn_ref; print(sorted({'torch', 'numba', 'matplotlib', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_file_imports_only_from_files_above_it():
    order = [
        "shapes",
        "softmax",
        "masks",
        "problem",
        "scores",
        "attention",
        "backends",
        "sentence",
        "diagnose",
        "plots",
    ]
    for place, name in enumerate(order):
        path = sys.modules["attn_ref.softmax"].__file__.replace("softmax.py", f"{name}.py")
        with open(path, encoding="utf-8") as file:
            imported = [line.split()[1] for line in file if line.startswith("from attn_ref")]
        above = {f"attn_ref.{one}" for one in order[:place]}
        assert set(imported) <= above, name
    assert all(name in attn_ref.__doc__ for name in order)


class TestPictures:
    def test_every_picture_has_alt_text_that_tells_its_numbers(self):
        shares = attn_ref.softmax(np.arange(6.0).reshape(2, 3))
        tokens = ("the", "cat", "sat")
        pictures = [
            plots.weights(shares, tokens[:2], tokens),
            plots.weights(np.stack([shares, shares])),
            plots.scores(np.array([[1.0, -np.inf]])),
            plots.mask(attn_ref.causal_mask(2, 5)),
            plots.matrix(np.eye(2)),
            plots.bars({"a": [0.1, 0.9], "b": [0.5, 0.5]}),
            plots.lines([1, 2], {"a": [3, 4], "b": [4, 3]}),
            plots.histogram({"a": np.arange(9.0)}),
            plots.arrows({"cat": (1, 0.5)}),
            plots.formula(attn_ref.sentence.EMBEDDINGS, attn_ref.sentence.TOKENS),
        ]
        for picture in pictures:
            text = picture._repr_html_()
            assert re_alt(text) == picture.alt
            assert len(picture.alt) > 30
        assert "Row cat is largest at sat (0.67)" in pictures[0].alt

    def test_a_picture_can_be_saved(self, tmp_path):
        for name in ("a.png", "a.svg"):
            plots.mask(attn_ref.causal_mask(2, 3)).save(tmp_path / name)
            assert (tmp_path / name).stat().st_size > 1000

    def test_a_batch_is_refused_by_name(self):
        with pytest.raises(ValueError, match="index the batch first"):
            plots.weights(np.ones((2, 2, 2, 2)))


def re_alt(text):
    import html
    import re

    return html.unescape(re.search(r'alt="([^"]*)"', text)[1])
