"""The world of chapter 07: stories, training on them, heads switched off, an effect's interval, pretrained maps."""

import subprocess
import sys

import numpy as np
import pytest

from attn_ref import stories
from attn_ref.effect import paired_bootstrap

torch = pytest.importorskip("torch", reason="the models of chapter 07 are torch modules")

from attn_ref.ablation import ablate_head  # noqa: E402
from attn_ref.pretrained import NotAtHand, pretrained_maps  # noqa: E402
from attn_ref.tiny_lm import TinyLM  # noqa: E402
from attn_ref.training import right_answers, story_loss, story_model, train  # noqa: E402

SENTENCE = "小王把书给了小李，因为他很着急。"


class TestStories:
    def test_the_sentence_of_the_chapter_is_a_story_and_its_pair_is_held_out(self):
        story = stories.tell("zh", "小王", "小李", "书", "着急")
        assert "".join(story.tokens[1:-4]) == SENTENCE
        assert (story.antecedent, story.tokens[story.pronoun]) == ("小王", "他")
        assert [story.tokens[place] for place in story.candidates] == ["小王", "小李"]
        assert ("小王", "小李") in stories.pairs("zh", held_out=True)

    @pytest.mark.parametrize("language", ["en", "zh"])
    def test_no_pair_is_both_trained_on_and_held_out(self, language):
        known, held_out = (set(stories.pairs(language, held)) for held in (False, True))
        assert not known & held_out
        assert len(known | held_out) == 16 * 15
        assert {name for pair in known for name in pair} == set(stories.NAMES[language])  # each name is known

    def test_a_cue_decides_and_nothing_before_it_differs(self):
        for language in ("en", "zh"):
            giver, receiver = stories.NAMES[language][:2]
            cues = stories.CUES[language]
            one = stories.tell(language, giver, receiver, stories.THINGS[language][0], cues["giver"][0])
            other = stories.tell(language, giver, receiver, stories.THINGS[language][0], cues["receiver"][0])
            assert (one.antecedent, other.antecedent) == (giver, receiver)
            assert [i for i, pair in enumerate(zip(one.tokens, other.tokens, strict=True)) if len(set(pair)) > 1] == [
                len(one.tokens) - 6,
                len(one.tokens) - 2,
            ]
            assert one.first_pronoun < len(one.tokens) - 6 < one.pronoun

    def test_equal_generators_draw_equal_stories_of_the_asked_pairs(self):
        one, other = (stories.draw(60, np.random.default_rng(5), held_out=True) for _ in range(2))
        assert one == other
        for story in one:
            pair = tuple(story.tokens[place] for place in story.candidates)
            assert pair in stories.pairs(story.language, held_out=True)

    def test_encoded_rows_read_back_and_answers_stand_alone(self):
        drawn = stories.draw(9, np.random.default_rng(5))
        ids = stories.encode(drawn)
        back = [[stories.VOCABULARY[i] for i in row if i != stories.PAD] for row in ids.tolist()]
        assert back == [list(story.tokens) for story in drawn]
        answers = stories.answers_only(ids)
        assert [[stories.VOCABULARY[i] for i in row if i] for row in answers.tolist()] == [
            [s.antecedent] for s in drawn
        ]
        assert torch.equal(answers, torch.where(answers != 0, ids, 0))

    def test_the_longest_known_token_wins_and_unknown_text_is_named(self):
        assert stories.tokenize("小王给了小李地图") == ["小王", "给了", "小李", "地图"]
        with pytest.raises(ValueError, match="no known token begins at '猫坐'"):
            stories.tokenize("小王猫坐")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("fr", "Tom", "Ben", "book", "generous"), "language"),
            (("en", "Tom", "小李", "book", "generous"), "receiver"),
            (("en", "Tom", "Tom", "book", "generous"), "two people"),
        ],
    )
    def test_a_story_that_cannot_be_told_says_why(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            stories.tell(*arguments)


class TestTraining:
    def test_equal_seeds_train_equal_models_and_the_loss_falls(self):
        one, other = story_model(seed=3), story_model(seed=3)
        losses = list(train(one, story_loss(np.random.default_rng(3), batch=16), steps=60))
        again = list(train(other, story_loss(np.random.default_rng(3), batch=16), steps=60))
        assert losses == again
        assert losses[-1][1] < 0.9 * losses[0][1]
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_the_chapters_claims_hold_for_its_seeds(self, seed):
        from attn_ref.diagnose import coreference_score

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            model = story_model(seed)
            list(train(model, story_loss(np.random.default_rng(seed)), steps=600))
            held_out = stories.draw(400, np.random.default_rng(1000), held_out=True)
            right = right_answers(model, held_out)
            with torch.no_grad():
                maps = model(stories.encode(held_out), return_weights=True)[1]
            shares = [
                coreference_score(maps[:, i], story.pronoun, list(story.candidates))[1, :, 1 - story.means_giver]
                for i, story in enumerate(held_out)
            ]
            score = torch.stack(shares).mean(0)
            order = score.argsort(descending=True).tolist()
            with ablate_head(model, 1, order[0]):
                _, _, high = paired_bootstrap(right, right_answers(model, held_out), np.random.default_rng(0))
            with ablate_head(model, 1, order[0]), ablate_head(model, 1, order[1]):
                two_best = right_answers(model, held_out).mean()
            with ablate_head(model, 1, order[2]), ablate_head(model, 1, order[3]):
                two_last = right_answers(model, held_out).mean()
        finally:
            torch.set_num_threads(threads)
        assert right.mean() > 0.95
        assert score.max() > 0.9
        assert high < 0
        assert two_best < min(0.9, two_last)


class TestAblation:
    def model(self):
        model = TinyLM(vocab_size=7, d_model=12, n_layers=2, n_heads=3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(
                    torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
                )
        return model

    @torch.no_grad()
    def test_a_silent_head_equals_columns_of_zeros(self):
        model, tokens = self.model(), torch.tensor([[3, 1, 4, 1, 5]])
        before = model(tokens)
        with ablate_head(model, 1, 2):
            silent = model(tokens)
        assert torch.equal(model(tokens), before)
        model.blocks[1].attention.w_o.weight[:, 8:12] = 0
        torch.testing.assert_close(model(tokens), silent)
        assert not torch.allclose(before, silent)

    @torch.no_grad()
    def test_an_error_inside_restores_the_model_and_comes_through(self):
        model, tokens = self.model(), torch.tensor([[3, 1, 4, 1, 5]])
        before = model(tokens)
        with pytest.raises(KeyError), ablate_head(model, 0, 0):
            raise KeyError
        assert torch.equal(model(tokens), before)

    @pytest.mark.parametrize(("layer", "head"), [(2, 0), (0, 3), (-1, 0)])
    def test_a_head_that_is_not_there_is_refused(self, layer, head):
        with pytest.raises(ValueError, match="layer|head"), ablate_head(self.model(), layer, head):
            pass


class TestPairedBootstrap:
    def test_the_interval_covers_the_truth_as_often_as_it_says(self):
        rng, covered = np.random.default_rng(1), 0
        for _ in range(200):
            before = rng.random(150) < 0.9
            after = before & (rng.random(150) < 0.8)  # the true mean change is -0.18
            _, low, high = paired_bootstrap(before, after, rng, n=400)
            covered += low <= -0.18 <= high
        assert 0.88 <= covered / 200 <= 0.99

    def test_items_must_be_the_same_ones(self):
        with pytest.raises(ValueError, match="same items"):
            paired_bootstrap([1, 0], [1, 0, 1], np.random.default_rng(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed (pip install -c pins.txt transformers)"
    )
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(SENTENCE)), "the", "cat"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=12, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=40,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


class TestPretrained:
    def test_a_saved_model_gives_tokens_and_shares_of_every_head(self, folder):
        tokens, weights = pretrained_maps(SENTENCE, folder)
        assert tokens == ["[CLS]", *SENTENCE, "[SEP]"]
        assert weights.shape == (3, 2, 18, 18)
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 18))
        assert (weights[:, :, 1, 2:] > 0).all()  # an encoder sees what comes after

    def test_the_maps_are_those_of_the_model_itself(self, folder):
        import transformers

        tokens, weights = pretrained_maps("the cat", folder)
        model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        ids = transformers.AutoTokenizer.from_pretrained(folder)("the cat", return_tensors="pt")
        with torch.no_grad():
            attentions = model(**ids, output_attentions=True).attentions
        assert len(tokens) == 4
        assert torch.equal(weights, torch.cat(attentions))

    def test_the_environment_names_a_model(self, folder, monkeypatch):
        monkeypatch.setenv("ATTN_PRETRAINED", str(folder))
        assert pretrained_maps("the cat")[0] == ["[CLS]", "the", "cat", "[SEP]"]

    def test_nothing_is_written_to_stderr_and_no_network_is_asked(self, folder, tmp_path):
        code = f"import attn_ref; print(len(attn_ref.pretrained_maps('the cat', {str(folder)!r})[0]))"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        assert (run.stdout, run.stderr) == ("4\n", "")

    def test_where_no_model_is_at_hand_the_message_says_what_to_do(self, tmp_path, monkeypatch):
        pytest.importorskip("transformers", reason="transformers is not installed")
        with pytest.raises(NotAtHand, match="the folder holds none.*ATTN_PRETRAINED"):
            pretrained_maps("the cat", tmp_path)
        with pytest.raises(NotAtHand, match="hf download nobody/nothing"):
            pretrained_maps("the cat", "nobody/nothing")

    def test_without_the_library_the_message_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(NotAtHand, match="pip install -c pins.txt transformers"):
            pretrained_maps("the cat", "anything")


def test_a_live_chart_grows_and_ends_as_one_picture():
    pytest.importorskip("matplotlib")
    from attn_ref import plots

    chart = plots.Live("loss", "step", "nats")
    for step in (1, 2, 3):
        chart.add(step, loss=3.0 / step)
    assert "loss goes from 3 to 1" in chart.picture().alt
    with pytest.raises(ValueError, match="each point needs"):
        chart.add(4, accuracy=1.0)
