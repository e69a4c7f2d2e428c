"""Training is one step again and again: draw a batch, measure the loss, follow the gradient downhill.

    parameters ← parameters - lr · AdamW(∂ loss / ∂ parameters)

Derived in course/07_transformer. The rate rises for a few steps, while the averages of AdamW settle, and falls to 0 at
the end; the gradient's length is capped at 1, so that one odd batch cannot undo what was learned.
"""

import numpy as np
import torch

from attn_ref.language import causal_lm_loss
from attn_ref.shapes import real_number, whole_number
from attn_ref.stories import PAD, VOCABULARY, answers_only, draw, encode
from attn_ref.tiny_lm import TinyLM


def train(model, loss_of, steps, *, lr=8e-3, weight_decay=0.5, warm_up=50, every=20):
    """Train in place, and give (step, mean loss since the last report) every few steps, so that a caller can watch.

    loss_of(model, step) -> a scalar tensor. Source: Loshchilov and Hutter (2019), AdamW; chapter 07.

    >>> model, tokens = TinyLM(vocab_size=5, d_model=8, n_layers=1, n_heads=2), torch.tensor([[1, 2, 3, 4]])
    >>> reports = list(train(model, lambda model, step: causal_lm_loss(model(tokens), tokens, PAD), steps=100))
    >>> reports[-1][1] < 0.5 * reports[0][1]
    True
    """
    steps, every = whole_number(steps, "steps", least=1), whole_number(every, "every", least=1)
    lr, weight_decay = real_number(lr, "lr", above=0), real_number(weight_decay, "weight_decay", least=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    was_training, losses = model.training, []
    model.train()
    try:
        for step in range(1, steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1, step / warm_up) * 0.5 * (1 + np.cos(np.pi * step / steps))
            loss = loss_of(model, step)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            if step % every == 0 or step == steps:
                yield step, float(np.mean(losses))
                losses = []
    finally:
        model.train(was_training)


def story_model(seed=0):
    """A model for the stories: two layers of four narrow heads, untrained. Layer 0 sees four tokens, layer 1 all.

    Local and global layers take turns in Gemma 2 (2024) too. Here the short window has a purpose: no name is near
    enough to the cue, so that layer 0 cannot settle whom the pronoun means, and a head of layer 1 must fetch the name.
    """
    model = TinyLM(len(VOCABULARY), d_model=32, n_layers=2, n_heads=4, seed=seed)
    model.blocks[0].attention.window = 4
    return model


def story_loss(rng, batch=64, emphasis=2.0):
    """The loss of language modelling on fresh stories, and `emphasis` times that of the answers alone.

    Of a story's 16 tokens one is the answer, and most of the others cannot be foretold; without emphasis a model takes
    several times as long. -> loss_of(model, step) for `train`
    """

    def loss_of(model, step):
        tokens = encode(draw(batch, rng))
        logits = model(tokens)
        return causal_lm_loss(logits, tokens, PAD) + emphasis * causal_lm_loss(logits, answers_only(tokens), PAD)

    return loss_of


@torch.no_grad()
def right_answers(model, stories):
    """For which stories is the antecedent the likeliest of all tokens after the note's pronoun?  -> bool (stories,)"""
    tokens = encode(stories)
    rows, places = torch.arange(len(stories)), torch.tensor([story.pronoun for story in stories])
    return (model(tokens)[rows, places].argmax(-1) == tokens[rows, places + 1]).numpy()
