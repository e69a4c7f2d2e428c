"""The language of echoes and its reader: is the best loss the best, and are the gradients those of the loss?"""

import numpy as np
import pytest

from attn_ref import echoes

POSITIONS = ("sinusoidal", "learned", "rope", "alibi", None)


@pytest.fixture
def words():
    return echoes.documents(200, 41, np.random.default_rng(3))


def test_nine_words_of_ten_are_echoes_or_chance(words):
    came_back = [(words[:, t - 8 : t] == words[:, t, None]).any(-1).mean() for t in range(8, 41)]
    assert 0.92 < np.mean(came_back) < 0.96  # 0.9, and one in three or four of the rest by chance


def test_the_best_loss_is_the_cross_entropy_of_a_distribution(words):
    every_next = [np.concatenate([words[:1, :20], [[w]]], axis=1) for w in range(echoes.VOCAB)]
    p = [np.exp(-echoes.best_loss(text)[0, -1]) for text in every_next]
    assert sum(p) == pytest.approx(1, abs=1e-12)
    assert echoes.best_loss(words)[0, 6] == pytest.approx(np.log(16))  # the eighth word is drawn freely


@pytest.mark.parametrize("position", POSITIONS)
def test_gradients_agree_with_differences(position, words):
    reader, few, eps = echoes.EchoReader(position, d_model=6, n_heads=2, d=4), words[:3, :12], 1e-6
    for name, gradient in reader.gradients(few).items():
        values = reader.parameters[name]
        for index in np.argwhere(gradient != 0)[:: max(1, gradient.size // 7)]:
            sides = []
            for step in (eps, -eps):
                values[tuple(index)] += step
                sides.append(reader.loss(few).mean())
                values[tuple(index)] -= step
            assert gradient[tuple(index)] == pytest.approx((sides[0] - sides[1]) / (2 * eps), abs=1e-7)


def test_training_makes_a_new_reader_that_nears_the_best(words):
    start = echoes.EchoReader("rope")
    before = start.parameters["w_q"].copy()
    reader = start.trained(steps=150, n=32)
    np.testing.assert_array_equal(start.parameters["w_q"], before)
    assert 0 < reader.excess(words)[10:32].mean() < 0.1 < start.excess(words)[10:32].mean()
    assert reader.reach(words).sum() == pytest.approx(1)
    assert reader.reach(words)[:8].sum() > 0.8  # almost all of its bets lie where echoes come from


def test_a_reader_without_rotations_refuses_their_options(words):
    with pytest.raises(ValueError, match="position='rope', this reader has 'alibi'"):
        echoes.EchoReader("alibi").loss(words, base=500.0)
