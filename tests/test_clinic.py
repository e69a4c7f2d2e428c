"""The layers of the clinic and the model that runs errands: is the healthy layer healthy, and is each bug a bug?"""

import numpy as np
import pytest
import torch

import attn_ref
from attn_ref import clinic, errands

N, D = 13, 6
SHOWN_BY = {
    "leaky mask": {},
    "small window": {},
    "missing scale": {},
    "padded keys": {"pad": 1},
    "RoPE offset": {"cut": 1},
}


@pytest.fixture
def qkv():
    return torch.randn(3, N, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.fixture
def one_thread():
    """Small matrices on several threads wait for each other, for minutes where other programs run too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("window", [None, 1, 4, 30])
@pytest.mark.parametrize("pad", [0, 3])
def test_a_healthy_layer_is_attention_whatever_the_cut(window, pad, qkv):
    q, k, v = qkv
    turned = (attn_ref.rope(x, range(N)) for x in (q, k))
    right = attn_ref.attention(*turned, v, causal=True, window=window, allowed=torch.arange(N) >= pad)
    for cut in (0, 1, 3, 8, N):
        out = clinic.layer(window)(q, k, v, pad=pad, cut=cut)
        torch.testing.assert_close(out[pad:], right[pad:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("bug", clinic.BUGS)
def test_a_bug_shows_where_the_chapter_says_and_nowhere_else(bug, qkv):
    sick, healthy = clinic.layer(5, bug), clinic.layer(5)
    for name, how in SHOWN_BY.items():
        gap = (sick(*qkv, **how) - healthy(*qkv, **how))[how.get("pad", 0) :].abs().max()
        always = not SHOWN_BY[bug]  # a bug of the plain call is there under padding and after a cut as well
        assert (gap > 1e-6) == (always or name == bug)


def test_two_patients_are_healthy_and_each_bug_has_one(qkv):
    gaps = {
        name: max(
            float((model(*qkv, **how) - clinic.layer(model.window)(*qkv, **how))[how.get("pad", 0) :].abs().max())
            for how in SHOWN_BY.values()
        )
        for name, model in clinic.PATIENTS.items()
    }
    # a window of 24 is longer than these 13 tokens, so that of E shows on longer texts only
    assert [name for name, gap in gaps.items() if gap < 1e-12] == ["A", "E", "F"]


def test_an_unknown_bug_is_refused():
    with pytest.raises(ValueError, match="bug must be"):
        clinic.layer(bug="a cold")


def test_questions_are_answered_by_their_notes():
    tokens, asked = errands.texts(50, 37, np.random.default_rng(0))
    assert tokens.shape == asked.shape == (50, 37)
    for text, where in zip(tokens.tolist(), asked.tolist(), strict=True):
        notes = dict(divmod(t - errands.NOTE, errands.VALUES) for t in text if errands.NOTE <= t < errands.WORD)
        for p in np.flatnonzero(where):
            assert text[p + 1] - errands.ANSWER == notes[text[p] - errands.QUESTION]


def test_a_hidden_note_stands_where_it_was_put_and_alone_of_its_kind():
    for trial in range(20):
        tokens, answer = errands.hide(23, 17, trial)
        kind = int(tokens[-1]) - errands.QUESTION
        same = [p for p in range(23) if (int(tokens[p]) - errands.NOTE) // errands.VALUES == kind and p < 22]
        assert same == [17]
        assert int(tokens[17] - errands.NOTE) % errands.VALUES == answer - errands.ANSWER
    with pytest.raises(ValueError, match="room for the question"):
        errands.hide(23, 22, 0)


def test_a_trained_model_runs_its_errands_and_a_fresh_one_does_not(one_thread):
    fresh, model = (errands.trained(position=None, steps=steps) for steps in (1, 350))
    assert errands.found(fresh, 64, 0.3) < 0.6 < 0.95 < errands.found(model, 64, 0.3)
