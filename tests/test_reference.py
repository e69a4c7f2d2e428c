"""attn_ref against a triple loop, its own docstrings, and the promises of its import."""

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import attn_ref


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


ORDER = re.findall(r"`(\w+)`", attn_ref.__doc__.split("`import attn_ref`")[0])
FOLDER = Path(attn_ref.__file__).parent


@pytest.mark.parametrize("name", ORDER)
def test_the_examples_in_docstrings_hold(name):
    if "triton" in name:
        pytest.importorskip("triton", reason="the Triton kernels need Triton")
    for path in _files(name):
        module = ".".join(path.relative_to(FOLDER.parent).with_suffix("").parts)
        assert not doctest.testmod(importlib.import_module(module.removesuffix(".__init__"))).failed


def test_the_reading_list_names_every_file():
    assert sorted(ORDER) == sorted({path.stem for path in FOLDER.iterdir() if path.stem[:2] != "__"})


def test_every_public_name_is_there_and_documented():
    for name in attn_ref.__all__:
        assert getattr(attn_ref, name).__doc__, name


def test_importing_needs_numpy_alone():
    heavy = {"torch", "numba", "triton", "matplotlib", "scipy", "psutil"}
    code = f"import sys, attn_ref; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_what_needs_an_absent_library_says_which(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for module in ("multihead", "block", "tiny_lm"):
        monkeypatch.delitem(sys.modules, f"attn_ref.{module}", raising=False)
    with pytest.raises(ImportError, match="attn_ref.TinyLM needs torch: pip install"):
        _ = attn_ref.TinyLM


@pytest.mark.parametrize("name", ORDER)
def test_a_file_imports_only_from_files_above_it(name):
    above = ORDER[: ORDER.index(name)] + [name] * (FOLDER / name).is_dir()  # parts of a folder may use each other
    for path in _files(name):
        lines = [
            line for line in path.read_text(encoding="utf-8").splitlines() if re.match("(from|import) attn_ref", line)
        ]
        imported = [re.search(r"attn_ref(?: import|\.)\W*(\w+)", line)[1] for line in lines]
        assert set(imported) <= set(above), path.name


def _files(name):
    return sorted((FOLDER / name).glob("*.py")) or [FOLDER / f"{name}.py"]
