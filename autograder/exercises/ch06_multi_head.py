"""Chapter 06, multi-head attention: heads, PyTorch's layer and its masks, pruning, and shared keys and values."""

import numpy as np
import torch

import attn_ref
from attn_ref import cost
from autograder.exercise import Exercise, Quiz, Written


def tensor(rng, *shape, scale=1.0):
    """Normal numbers as a float64 tensor."""
    return torch.from_numpy(scale * rng.normal(size=shape))


def reached(answer, **inputs):
    """Which of these tensors the answer's result can send a gradient to, told without a backward pass."""
    found = {}
    for name in inputs:
        result = answer(*(one.clone().requires_grad_(other == name) for other, one in inputs.items()))
        found[f"a gradient reaches {name}"] = bool(getattr(result, "requires_grad", False))
    return found


# --- 6.1 -------------------------------------------------------------------------------------------------------------

split = Exercise("6.1", "One vector, cut into heads", reference=attn_ref.split_heads, minutes=10)


@split.probe
def drive_split(answer, x, n_heads, ask="output"):
    """The heads; or whether a gradient comes through."""
    return answer(x, n_heads) if ask == "output" else reached(lambda x: answer(x, n_heads), x=x)


@split.criterion("head h holds the numbers h·d to h·d + d - 1 of every token", points=2)
def slices(rng):
    yield dict(x=torch.tensor([[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]], dtype=torch.float64), n_heads=2)
    yield dict(x=tensor(rng, 2, 5, 12, scale=40), n_heads=3)
    yield dict(x=tensor(rng, 2, 7, 12), n_heads=4)


@split.criterion("any sizes: equal ones, ones of 1, many sentences", points=2)
def sizes_of_heads(rng):
    yield dict(x=tensor(rng, 3, 4, 16), n_heads=4)  # as many heads as tokens as numbers in a head
    yield dict(x=tensor(rng, 3, 3, 15), n_heads=3)
    yield dict(x=tensor(rng, 2, 5, 6), n_heads=6)  # one number a head
    yield dict(x=tensor(rng, 2, 5, 6), n_heads=1)
    yield dict(x=tensor(rng, 1, 5, 6), n_heads=2)
    yield dict(x=tensor(rng, 6, 1, 6), n_heads=3)


@split.criterion("the numbers keep their dtype, and gradients pass", points=1, same_dtype=True)
def dtypes(rng):
    yield dict(x=tensor(rng, 2, 3, 10), n_heads=5)
    yield dict(x=tensor(rng, 2, 3, 10).float(), n_heads=5)
    yield dict(x=tensor(rng, 2, 3, 10).half(), n_heads=5)
    yield dict(x=tensor(rng, 2, 3, 10), n_heads=5, ask="gradient")


split.leaves_inputs_alone(points=1)


@split.mistake(
    "The shape is right and the numbers are not. A reshape straight to (B, H, n, d) fills head 0 with the first tokens, so each head owns some tokens instead of a part of every token. Which two axes stand next to each other in memory, and which pair do you want to exchange afterwards?"
)
def cut_along_the_tokens(x, n_heads):
    b, n, width = x.shape
    return x.reshape(b, n_heads, n, width // n_heads)


@split.mistake(
    "Your head h takes every H-th number, h, h + H, h + 2H and so on. The contract gives it d neighbours. When the last axis becomes two, which of the two should come first, H or d?"
)
def every_hth_number(x, n_heads):
    b, n, width = x.shape
    return x.reshape(b, n, width // n_heads, n_heads).permute(0, 3, 1, 2)


@split.mistake(
    "The cut is right; the heads stand behind the tokens, (B, n, H, d). Attention works on the last two axes. Which two have to be (n, d)?"
)
def heads_behind_the_tokens(x, n_heads):
    b, n, width = x.shape
    return x.reshape(b, n, n_heads, width // n_heads)


@split.mistake(
    "Each of your heads is turned: (d, n) where (n, d) is meant. That is the shape kᵀ has inside the scores. Which axes did your last step move, and how many needed to move?"
)
def each_head_turned(x, n_heads):
    b, n, width = x.shape
    return x.reshape(b, n, n_heads, width // n_heads).permute(0, 2, 3, 1)


@split.mistake("You use n_heads as the size of a head. With a width of 12 and 3 heads, how many numbers does each get?")
def count_taken_for_size(x, n_heads):
    b, n, width = x.shape
    return x.reshape(b, n, width // n_heads, n_heads).transpose(1, 2)


@split.mistake(
    "Your heads come before the sentences, (H, B, n, d). The batch stays in front: along which axis should the pieces be stacked?"
)
def heads_before_the_batch(x, n_heads):
    return torch.stack(x.chunk(n_heads, dim=-1))


@split.mistake(
    "Sentences and heads have run together into one axis, (B·H, n, d). The contract keeps them apart: how many axes does the result have?"
)
def batch_and_heads_in_one(x, n_heads):
    b, n, width = x.shape
    return x.reshape(b, n, n_heads, width // n_heads).transpose(1, 2).reshape(b * n_heads, n, -1)


@split.mistake(
    "Right for one sentence; for more, the tokens of different sentences are mixed, because the batch is not an axis of its own in your reshape. Which length should stand first in it?"
)
def sentences_run_together(x, n_heads):
    b, n, width = x.shape
    return x.reshape(-1, n_heads, width // n_heads).transpose(0, 1).reshape(b, n_heads, n, -1)


@split.mistake(
    "The right numbers in the wrong dtype: `torch.zeros` makes float32 unless told otherwise, and what you copy into it is rounded. What dtype does x have?"
)
def copied_into_float32(x, n_heads):
    b, n, width = x.shape
    d = width // n_heads
    out = torch.zeros(b, n_heads, n, d)
    for h in range(n_heads):
        out[:, h] = x[:, :, h * d : (h + 1) * d]
    return out


@split.mistake(
    "Right numbers, and no gradient comes through: `detach`, `.data` or a detour through NumPy or lists cuts the tensor off from what computed it, and a layer that splits like this learns nothing before the cut. Which line leaves the graph?"
)
def cut_off_from_the_graph(x, n_heads):
    b, n, width = x.shape
    return x.detach().reshape(b, n, n_heads, width // n_heads).transpose(1, 2)


@split.mistake(
    "The result is right, and the caller's x has another shape now: `resize_` works in place, as every name in torch that ends in an underscore. Which call gives a new view and leaves x alone?"
)
def resized_in_place(x, n_heads):
    b, n, width = x.shape
    return x.resize_(b, n, n_heads, width // n_heads).transpose(1, 2)


@split.also_right
def piece_by_piece(x, n_heads):
    d = x.shape[-1] // n_heads
    return torch.stack([x[..., h * d : h * d + d] for h in range(n_heads)], dim=1)


@split.also_right
def unflattened(x, n_heads):
    return x.unflatten(-1, (n_heads, -1)).movedim(2, 1).contiguous()


@split.also_right
def number_by_number(x, n_heads):
    b, n, width = x.shape
    d = width // n_heads
    out = x.new_empty(b, n_heads, n, d)
    for i, h, t, j in np.ndindex(b, n_heads, n, d):
        out[i, h, t, j] = x[i, t, h * d + j]
    return out


@split.also_right
def chunked(x, n_heads):
    return torch.cat([piece[:, None] for piece in torch.chunk(x, n_heads, dim=2)], dim=1)


split.hints(
    "The first of two steps only cuts the last axis. What shape is there after it?",
    "After the cut the shape is (B, n, H, d): two axes have to change places.",
)
split.errors(
    (
        "RuntimeError: shape '[2, 5, 3]' is invalid for input of size 120",
        "A reshape keeps the number of entries. Is the head size among the lengths you ask for?",
    ),
    (
        "TypeError: reshape(): argument 'shape' failed to unpack the object at pos 4",
        "<code>width / n_heads</code> is a float; <code>//</code> gives a whole number.",
    ),
)

# --- 6.2 -------------------------------------------------------------------------------------------------------------

merge = Exercise("6.2", "And put together again", reference=attn_ref.merge_heads, minutes=5)


@merge.probe
def drive_merge(answer, x, ask="output"):
    """The merged tokens; or whether a gradient comes through."""
    return answer(x) if ask == "output" else reached(answer, x=x)


@merge.criterion("each token gets its numbers from all heads, head 0 first", points=2)
def side_by_side(rng):
    heads = [[[1.0, 2.0], [5.0, 6.0]], [[3.0, 4.0], [7.0, 8.0]]]
    yield dict(x=torch.tensor([heads], dtype=torch.float64))
    yield dict(x=tensor(rng, 2, 3, 5, 4, scale=40))


@merge.criterion("any sizes and any dtype, and gradients pass", points=1, same_dtype=True)
def sizes_of_merged(rng):
    yield dict(x=tensor(rng, 3, 4, 4, 4))
    yield dict(x=tensor(rng, 2, 6, 5, 1))
    yield dict(x=tensor(rng, 2, 1, 5, 6))
    yield dict(x=tensor(rng, 1, 2, 6, 3))
    yield dict(x=tensor(rng, 6, 3, 1, 2))
    yield dict(x=tensor(rng, 2, 1, 5, 1))
    yield dict(x=tensor(rng, 2, 5, 3, 4).transpose(1, 2))  # heads of a layer are often a view such as this one
    yield dict(x=tensor(rng, 2, 3, 4, 5).float())
    yield dict(x=tensor(rng, 2, 3, 4, 5).half())
    yield dict(x=tensor(rng, 2, 3, 4, 5), ask="gradient")


merge.leaves_inputs_alone(points=1)


@merge.mistake(
    "The shape is right and the numbers are not: a reshape reads head 0 to its end before it comes to head 1, so your first token is made of several tokens of head 0. What has to change places before the last two axes can become one?"
)
def reshaped_at_once(x):
    b, h, n, d = x.shape
    return x.reshape(b, n, h * d)


@merge.mistake(
    "A token's numbers alternate between the heads in your result. Head 0 comes first with all its d numbers, then head 1. In what order should H and d stand before they become one axis?"
)
def heads_alternate(x):
    b, h, n, d = x.shape
    return x.permute(0, 2, 3, 1).reshape(b, n, h * d)


@merge.mistake(
    "The heads stand beside each other and are still an axis of their own. How many axes does (B, n, H·d) have?"
)
def still_apart(x):
    return x.transpose(1, 2)


@merge.mistake(
    "The heads follow each other as if they were more tokens, (B, H·n, d). A token should get wider, and their number stay. Which axis grows?"
)
def one_after_the_other(x):
    return x.flatten(1, 2)


@merge.mistake(
    "You average the heads, and what one head found cannot be told from another's. The result should hold all H·d numbers of a token."
)
def averaged(x):
    return x.to(torch.float64).mean(dim=1).repeat(1, 1, x.shape[1]).to(x.dtype)


@merge.mistake(
    "`view` cannot join axes that have just changed places: their numbers no longer lie side by side in memory. Which call copies where it must?"
)
def refused_by_view(x):
    b, h, n, d = x.shape
    return x.transpose(1, 2).view(b, n, h * d)


@merge.mistake(
    "The right numbers in the wrong dtype: a new tensor is float32 unless told otherwise. What dtype does x have?"
)
def merged_into_float32(x):
    b, h, n, d = x.shape
    out = torch.zeros(b, n, h * d)
    for i in range(h):
        out[:, :, i * d : (i + 1) * d] = x[:, i]
    return out


@merge.mistake(
    "Right numbers, and no gradient comes through: a `detach` or a detour through NumPy cuts the heads off from w_o. What in your code is no longer a tensor that remembers?"
)
def merged_off_the_graph(x):
    return torch.cat(list(x.detach().unbind(dim=1)), dim=-1)


@merge.mistake(
    "Right, and the caller's tensor has its axes exchanged now: names in torch that end in an underscore work in place. What is the call without it?"
)
def transposed_in_place(x):
    b, h, n, d = x.shape
    return x.transpose_(1, 2).reshape(b, n, h * d)


@merge.also_right
def concatenated(x):
    return torch.cat(list(x.unbind(dim=1)), dim=-1)


@merge.also_right
def moved_and_flattened(x):
    return x.movedim(1, 2).flatten(start_dim=2)


@merge.also_right
def entry_by_entry(x):
    b, h, n, d = x.shape
    return torch.stack([torch.stack([x[i, :, t].reshape(h * d) for t in range(n)]) for i in range(b)])


@merge.also_right
def made_contiguous(x):
    b, h, n, d = x.shape
    return x.permute(0, 2, 1, 3).contiguous().view(b, n, -1)


merge.hints(
    "Do the two steps of 6.1 backwards, the last one first.",
    "Exchange heads and tokens, so that H and d are neighbours at the end. Then let these two become one axis.",
)
merge.errors(
    (
        "RuntimeError: view size is not compatible with input tensor's size and stride",
        "<code>view</code> never copies, and the numbers of H and d no longer lie side by side; <code>reshape</code> "
        "copies where it must.",
    ),
)

# --- 6.3 -------------------------------------------------------------------------------------------------------------

layer = Exercise(
    "6.3",
    "The layer",
    reference=attn_ref.MultiHeadAttention,
    minutes=25,
    isolate=False,  # its gradients are computed, and torch may refuse a backward pass in a fork
    forbids=(
        "attn_ref.TransformerBlock",
        "torch.nn.MultiheadAttention",
        "torch.nn.functional.multi_head_attention_forward",
    ),
)
MATRICES = ("w_q", "w_k", "w_v", "w_o")
P = 0.25  # of the dropout that is measured


def loaded(answer, weights, biases, n_heads, dropout=0.0):
    """The answer's layer in float64, in eval mode, with the weights (4, d_model, d_model) of a case."""
    made = answer(weights.shape[-1], n_heads, dropout=dropout).double().eval()
    with torch.no_grad():
        for name, weight, bias in zip(MATRICES, weights, biases, strict=True):
            getattr(made, name).weight.copy_(weight)
            getattr(made, name).bias.copy_(bias)
    return made


@layer.probe
def drive_layer(answer, x, weights, biases, n_heads, memory=None, allowed=None, ask="output"):
    """The layer's output; or what its gradients tell; or what dropout does, in training and not."""
    made = loaded(answer, weights, biases, n_heads)
    out = made(x, memory, allowed)
    if ask == "output" or not torch.is_tensor(out):
        return out
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(6)
        if ask == "learning":
            return _learned(made, x, memory, allowed)
        return _dropped(answer, x, weights, biases, n_heads)


def _learned(made, x, memory, allowed):
    """Does each gradient tell what a small step does to the output, and is it a number for an empty row too?"""
    towards = torch.randn_like(x)
    x, memory = x.clone().requires_grad_(), memory.clone().requires_grad_()
    leaves = {name: getattr(made, name).weight for name in MATRICES} | {"x": x, "the memory": memory}
    right = _right_gradients(lambda: (made(x * 1, memory * 1) * towards).sum(), leaves)
    found = {f"the whole gradient reaches {name}": right[name] for name in leaves}
    alone = _right_gradients(lambda: (made(x * 1) * towards).sum(), {"x": x})
    found["the whole gradient reaches x, where it is its own memory"] = alone["x"]
    total = (made(x * 1, None, allowed) * towards).sum()
    numbers = [gradient.isfinite().all() for gradient in _gradients(total, [*leaves.values()][:-1])]
    found["every gradient is a number where a query may see nothing"] = all(map(bool, numbers))
    return found


def _gradients(total, leaves):
    """The gradients of one number; 0 where there is no way to it."""
    if not total.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)


def _right_gradients(total, leaves, step=1e-5):
    """{name: whether total() moves with this leaf, and as its gradient says}, by a step to both sides."""
    right = {}
    gradients = _gradients(total(), list(leaves.values()))
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        direction, sides = torch.randn_like(leaf), []
        for move in (step, -2 * step, step):
            with torch.no_grad():
                leaf.add_(direction, alpha=move)
                sides.append(total())
        slope, told = (sides[0] - sides[1]) / (2 * step), (gradient * direction).sum()
        right[name] = bool(gradient.any() and (slope - told).abs() < 1e-6 * (1 + slope.abs()))
    return right


def _dropped(answer, x, weights, biases, n_heads):
    """What dropout does: to each weight, which two keys with the values (1, 0) and (0, 1) show; and to whole rows."""
    made = loaded(answer, weights, biases, n_heads, dropout=P)
    found = {"in eval mode, the output": made(x)}
    made.train()
    found["in training, two calls differ"] = not torch.equal(made(x), made(x))
    earlier = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
    masked = [made(x, allowed=earlier.clone()) for _ in range(2)]
    found["so do two calls with a mask"] = not torch.equal(*masked)

    seen, plain, none = weights.clone(), torch.zeros_like(weights), torch.zeros_like(biases)
    seen[2] = seen[3] = plain[3] = torch.eye(x.shape[-1], dtype=x.dtype)
    memory = torch.eye(2, dtype=x.dtype).repeat(len(x), 1, n_heads)  # (B, 2, H·2)
    made = loaded(answer, seen, none, n_heads, dropout=P)
    whole, rest = made(x, memory), made.train()(x, memory)  # the weights as they are, and what is left of them
    lost = rest.abs() < 1e-12
    kept = (rest - whole / (1 - P)).abs() < 1e-9
    found["a weight is lost, or is 1 / (1 - p) of what it was"] = bool((lost | kept).all())
    found["about a share of p is lost"] = bool((lost.double().mean() - P).abs() < 0.1)

    ones = none.clone()
    ones[2] = 1.0  # all values are 1, so that a message is the sum of its row of weights, n weights of 1/n
    sums = loaded(answer, plain, ones, n_heads, dropout=P).train()(x).unflatten(-1, (n_heads, -1))  # (B, n, H, d)
    usual = (P / (1 - P) / x.shape[1]) ** 0.5
    found["a weight is lost for all numbers of a value alike"] = bool((sums - sums[..., :1]).abs().max() < 1e-9)
    sums = sums[..., 0]
    found["of each row, some weights are lost and not all"] = bool(0.6 < sums.std() / usual < 1.5)
    found["each sentence, query and head loses weights of its own"] = all(
        bool(sums.std(dim=axis).mean() > 0.4 * usual) for axis in range(3)
    )
    return found


def four(rng, d_model, scale=None):
    """Weights and biases of the four matrices, as large as keeps scores in the range of a trained layer."""
    scale = 2 / d_model**0.5 if scale is None else scale
    return dict(weights=tensor(rng, 4, d_model, d_model, scale=scale), biases=tensor(rng, 4, d_model))


@layer.criterion("each head attends in its own slice, and w_o mixes what the heads bring", points=2)
def self_attention(rng):
    one = torch.eye(2, dtype=torch.float64).repeat(4, 1, 1)
    x = torch.tensor([[[0.0, 0.0], [0.0, np.log(3.0) ** 0.5]]], dtype=torch.float64)
    yield dict(x=x, weights=one, biases=torch.zeros(4, 2, dtype=torch.float64), n_heads=2)
    yield dict(x=tensor(rng, 2, 5, 12), n_heads=3, **four(rng, 12))
    yield dict(x=tensor(rng, 3, 4, 16), n_heads=4, **four(rng, 16))
    yield dict(x=tensor(rng, 1, 7, 6), n_heads=1, **four(rng, 6))
    yield dict(x=tensor(rng, 2, 1, 6), n_heads=6, **four(rng, 6))
    yield dict(x=tensor(rng, 2, 6, 8, scale=30), n_heads=2, **four(rng, 8))  # scores in the thousands


@layer.criterion("keys and values come from the memory where one is given", points=1)
def from_memory(rng):
    yield dict(x=tensor(rng, 2, 5, 12), n_heads=3, memory=tensor(rng, 2, 8, 12), **four(rng, 12))
    yield dict(x=tensor(rng, 2, 5, 8), n_heads=4, memory=tensor(rng, 2, 1, 8), **four(rng, 8))
    yield dict(x=tensor(rng, 3, 4, 6), n_heads=2, memory=tensor(rng, 3, 4, 6), **four(rng, 6))


@layer.criterion("True = may attend, and a query that may see nothing gets 0 from every head", points=1)
def with_masks(rng):
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    yield dict(x=tensor(rng, 2, 5, 12), n_heads=3, allowed=causal, **four(rng, 12))
    ragged = torch.arange(7) < torch.tensor([7, 3])[:, None, None, None]  # (2, 1, 1, 7): lengths 7 and 3
    memory = tensor(rng, 2, 7, 8)
    yield dict(
        x=tensor(rng, 2, 4, 8), n_heads=2, memory=memory, allowed=ragged.expand(2, 1, 4, 7).clone(), **four(rng, 8)
    )
    some = torch.from_numpy(rng.random((2, 1, 6, 6)) < 0.5)
    some[0, 0, 2] = some[1, 0, 5] = False  # nothing to attend to
    some[:, :, 0] = True
    yield dict(x=tensor(rng, 2, 6, 6), n_heads=2, allowed=some, **four(rng, 6))
    low = four(rng, 6)  # with keys opposite to the queries, what a token may see has scores far below 0
    low["weights"][1], low["biases"][1] = -low["weights"][0], -low["biases"][0]
    yield dict(x=tensor(rng, 3, 5, 6, scale=50), n_heads=2, allowed=causal, **low)


@layer.criterion("dropout falls on the weights, in training only", points=1)
def with_dropout(rng):
    yield dict(x=tensor(rng, 3, 40, 6), n_heads=3, ask="dropout", **four(rng, 6))


@layer.criterion("whole gradients reach all four matrices, x and the memory, and none is NaN", points=1)
def it_learns(rng):
    allowed = torch.ones(5, 5, dtype=torch.bool).tril(-1)  # the first query may see nothing
    yield dict(
        x=tensor(rng, 2, 5, 12), n_heads=3, memory=tensor(rng, 2, 5, 12), allowed=allowed, ask="learning",
        **four(rng, 12, scale=0.3),
    )  # fmt: skip


layer.leaves_inputs_alone(points=1)


@layer.mistake(
    "Your heads are cut along the tokens: a reshape straight to (B, H, n, d) has the right shape and the wrong numbers. 6.1 cuts first and exchanges afterwards; which of the two is missing here?"
)
class CutAlongTheTokens(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (
            y.view(len(y), self.n_heads, -1, y.shape[-1] // self.n_heads)
            for y in (self.w_q(x), self.w_k(memory), self.w_v(memory))
        )
        _, weights = attn_ref.attention(q, k, v, allowed=allowed, return_weights=True)
        weights = torch.nn.functional.dropout(weights, self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake(
    "Split and attention are right; the heads are joined by a reshape from (B, H, n, d), which reads head 0 to its end first. What did 6.2 do before it joined?"
)
class JoinedWithoutExchange(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        _, weights = attn_ref.attention(q, k, v, allowed=allowed, return_weights=True)
        weights = torch.nn.functional.dropout(weights, self.dropout, self.training)
        return self.w_o((weights @ v).reshape(x.shape))


@layer.mistake(
    "You return the heads side by side as they are. w_o is never used, so no number of the output can draw on two heads. What is the last step of the formula?"
)
class NoOutputProjection(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        _, weights = attn_ref.attention(q, k, v, allowed=allowed, return_weights=True)
        weights = torch.nn.functional.dropout(weights, self.dropout, self.training)
        return attn_ref.merge_heads(weights @ v)


@layer.mistake(
    "Everything is right but the scale: you divide by √d_model. A score is a sum over the numbers of one head; how many are there in a head?"
)
class ScaledByTheWholeWidth(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        _, weights = attn_ref.attention(q, k, v, allowed=allowed, scale=x.shape[-1] ** -0.5, return_weights=True)
        weights = torch.nn.functional.dropout(weights, self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake(
    "Your scores are bare dot products. Chapter 02 divided them by the root of a length; which length does a head have?"
)
class NotScaled(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        _, weights = attn_ref.attention(q, k, v, allowed=allowed, scale=1.0, return_weights=True)
        weights = torch.nn.functional.dropout(weights, self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake(
    "There is no split: one attention over the whole width, with one map of weights for all. Where does n_heads enter?"
)
class OneHeadAlways(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, 1) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        _, weights = attn_ref.attention(q, k, v, allowed=allowed, return_weights=True)
        weights = torch.nn.functional.dropout(weights, self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake(
    "Keys and values always come from x. Where is `memory` read, and which two of the four matrices meet it?"
)
class MemoryIgnored(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(x), self.w_v(x)))
        _, weights = attn_ref.attention(q, k, v, allowed=allowed, return_weights=True)
        weights = torch.nn.functional.dropout(weights, self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake(
    "With a memory your queries come from it too, so the memory reads itself and x is never seen. Who asks, and who is asked?"
)
class MemoryAsksItself(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        x = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(x), self.w_v(x)))
        _, weights = attn_ref.attention(q, k, v, allowed=allowed, return_weights=True)
        weights = torch.nn.functional.dropout(weights, self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake(
    "Your mask works the other way round: what it allows is forbidden. In this course True = may attend; which of your lines turns it over, or should?"
)
class MaskTurnedOver(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        allowed = None if allowed is None else ~allowed
        _, weights = attn_ref.attention(q, k, v, allowed=allowed, return_weights=True)
        weights = torch.nn.functional.dropout(weights, self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake("The mask has no effect: every query still sees every key. Where does `allowed` meet the scores?")
class MaskIgnored(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        _, weights = attn_ref.attention(q, k, v, return_weights=True)
        weights = torch.nn.functional.dropout(weights, self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake(
    "Right but for a query that may see nothing: softmax over nothing but -inf is NaN. Chapter 04 gave such a row 0. Which call of torch replaces NaN, or which softmax never makes one?"
)
class NanWhereNothingIsAllowed(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        scores = attn_ref.attention_scores(q, k)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        weights = torch.nn.functional.dropout(scores.softmax(-1), self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake(
    "A query that may see nothing reads all values equally in your layer: every score is the same large negative number, and softmax sees only differences. How much may such a query receive?"
)
class EqualWhereNothingIsAllowed(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        scores = attn_ref.attention_scores(q, k)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -1e9)
        weights = torch.nn.functional.dropout(scores.softmax(-1), self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake(
    "Weights are dropped in eval mode too, so the same sentence gets two answers. `F.dropout(weights, p)` thinks it is always training. What does the layer know about its mode?"
)
class DropsInEvalToo(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        _, weights = attn_ref.attention(q, k, v, allowed=allowed, return_weights=True)
        weights = torch.nn.functional.dropout(weights, self.dropout)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake("Nothing is ever dropped: two calls in training give the same. Where is `self.dropout` used?")
class NeverDrops(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        return self.w_o(attn_ref.merge_heads(attn_ref.attention(q, k, v, allowed=allowed)))


@layer.mistake(
    "You drop single numbers of the output, and every message still arrives in part. The contract drops weights, so that a query loses a whole value. On which tensor, of which shape, should dropout fall?"
)
class DropsFromTheOutput(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        out = self.w_o(attn_ref.merge_heads(attn_ref.attention(q, k, v, allowed=allowed)))
        return torch.nn.functional.dropout(out, self.dropout, self.training)


@layer.mistake(
    "You drop scores, before softmax. A score of 0 is no ban: its key still gets a share, and each row still sums to exactly 1. What is there to drop after softmax?"
)
class DropsScores(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        scores = attn_ref.attention_scores(q, k)
        scores = torch.nn.functional.dropout(scores, self.dropout, self.training)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        return self.w_o(attn_ref.merge_heads(scores.softmax(-1).nan_to_num() @ v))


@layer.mistake(
    "You drop numbers of the values before they are read, so all queries miss the same ones. Each query should lose keys of its own: which tensor has a row for each query and a column for each key?"
)
class DropsFromTheValues(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        v = torch.nn.functional.dropout(v, self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(attn_ref.attention(q, k, v, allowed=allowed)))


@layer.mistake(
    "The output is right, and nothing can be learned: a `detach`, a `no_grad` or a detour through NumPy has cut the graph, so w_q, w_k and w_v get no gradient. Which line leaves torch?"
)
class GraphCut(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (
            attn_ref.split_heads(y, self.n_heads).detach() for y in (self.w_q(x), self.w_k(memory), self.w_v(memory))
        )
        _, weights = attn_ref.attention(q, k, v, allowed=allowed, return_weights=True)
        weights = torch.nn.functional.dropout(weights, self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake(
    "Keys come from the memory and values from x, so what is found at one place is read at another. Which two of the four matrices meet the memory?"
)
class ValuesFromX(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(x)))
        _, weights = attn_ref.attention(q, k, v, allowed=allowed, return_weights=True)
        weights = torch.nn.functional.dropout(weights, self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake(
    "Forbidden keys lose their weight after softmax, when they have already taken a share: the weights that remain sum to less than 1. Where does a mask act so that softmax shares out all of it?"
)
class MaskedAfterSoftmax(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        _, weights = attn_ref.attention(q, k, v, return_weights=True)
        weights = weights if allowed is None else weights * allowed
        weights = torch.nn.functional.dropout(weights, self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake(
    "A query that may see nothing gets 0 from every head, and w_o comes after that. Your output for it is 0; what does w_o make of zeros?"
)
class BiasLostToo(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        _, weights = attn_ref.attention(q, k, v, allowed=allowed, return_weights=True)
        weights = torch.nn.functional.dropout(weights, self.dropout, self.training)
        out = self.w_o(attn_ref.merge_heads(weights @ v))
        if allowed is not None:
            some = allowed.any(-1)  # (n,) or (B, 1, n)
            out = out * (some[:, 0] if some.ndim == 3 else some).unsqueeze(-1)
        return out


@layer.mistake(
    "Weights are dropped, and those that stay are not made larger, so a query receives less in training than in use. What keeps the mean the same?"
)
class DropsWithoutScaling(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        _, weights = attn_ref.attention(q, k, v, allowed=allowed, return_weights=True)
        if self.training:
            weights = weights * (torch.rand_like(weights) >= self.dropout)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake(
    "The four matrices learn, and nothing below this layer does: x or the memory is detached on the way in, so embeddings and earlier layers get no gradient. Which line cuts them off?"
)
class InputsCut(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        x, memory = x.detach(), memory.detach()
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        _, weights = attn_ref.attention(q, k, v, allowed=allowed, return_weights=True)
        weights = torch.nn.functional.dropout(weights, self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake(
    "Right, and the caller's mask has been turned over: `logical_not_` works in place, so the next layer that gets it sees the opposite. What does `~` do?"
)
class MaskOverwritten(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        scores = attn_ref.attention_scores(q, k)
        if allowed is not None:
            scores = scores.masked_fill(allowed.logical_not_(), -torch.inf)
        weights = torch.nn.functional.dropout(scores.softmax(-1).nan_to_num(), self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake(
    "Right where there is a memory. Without one, keys and values are made from a copy of x that is cut off from the graph, so x learns as a query alone. What should `source` be?"
)
class KeysCutFromX(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x.detach() if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        _, weights = attn_ref.attention(q, k, v, allowed=allowed, return_weights=True)
        weights = torch.nn.functional.dropout(weights, self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake(
    "The output is right, and the way back is not: for a query that may see nothing softmax makes NaN, you mend it, and its gradient is NaN all the same; one training step carries it into every matrix. `scores + mask` hands every gradient on to the scores. Which way of masking hands none to the entries it hides?"
)
class NanOnTheWayBack(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        scores = attn_ref.attention_scores(q, k)
        if allowed is not None:
            scores = scores + torch.zeros_like(scores).masked_fill(~allowed, -torch.inf)
        weights = torch.nn.functional.dropout(scores.softmax(-1).nan_to_num(), self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake(
    "A forbidden key gets a low score in place of -inf, and where scores are in the thousands it is not low enough: the key takes weight away from those that are allowed. Which number is below every score?"
)
class BanTooSmall(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        scores = attn_ref.attention_scores(q, k)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -1e3)
        weights = scores.softmax(-1) if allowed is None else scores.softmax(-1) * allowed
        weights = torch.nn.functional.dropout(weights, self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake(
    "Softmax runs over the queries. Each query has a budget of its own: along which axis of (B, H, n, m) does it spend it?"
)
class SharedOverQueries(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        scores = attn_ref.attention_scores(q, k)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        weights = torch.nn.functional.dropout(scores.softmax(-2).nan_to_num(), self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(weights @ v))


@layer.mistake(
    "Two things come back, output and weights. The contract asks for the output alone; what follows the comma in your `return`?"
)
class WeightsReturnedToo(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        memory = x if memory is None else memory
        q, k, v = (attn_ref.split_heads(y, self.n_heads) for y in (self.w_q(x), self.w_k(memory), self.w_v(memory)))
        _, weights = attn_ref.attention(q, k, v, allowed=allowed, return_weights=True)
        weights = torch.nn.functional.dropout(weights, self.dropout, self.training)
        return self.w_o(attn_ref.merge_heads(weights @ v)), weights


@layer.also_right
class WithTorchsAttention(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = (torch.nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory=None, allowed=None):
        if memory is None:
            memory = x
        q, k, v = (
            y.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for y in (self.w_q(x), self.w_k(memory), self.w_v(memory))
        )
        p = self.dropout if self.training else 0.0
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=p)
        return self.w_o(out.transpose(1, 2).flatten(2))


@layer.also_right
class HeadByHead(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.d = n_heads, d_model // n_heads
        self.w_q = torch.nn.Linear(d_model, d_model)
        self.w_k = torch.nn.Linear(d_model, d_model)
        self.w_v = torch.nn.Linear(d_model, d_model)
        self.w_o = torch.nn.Linear(d_model, d_model)
        self.drop = torch.nn.Dropout(dropout)

    def forward(self, x, memory=None, allowed=None):
        source = memory if memory is not None else x
        q, k, v = self.w_q(x), self.w_k(source), self.w_v(source)
        if allowed is not None and allowed.dim() == 4:
            allowed = allowed[:, 0]
        found = []
        for h in range(self.n_heads):
            mine = slice(h * self.d, (h + 1) * self.d)
            scores = q[..., mine] @ k[..., mine].mT / self.d**0.5
            if allowed is not None:
                scores = scores.masked_fill(allowed.logical_not(), float("-inf"))
            found.append(self.drop(torch.softmax(scores, dim=-1).nan_to_num(0.0)) @ v[..., mine])
        return self.w_o(torch.cat(found, dim=-1))


@layer.also_right
class WithEinsum(torch.nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.p = n_heads, dropout
        self.w_q, self.w_k, self.w_v, self.w_o = [torch.nn.Linear(d_model, d_model) for _ in range(4)]

    def forward(self, x, memory=None, allowed=None):
        m = x if memory is None else memory
        q, k, v = (y.reshape(*y.shape[:2], self.n_heads, -1) for y in (self.w_q(x), self.w_k(m), self.w_v(m)))
        scores = torch.einsum("bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k)
        largest = scores.amax(-1, keepdim=True)
        e = torch.exp(scores - largest)
        if allowed is not None:
            scores = torch.where(allowed, scores, -torch.inf)
            e = torch.exp(scores - scores.amax(-1, keepdim=True).nan_to_num(neginf=0.0))
        weights = e / e.sum(-1, keepdim=True).clamp(min=1e-300)
        if self.training and self.p:
            weights = weights * (torch.rand_like(weights) >= self.p) / (1 - self.p)
        return self.w_o(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))


layer.hints(
    "Follow the table above and write the shape after each step. Most steps are a function that you have written.",
    "`attn_ref.attention(q, k, v, allowed=allowed, return_weights=True)` gives output and weights for split heads. "
    "Dropout falls on the weights, so the output has to be made from them once more.",
    "Split w_q(x), w_k(source) and w_v(source). Get the weights; drop some of them, with `training=self.training`; "
    "multiply by the split values; merge; apply w_o.",
)
layer.errors(
    (
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (30x4 and 12x12)",
        "<code>w_o</code> expects the whole width. Were the heads merged before it?",
    ),
)

# --- 6.4 -------------------------------------------------------------------------------------------------------------


def weights_from_torch(module):
    """A state dict of the layer of 6.3 with the weights of an nn.MultiheadAttention, copied."""
    names = ("w_q", "w_k", "w_v")
    found = {f"{name}.weight": part for name, part in zip(names, module.in_proj_weight.chunk(3), strict=True)}
    found["w_o.weight"] = module.out_proj.weight
    if module.in_proj_bias is not None:
        found |= {f"{name}.bias": part for name, part in zip(names, module.in_proj_bias.chunk(3), strict=True)}
        found["w_o.bias"] = module.out_proj.bias
    return {name: part.detach().clone() for name, part in found.items()}


unpacking = Exercise(
    "6.4",
    "Unpack PyTorch's weights",
    reference=weights_from_torch,
    minutes=10,
    forbids=("attn_ref.MultiHeadAttention",),
)


def torchs_layer(packed, out, n_heads, bias):
    """nn.MultiheadAttention in float64: packed (3·d_model, d_model + 1), the last column its bias; out likewise."""
    module = torch.nn.MultiheadAttention(packed.shape[1] - 1, n_heads, bias=bias, batch_first=True).double().eval()
    with torch.no_grad():
        module.in_proj_weight.copy_(packed[:, :-1])
        module.out_proj.weight.copy_(out[:, :-1])
        if bias:
            module.in_proj_bias.copy_(packed[:, -1])
            module.out_proj.bias.copy_(out[:, -1])
    return module


@unpacking.probe
def drive_unpacking(answer, packed, out, n_heads, bias=True, x=None, ask="tensors"):
    """The dictionary; or what a layer that has loaded it gives; or whether writing to it reaches the module."""
    module = torchs_layer(packed, out, n_heads, bias)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = answer(module)
    learns = all(parameter.requires_grad for parameter in module.parameters())
    if ask == "tensors":
        return {"the names": " ".join(sorted(found)), **found}
    if ask == "copies":
        with torch.no_grad():
            for value in found.values():
                value.add_(1.0)
        same = all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        return {
            "names": len(found),
            "after writing to the tensors, the module is the same": same,
            "the module can still learn": learns,
        }
    made = attn_ref.MultiHeadAttention(packed.shape[1] - 1, n_heads, bias=bias).double().eval()
    made.load_state_dict(found)
    return {"output": made(x), "it equals the module's own": torch.allclose(made(x), module(x, x, x)[0], atol=1e-9)}


def packed_weights(rng, d_model):
    return dict(packed=tensor(rng, 3 * d_model, d_model + 1), out=tensor(rng, d_model, d_model + 1))


@unpacking.criterion("every tensor has its name and its numbers", points=2)
def tensors_by_name(rng):
    small = torch.arange(1.0, 19.0, dtype=torch.float64).reshape(6, 3)
    yield dict(packed=small, out=-small[:2], n_heads=1)
    yield dict(n_heads=3, **packed_weights(rng, 6))
    yield dict(n_heads=1, **packed_weights(rng, 1))
    case = packed_weights(rng, 4)
    for packed in case.values():
        packed[:, -1] = 0.0  # biases of 0, as a new module has them
    yield dict(n_heads=2, **case)


@unpacking.criterion("a layer that loads them gives the module's output", points=1)
def outputs_of_loaded(rng):
    yield dict(n_heads=2, x=tensor(rng, 2, 5, 8), ask="output", **packed_weights(rng, 8))
    yield dict(n_heads=6, x=tensor(rng, 1, 4, 6), ask="output", **packed_weights(rng, 6))


@unpacking.criterion("without biases there are four tensors", points=1)
def without_biases(rng):
    yield dict(n_heads=2, bias=False, **packed_weights(rng, 4))
    yield dict(n_heads=2, bias=False, x=tensor(rng, 2, 5, 4), ask="output", **packed_weights(rng, 4))


@unpacking.criterion("they are copies, and the module is as it was", points=1)
def are_copies(rng):
    yield dict(n_heads=2, ask="copies", **packed_weights(rng, 4))


@unpacking.mistake(
    "Keys and values have changed places. The module packs queries, keys, values from top to bottom; which third do you call w_k?"
)
def keys_and_values_exchanged(module):
    names = ("w_q", "w_v", "w_k")
    found = {f"{name}.weight": part for name, part in zip(names, module.in_proj_weight.chunk(3), strict=True)}
    found["w_o.weight"] = module.out_proj.weight
    if module.in_proj_bias is not None:
        found |= {f"{name}.bias": part for name, part in zip(names, module.in_proj_bias.chunk(3), strict=True)}
        found["w_o.bias"] = module.out_proj.bias
    return {name: part.detach().clone() for name, part in found.items()}


@unpacking.mistake(
    "Queries and keys have changed places, and scores q kᵀ come out transposed. The module packs queries, keys, values from top to bottom; which third do you call w_q?"
)
def queries_and_keys_exchanged(module):
    names = ("w_k", "w_q", "w_v")
    found = {f"{name}.weight": part for name, part in zip(names, module.in_proj_weight.chunk(3), strict=True)}
    found["w_o.weight"] = module.out_proj.weight
    if module.in_proj_bias is not None:
        found |= {f"{name}.bias": part for name, part in zip(names, module.in_proj_bias.chunk(3), strict=True)}
        found["w_o.bias"] = module.out_proj.bias
    return {name: part.detach().clone() for name, part in found.items()}


@unpacking.mistake(
    "w_o is right, and the three others are turned. The packed matrix is (3·d_model, d_model): each third already has a row for each output, as nn.Linear wants it. What is the transpose for?"
)
def thirds_turned(module):
    names = ("w_q", "w_k", "w_v")
    found = {f"{name}.weight": part.T for name, part in zip(names, module.in_proj_weight.chunk(3), strict=True)}
    found["w_o.weight"] = module.out_proj.weight
    if module.in_proj_bias is not None:
        found |= {f"{name}.bias": part for name, part in zip(names, module.in_proj_bias.chunk(3), strict=True)}
        found["w_o.bias"] = module.out_proj.bias
    return {name: part.detach().clone() for name, part in found.items()}


@unpacking.mistake(
    "The copies are right, and the module can no longer learn: `requires_grad_(False)` on a module holds for all its parameters from then on. How do you get a copy without gradient of one tensor?"
)
def learning_switched_off(module):
    module.requires_grad_(False)
    names = ("w_q", "w_k", "w_v")
    found = {f"{name}.weight": part for name, part in zip(names, module.in_proj_weight.chunk(3), strict=True)}
    found["w_o.weight"] = module.out_proj.weight
    if module.in_proj_bias is not None:
        found |= {f"{name}.bias": part for name, part in zip(names, module.in_proj_bias.chunk(3), strict=True)}
        found["w_o.bias"] = module.out_proj.bias
    return {name: part.clone() for name, part in found.items()}


@unpacking.mistake(
    "With bias=False your dictionary holds None under the names of the biases, and a layer without biases refuses names it does not know. Which four names remain?"
)
def none_for_missing_biases(module):
    names = ("w_q", "w_k", "w_v")
    found = {f"{name}.weight": part for name, part in zip(names, module.in_proj_weight.chunk(3), strict=True)}
    biases = (None, None, None) if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    found |= {f"{name}.bias": part for name, part in zip(names, biases, strict=True)}
    found |= {"w_o.weight": module.out_proj.weight, "w_o.bias": module.out_proj.bias}
    return {name: None if part is None else part.detach().clone() for name, part in found.items()}


@unpacking.mistake(
    "Your matrices are turned. nn.Linear keeps its weight as (outputs, inputs), and so does the packed matrix; what would a transpose be for?"
)
def matrices_turned(module):
    names = ("w_q", "w_k", "w_v")
    found = {f"{name}.weight": part.T for name, part in zip(names, module.in_proj_weight.chunk(3), strict=True)}
    found["w_o.weight"] = module.out_proj.weight.T
    if module.in_proj_bias is not None:
        found |= {f"{name}.bias": part for name, part in zip(names, module.in_proj_bias.chunk(3), strict=True)}
        found["w_o.bias"] = module.out_proj.bias
    return {name: part.detach().clone() for name, part in found.items()}


@unpacking.mistake(
    "You cut the packed matrix along its inputs. The three matrices lie below each other, (3·d_model, d_model): along which axis are the thirds?"
)
def cut_along_the_inputs(module):
    names = ("w_q", "w_k", "w_v")
    thirds = module.in_proj_weight.chunk(3, dim=1)
    found = {f"{name}.weight": part for name, part in zip(names, thirds, strict=False)}
    found["w_o.weight"] = module.out_proj.weight
    if module.in_proj_bias is not None:
        found |= {f"{name}.bias": part for name, part in zip(names, module.in_proj_bias.chunk(3), strict=True)}
        found["w_o.bias"] = module.out_proj.bias
    return {name: part.detach().clone() for name, part in found.items()}


@unpacking.mistake(
    "You take every third row. Some checkpoints are packed that way; here the first d_model rows make the queries, all of them. How many rows does each third have, and where do they lie?"
)
def every_third_row(module):
    names = ("w_q", "w_k", "w_v")
    found = {f"{name}.weight": module.in_proj_weight[i::3] for i, name in enumerate(names)}
    found["w_o.weight"] = module.out_proj.weight
    if module.in_proj_bias is not None:
        found |= {f"{name}.bias": module.in_proj_bias[i::3] for i, name in enumerate(names)}
        found["w_o.bias"] = module.out_proj.bias
    return {name: part.detach().clone() for name, part in found.items()}


@unpacking.mistake(
    "The rows are grouped by head in your reading: each head's queries, keys and values together. nn.MultiheadAttention packs all queries first; the heads are cut later, by the split. Where does n_heads enter your code, and need it?"
)
def packed_by_head(module):
    names, h = ("w_q", "w_k", "w_v"), module.num_heads
    parts = module.in_proj_weight.unflatten(0, (h, 3, -1)).unbind(1)
    found = {f"{name}.weight": part.flatten(0, 1) for name, part in zip(names, parts, strict=True)}
    found["w_o.weight"] = module.out_proj.weight
    if module.in_proj_bias is not None:
        parts = module.in_proj_bias.unflatten(0, (h, 3, -1)).unbind(1)
        found |= {f"{name}.bias": part.flatten() for name, part in zip(names, parts, strict=True)}
        found["w_o.bias"] = module.out_proj.bias
    return {name: part.detach().clone() for name, part in found.items()}


@unpacking.mistake(
    "The four matrices are right and the biases stayed behind. A module with biases has two more parameters: print `module.state_dict().keys()`."
)
def biases_left_behind(module):
    names = ("w_q", "w_k", "w_v")
    found = {f"{name}.weight": part for name, part in zip(names, module.in_proj_weight.chunk(3), strict=True)}
    found["w_o.weight"] = module.out_proj.weight
    return {name: part.detach().clone() for name, part in found.items()}


@unpacking.mistake(
    "The bias of the output matrix is missing from your dictionary. The packed bias holds three of the four; where is the fourth?"
)
def output_bias_left_behind(module):
    names = ("w_q", "w_k", "w_v")
    found = {f"{name}.weight": part for name, part in zip(names, module.in_proj_weight.chunk(3), strict=True)}
    found["w_o.weight"] = module.out_proj.weight
    if module.in_proj_bias is not None:
        found |= {f"{name}.bias": part for name, part in zip(names, module.in_proj_bias.chunk(3), strict=True)}
    return {name: part.detach().clone() for name, part in found.items()}


@unpacking.mistake(
    "With bias=False the module's biases are None, and None cannot be cut. What does the dictionary hold in that case?"
)
def fails_without_biases(module):
    names = ("w_q", "w_k", "w_v")
    found = {f"{name}.weight": part for name, part in zip(names, module.in_proj_weight.chunk(3), strict=True)}
    found |= {f"{name}.bias": part for name, part in zip(names, module.in_proj_bias.chunk(3), strict=True)}
    found |= {"w_o.weight": module.out_proj.weight, "w_o.bias": module.out_proj.bias}
    return {name: part.detach().clone() for name, part in found.items()}


@unpacking.mistake(
    "With bias=False you make up biases of 0. The layer to load them into has none either, and refuses a name it does not know. Which four names remain?"
)
def zeros_for_missing_biases(module):
    names = ("w_q", "w_k", "w_v")
    found = {f"{name}.weight": part for name, part in zip(names, module.in_proj_weight.chunk(3), strict=True)}
    found["w_o.weight"] = module.out_proj.weight
    with_bias = module.in_proj_bias is not None
    packed = module.in_proj_bias if with_bias else module.in_proj_weight.new_zeros(3 * module.embed_dim)
    found |= {f"{name}.bias": part for name, part in zip(names, packed.chunk(3), strict=True)}
    found["w_o.bias"] = module.out_proj.bias if with_bias else module.in_proj_weight.new_zeros(module.embed_dim)
    return {name: part.detach().clone() for name, part in found.items()}


@unpacking.mistake(
    "Right numbers, and they are windows into the module: `chunk` and a slice make views, and `detach` does not copy either. Whoever writes to your tensors changes the module. Which call copies?"
)
def windows_into_the_module(module):
    names = ("w_q", "w_k", "w_v")
    found = {f"{name}.weight": part for name, part in zip(names, module.in_proj_weight.chunk(3), strict=True)}
    found["w_o.weight"] = module.out_proj.weight
    if module.in_proj_bias is not None:
        found |= {f"{name}.bias": part for name, part in zip(names, module.in_proj_bias.chunk(3), strict=True)}
        found["w_o.bias"] = module.out_proj.bias
    return {name: part.detach() for name, part in found.items()}


@unpacking.also_right
def by_slices(module):
    d = module.embed_dim
    state = {name: value.clone() for name, value in module.state_dict().items()}
    found = {"w_o.weight": state["out_proj.weight"]}
    if "out_proj.bias" in state:
        found["w_o.bias"] = state["out_proj.bias"]
    for place, name in enumerate(["w_q", "w_k", "w_v"]):
        rows = slice(place * d, (place + 1) * d)
        found[name + ".weight"] = state["in_proj_weight"][rows]
        if "in_proj_bias" in state:
            found[name + ".bias"] = state["in_proj_bias"][rows]
    return found


@unpacking.also_right
def as_one_table(module):
    three = module.in_proj_weight.data.view(3, module.embed_dim, -1)
    out = dict(zip(["w_q.weight", "w_k.weight", "w_v.weight"], three, strict=True))
    out["w_o.weight"] = module.out_proj.weight.data
    if module.out_proj.bias is not None:
        out["w_q.bias"], out["w_k.bias"], out["w_v.bias"] = module.in_proj_bias.data.view(3, -1)
        out["w_o.bias"] = module.out_proj.bias.data
    return {name: torch.tensor(value.tolist(), dtype=value.dtype) for name, value in out.items()}


unpacking.hints(
    "Look at the four names printed above the exercise. Which two tensors hold three things at once?",
    "`chunk(3)` cuts a tensor into thirds along its first axis: queries, keys, values. It makes views; `.clone()` "
    "copies. Test `module.in_proj_bias is None` before you cut it.",
)
unpacking.errors(
    (
        "AttributeError: 'NoneType' object has no attribute 'chunk'",
        "A module made with <code>bias=False</code> has None where its biases would be.",
    ),
)

# --- 6.5 -------------------------------------------------------------------------------------------------------------


def to_torch_mask(allowed, n_heads):
    """The attn_mask of nn.MultiheadAttention: True = forbidden.  (n, m) -> (n, m), (B, n, m) -> (B·H, n, m)"""
    return ~allowed if allowed.ndim == 2 else ~allowed.repeat_interleave(n_heads, dim=0)


polarity = Exercise("6.5", "The other polarity", reference=to_torch_mask, minutes=8)


def some_mask(rng, *shape):
    return torch.from_numpy(rng.random(shape) < 0.5)


@polarity.criterion("what may be attended to becomes False, and the rest True", points=1)
def one_mask_for_all(rng):
    yield dict(allowed=torch.tensor([[True, False, False], [True, True, False]]), n_heads=2)
    yield dict(allowed=some_mask(rng, 5, 7), n_heads=3)
    yield dict(allowed=torch.ones(4, 4, dtype=torch.bool).tril(), n_heads=4)


@polarity.criterion("a mask for each sentence is repeated for each of its heads", points=2)
def a_mask_a_sentence(rng):
    yield dict(allowed=torch.tensor([[[True, False]], [[False, True]]]), n_heads=2)
    yield dict(allowed=some_mask(rng, 2, 5, 7), n_heads=3)
    yield dict(allowed=some_mask(rng, 3, 4, 4), n_heads=3)
    yield dict(allowed=some_mask(rng, 3, 3, 5), n_heads=4)


@polarity.criterion("one head, one sentence, one query are no exceptions", points=1)
def ones_in_masks(rng):
    yield dict(allowed=some_mask(rng, 3, 4, 6), n_heads=1)
    yield dict(allowed=some_mask(rng, 1, 4, 6), n_heads=2)
    yield dict(allowed=some_mask(rng, 1, 4, 6), n_heads=1)
    yield dict(allowed=some_mask(rng, 3, 1, 1), n_heads=2)
    yield dict(allowed=some_mask(rng, 1, 6), n_heads=2)
    yield dict(allowed=torch.zeros(6, 1, dtype=torch.bool), n_heads=3)
    yield dict(allowed=torch.ones(2, 3, 3, dtype=torch.bool), n_heads=2)


polarity.leaves_inputs_alone(points=1)


@polarity.mistake(
    "The mask is as it came. In nn.MultiheadAttention True forbids: what happens to a causal mask that is passed as it is?"
)
def not_turned_over(allowed, n_heads):
    return allowed.clone() if allowed.ndim == 2 else allowed.repeat_interleave(n_heads, dim=0)


@polarity.mistake(
    "Your masks come in the order 0, 1, 0, 1, the whole batch again and again. Row b·H + h of the result belongs to sentence b: with two sentences and two heads, whose masks are rows 0 and 1?"
)
def batch_after_batch(allowed, n_heads):
    return ~allowed if allowed.ndim == 2 else ~allowed.repeat(n_heads, 1, 1)


@polarity.mistake(
    "Turned over, but there is still one mask a sentence, (B, n, m). nn.MultiheadAttention wants one for every sentence and head. How many is that?"
)
def one_a_sentence(allowed, n_heads):
    return ~allowed


@polarity.mistake(
    "Heads have an axis of their own in your result. nn.MultiheadAttention takes three axes: sentences and heads share the first."
)
def heads_apart(allowed, n_heads):
    return ~allowed if allowed.ndim == 2 else ~allowed[:, None].expand(-1, n_heads, -1, -1)


@polarity.mistake("An (n, m) mask serves all sentences and heads, and stays (n, m). Why do you repeat it?")
def repeated_without_need(allowed, n_heads):
    return ~(allowed[None] if allowed.ndim == 2 else allowed).repeat_interleave(n_heads, dim=0)


@polarity.mistake(
    "This is an additive mask, 0 and -inf. The module takes that too, and the contract asks for True and False. Which of them forbids here?"
)
def additive(allowed, n_heads):
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf)
    return mask if allowed.ndim == 2 else mask.repeat_interleave(n_heads, dim=0)


@polarity.mistake(
    "Your result holds the numbers 0 and 1. torch would add them to the scores, as it does with every mask of numbers. Which dtype makes it a ban?"
)
def zeros_and_ones(allowed, n_heads):
    mask = 1 - allowed.int()
    return mask if allowed.ndim == 2 else mask.repeat_interleave(n_heads, dim=0)


@polarity.mistake(
    "Your mask holds 1.0 and 0.0. The module adds a mask of numbers to the scores, and 1 more is no ban. Which dtype does the contract ask for?"
)
def ones_in_floats(allowed, n_heads):
    mask = (~allowed).float()
    return mask if allowed.ndim == 2 else mask.repeat_interleave(n_heads, dim=0)


@polarity.mistake(
    "Rows are keys and columns are queries in your result. Turning a mask over exchanges True and False, and no axes."
)
def axes_exchanged(allowed, n_heads):
    turned = ~allowed.transpose(-1, -2)
    return turned if allowed.ndim == 2 else turned.repeat_interleave(n_heads, dim=0)


@polarity.mistake(
    "Right, and the caller's mask has been turned over as well: `logical_not_` works in place. What does `~` return?"
)
def turned_in_place(allowed, n_heads):
    allowed.logical_not_()
    return allowed if allowed.ndim == 2 else allowed.repeat_interleave(n_heads, dim=0)


@polarity.also_right
def stacked_one_by_one(allowed, n_heads):
    if allowed.dim() == 2:
        return torch.logical_not(allowed)
    return torch.stack([allowed[b] == False for b in range(len(allowed)) for _ in range(n_heads)])  # noqa: E712


@polarity.also_right
def by_flattening(allowed, n_heads):
    forbidden = torch.where(allowed, False, True)
    if len(allowed.shape) == 3:
        forbidden = forbidden.unsqueeze(1).repeat(1, n_heads, 1, 1).flatten(0, 1)
    return forbidden


@polarity.also_right
def as_numpy_lists(allowed, n_heads):
    forbidden = np.logical_not(allowed.numpy())
    return (forbidden if forbidden.ndim == 2 else np.repeat(forbidden, n_heads, axis=0)).tolist()


polarity.hints(
    "`~` turns a Boolean tensor over. That is all there is to do for two axes.",
    "For three axes, sentence 0 comes for all heads before sentence 1. One call of torch repeats each entry before it "
    "goes to the next, another repeats the whole; look up both.",
)
polarity.errors(
    (
        "RuntimeError: The shape of the 3D attn_mask is torch.Size([2, 5, 5]), but should be (6, 5, 5)",
        "With 2 sentences and 3 heads it wants 2 · 3 masks.",
    ),
)

# --- 6.6 -------------------------------------------------------------------------------------------------------------


def prune_heads(w_o, heads, n_heads):
    """w_o without what these heads bring: their columns are 0.  (d_model, H·d) -> (d_model, H·d)"""
    d = w_o.shape[1] // n_heads
    pruned = w_o.clone()
    for h in heads:
        pruned[:, h * d : (h + 1) * d] = 0
    return pruned


pruning = Exercise("6.6", "Take heads out", reference=prune_heads, minutes=8)


@pruning.probe
def drive_pruning(answer, w_o, heads, n_heads):
    """The pruned matrix, which is then written to: where it is w_o itself, that shows in w_o."""
    pruned = answer(w_o, heads, n_heads)
    if not torch.is_tensor(pruned):
        return pruned
    found = pruned.clone()
    pruned += 1
    return found


@pruning.criterion("the columns that read a head become 0, and all others stay", points=2)
def one_head_out(rng):
    yield dict(
        w_o=torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]], dtype=torch.float64), heads=[1], n_heads=2
    )
    yield dict(w_o=tensor(rng, 12, 12, scale=40), heads=[2], n_heads=4)
    yield dict(w_o=tensor(rng, 6, 6), heads=[0], n_heads=3)


@pruning.criterion("several heads, all of them, or none", points=1)
def several_heads_out(rng):
    yield dict(w_o=tensor(rng, 12, 12), heads=[4, 1], n_heads=6)
    yield dict(w_o=tensor(rng, 6, 6), heads=[], n_heads=2)
    yield dict(w_o=tensor(rng, 6, 6), heads=[0, 1, 2], n_heads=3)


@pruning.criterion("heads may hold more or fewer numbers than d_model, or one each", points=1)
def other_widths(rng):
    yield dict(w_o=tensor(rng, 5, 12), heads=[3], n_heads=4)
    yield dict(w_o=tensor(rng, 9, 6), heads=[1], n_heads=3)
    yield dict(w_o=tensor(rng, 4, 4), heads=[2], n_heads=4)
    yield dict(w_o=tensor(rng, 3, 5), heads=[0], n_heads=1)
    yield dict(w_o=tensor(rng, 1, 6), heads=[1], n_heads=2)
    yield dict(w_o=tensor(rng, 3, 1), heads=[], n_heads=1)


pruning.leaves_inputs_alone(points=1)


@pruning.mistake(
    "You empty rows. A row of w_o makes one number of the output from all heads; what belongs to a head are the inputs. Which axis of an nn.Linear weight are those?"
)
def rows_emptied(w_o, heads, n_heads):
    d = w_o.shape[1] // n_heads
    pruned = w_o.clone()
    for h in heads:
        pruned[h * d : (h + 1) * d] = 0
    return pruned


@pruning.mistake(
    "You empty every H-th column. After the merge the d numbers of a head are neighbours: which columns read head 1 of two heads with two numbers each?"
)
def every_hth_column(w_o, heads, n_heads):
    pruned = w_o.clone()
    for h in heads:
        pruned[:, h::n_heads] = 0
    return pruned


@pruning.mistake(
    "You empty one column for each head, the one that has the head's number. A head brings d numbers: where do they start, and where do they end?"
)
def one_column_a_head(w_o, heads, n_heads):
    pruned = w_o.clone()
    pruned[:, heads] = 0
    return pruned


@pruning.mistake("You keep the named heads and take out the others. `heads` are those that go.")
def kept_instead(w_o, heads, n_heads):
    d = w_o.shape[1] // n_heads
    pruned = torch.zeros_like(w_o)
    for h in heads:
        pruned[:, h * d : (h + 1) * d] = w_o[:, h * d : (h + 1) * d]
    return pruned


@pruning.mistake(
    "The columns are gone instead of 0, and the matrix no longer fits the merged heads. Which shape does the contract ask for?"
)
def columns_cut_away(w_o, heads, n_heads):
    d = w_o.shape[1] // n_heads
    kept = [h * d + i for h in range(n_heads) if h not in heads for i in range(d)]
    return w_o[:, kept]


@pruning.mistake(
    "The size of a head is computed from the number of rows. That is d_model, which need not be H·d. Which axis has a column for each number of each head?"
)
def size_from_the_rows(w_o, heads, n_heads):
    d = w_o.shape[0] // n_heads
    pruned = w_o.clone()
    for h in heads:
        pruned[:, h * d : (h + 1) * d] = 0
    return pruned


@pruning.mistake("Only the first of the named heads is taken out. What should happen to the others in `heads`?")
def only_the_first(w_o, heads, n_heads):
    d = w_o.shape[1] // n_heads
    pruned = w_o.clone()
    for h in heads[:1]:
        pruned[:, h * d : (h + 1) * d] = 0
    return pruned


@pruning.mistake(
    "Each turn of your loop starts from the full w_o again, so only the last head stays out. Where should the copy be made, and how often?"
)
def starts_anew_each_time(w_o, heads, n_heads):
    d = w_o.shape[1] // n_heads
    pruned = w_o.clone()
    for h in heads:
        pruned = w_o.clone()
        pruned[:, h * d : (h + 1) * d] = 0
    return pruned


@pruning.mistake("You count heads from 1. Head 0 owns the first d columns: where do those of head h start?")
def counted_from_one(w_o, heads, n_heads):
    d = w_o.shape[1] // n_heads
    pruned = w_o.clone()
    for h in heads:
        pruned[:, max(h - 1, 0) * d : max(h, 0) * d] = 0
    return pruned


@pruning.mistake(
    "Right, and the caller's w_o has lost its heads for good: you wrote into it. Which call gives a tensor of your own?"
)
def heads_lost_for_good(w_o, heads, n_heads):
    d = w_o.shape[1] // n_heads
    for h in heads:
        w_o[:, h * d : (h + 1) * d] = 0
    return w_o


@pruning.mistake(
    "With no head to take out you return w_o itself, so whoever writes to the result writes to the caller's matrix. The contract asks for a new one; where is the copy made?"
)
def handed_back_where_none_goes(w_o, heads, n_heads):
    if not heads:
        return w_o
    d = w_o.shape[1] // n_heads
    pruned = w_o.clone()
    for h in heads:
        pruned[:, h * d : (h + 1) * d] = 0
    return pruned


@pruning.mistake(
    "The matrix is right, and the caller's list `heads` is empty afterwards: `pop` takes out what it returns. Which loop reads a list and leaves it whole?"
)
def heads_popped(w_o, heads, n_heads):
    d = w_o.shape[1] // n_heads
    pruned = w_o.clone()
    while heads:
        h = heads.pop()
        pruned[:, h * d : (h + 1) * d] = 0
    return pruned


@pruning.also_right
def by_a_row_of_factors(w_o, heads, n_heads):
    keep = torch.tensor([0.0 if h in heads else 1.0 for h in range(n_heads)], dtype=w_o.dtype)
    return w_o * keep.repeat_interleave(w_o.shape[1] // n_heads)


@pruning.also_right
def through_three_axes(w_o, heads, n_heads):
    blocks = w_o.clone().view(len(w_o), n_heads, -1)
    blocks[:, list(heads)] = 0.0
    return blocks.view_as(w_o)


@pruning.also_right
def column_by_column(w_o, heads, n_heads):
    d = w_o.shape[1] // n_heads
    columns = [w_o[:, c] * (0 if c // d in heads else 1) for c in range(w_o.shape[1])]
    return torch.stack(columns, dim=1).tolist()


pruning.hints(
    "nn.Linear computes x @ weight.T, so a column of the weight meets one number of the input. Which numbers of the "
    "merged heads come from head h?",
    "Copy w_o. For each head in the list, set the d columns from h·d on to 0.",
)
pruning.errors(
    (
        "RuntimeError: a view of a leaf Variable that requires grad is being used in an in-place operation.",
        "You are writing into a parameter of a layer. Write into a copy of it.",
    ),
)

# --- 6.7 -------------------------------------------------------------------------------------------------------------


def grouped_query_attention(q, k, v):
    """Query head h reads KV head h // (Hq / Hkv).  (B, Hq, n, d), (B, Hkv, m, d), (B, Hkv, m, d_v) -> (B, Hq, n, d_v)"""
    return attn_ref.attention(q, k, v)


grouped = Exercise(
    "6.7",
    "Several heads read one",
    reference=grouped_query_attention,
    minutes=12,
    forbids=(
        "attn_ref.attention",
        "attn_ref.attention_scores",
        "attn_ref.MultiHeadAttention",
        "attn_ref.decode_step",
        "attn_ref.flash_forward",
        "attn_ref.prefill_in_chunks",
        "torch.nn.functional.scaled_dot_product_attention",
        "torch._C._nn.scaled_dot_product_attention",
        "torch.ops.aten.scaled_dot_product_attention",
    ),
)


@grouped.probe
def drive_grouped(answer, q, k, v, ask="output"):
    """The output; or which of the three a gradient reaches."""
    return answer(q, k, v) if ask == "output" else reached(answer, q=q, k=k, v=v)


def groups(rng, b, hq, hkv, n, m, d, d_v, scale=1.0):
    """Queries, keys and values with these sizes."""
    return dict(
        q=tensor(rng, b, hq, n, d, scale=scale), k=tensor(rng, b, hkv, m, d, scale=scale), v=tensor(rng, b, hkv, m, d_v)
    )


@grouped.criterion("neighbouring query heads share a KV head", points=2)
def neighbours_share(rng):
    v = torch.tensor([10.0, 20.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    yield dict(q=torch.ones(1, 4, 1, 1, dtype=torch.float64), k=torch.ones(1, 2, 1, 1, dtype=torch.float64), v=v)
    yield groups(rng, 2, 6, 3, 5, 7, 4, 3)
    yield groups(rng, 2, 6, 2, 5, 7, 4, 3)
    yield groups(rng, 3, 9, 3, 3, 3, 3, 3)


@grouped.criterion("any sizes, and both ends: a KV head for each query head (MHA), and one for all (MQA)", points=1)
def grouped_sizes(rng):
    yield groups(rng, 2, 4, 4, 5, 7, 3, 6)
    yield groups(rng, 2, 4, 1, 5, 7, 3, 6)
    yield groups(rng, 2, 1, 1, 3, 5, 4, 2)
    yield groups(rng, 1, 4, 2, 1, 6, 3, 5)
    yield groups(rng, 5, 4, 2, 6, 1, 3, 1)
    yield groups(rng, 2, 4, 2, 4, 4, 4, 4)
    yield groups(rng, 2, 8, 2, 3, 5, 1, 4)
    yield dict(groups(rng, 2, 4, 2, 3, 5, 6, 2), v=tensor(rng, 2, 2, 5, 2, scale=40))


@grouped.criterion("scores in the thousands neither overflow nor vanish", points=1)
def grouped_extremes(rng):
    yield groups(rng, 2, 6, 3, 5, 7, 4, 3, scale=60)
    case = groups(rng, 1, 4, 2, 3, 5, 4, 3, scale=60)
    yield dict(case, q=-case["q"].abs(), k=case["k"].abs())


@grouped.criterion("gradients reach q, k and v", points=1)
def grouped_gradients(rng):
    yield dict(groups(rng, 2, 4, 2, 3, 5, 4, 3), ask="gradient")


grouped.leaves_inputs_alone(points=1)


@grouped.mistake(
    "You repeat the KV heads as a whole, 0 1 0 1, where 0 0 1 1 is meant. Query heads 0 and 1 are neighbours; which KV head should both read?"
)
def repeated_as_a_whole(q, k, v):
    r = q.shape[1] // k.shape[1]
    k, v = k.repeat(1, r, 1, 1), v.repeat(1, r, 1, 1)
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


@grouped.mistake(
    "Your keys are shared as they should be, and your values in another order: 0 0 1 1 for one, 0 1 0 1 for the other. A head finds by one head's keys and reads another's values."
)
def values_in_another_order(q, k, v):
    r = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(r, dim=1), v.repeat(1, r, 1, 1)
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


@grouped.mistake("Every query head reads KV head 0. That is right where there is only one; where are the others used?")
def always_the_first(q, k, v):
    return (q @ k[:, :1].mT * q.shape[-1] ** -0.5).softmax(-1) @ v[:, :1]


@grouped.mistake(
    "You divide h by the number of KV heads. With 6 query heads and 3 KV heads a group has 2 members: which number tells the groups apart?"
)
def divided_by_the_count(q, k, v):
    of = [h // k.shape[1] for h in range(q.shape[1])]
    return (q @ k[:, of].mT * q.shape[-1] ** -0.5).softmax(-1) @ v[:, of]


@grouped.mistake(
    "You average the query heads of a group, so that as many come out as there are KV heads. Each query head asks its own question: how many heads should the output have?"
)
def queries_averaged(q, k, v):
    q = q.unflatten(1, (k.shape[1], -1)).mean(2)
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


@grouped.mistake(
    "torch refuses: 6 query heads and 3 KV heads do not broadcast, because neither number is 1. What has to happen to k and v first?"
)
def left_to_broadcasting(q, k, v):
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


@grouped.mistake("Bare dot products: the division by √d is missing. Sharing heads changes nothing about a score.")
def grouped_unscaled(q, k, v):
    r = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(r, dim=1), v.repeat_interleave(r, dim=1)
    return (q @ k.mT).softmax(-1) @ v


@grouped.mistake(
    "The root is taken of the length of the values. Which vectors make the dot product, and how long are they?"
)
def grouped_scaled_by_values(q, k, v):
    r = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(r, dim=1), v.repeat_interleave(r, dim=1)
    return (q @ k.mT * v.shape[-1] ** -0.5).softmax(-1) @ v


@grouped.mistake(
    "Softmax runs over the queries. Each query has a budget of its own: along which axis of (B, H, n, m) does it spend it?"
)
def grouped_shared_over_queries(q, k, v):
    r = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(r, dim=1), v.repeat_interleave(r, dim=1)
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-2) @ v


@grouped.mistake(
    "Right for small scores; exp of a few thousand is inf, and inf/inf is NaN. What does torch's softmax subtract before it exponentiates?"
)
def grouped_overflows(q, k, v):
    r = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(r, dim=1), v.repeat_interleave(r, dim=1)
    e = (q @ k.mT * q.shape[-1] ** -0.5).exp()
    return e / e.sum(-1, keepdim=True) @ v


@grouped.mistake(
    "You subtract one maximum from all scores. In a row far below it every exp is 0, and 0/0 is NaN. Whose maximum does each row need?"
)
def one_maximum_for_all_rows(q, k, v):
    r = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(r, dim=1), v.repeat_interleave(r, dim=1)
    scores = q @ k.mT * q.shape[-1] ** -0.5
    e = (scores - scores.max()).exp()
    return e / e.sum(-1, keepdim=True) @ v


@grouped.mistake(
    "You repeat tokens and not heads: `repeat_interleave` runs along the wrong axis. Which axis of (B, H_kv, m, d) counts the heads?"
)
def tokens_repeated(q, k, v):
    r = q.shape[1] // k.shape[1]
    b, h, m, d = k.shape
    k = k.repeat_interleave(r, dim=2).reshape(b, h * r, m, d)
    v = v.repeat_interleave(r, dim=2).reshape(b, h * r, m, -1)
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


@grouped.mistake(
    "Right, and the caller's queries have been scaled for good: `q *= ...` or `mul_` writes into them. Which form makes a new tensor?"
)
def grouped_in_place(q, k, v):
    r = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(r, dim=1), v.repeat_interleave(r, dim=1)
    q *= q.shape[-1] ** -0.5
    return (q @ k.mT).softmax(-1) @ v


@grouped.mistake(
    "The output is right, and keys and values get no gradient: your copies of them are cut off from the graph, by `detach`, `torch.tensor` or NumPy. Which call repeats heads and stays in torch?"
)
def copies_off_the_graph(q, k, v):
    r = q.shape[1] // k.shape[1]
    k, v = k.detach().repeat_interleave(r, dim=1), v.detach().repeat_interleave(r, dim=1)
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


@grouped.also_right
def queries_in_groups(q, k, v):
    b, hq, n, d = q.shape
    hkv = k.shape[1]
    folded = q.reshape(b, hkv, hq // hkv * n, d)  # one larger head for each KV head, and k is never copied
    weights = torch.softmax(folded @ k.transpose(2, 3) / d**0.5, dim=-1)
    return (weights @ v).reshape(b, hq, n, v.shape[-1])


@grouped.also_right
def head_after_head(q, k, v):
    r = q.shape[1] // k.shape[1]
    found = []
    for h in range(q.shape[1]):
        scores = q[:, h] @ k[:, h // r].mT * k.shape[-1] ** -0.5
        found.append(attn_ref.softmax(scores) @ v[:, h // r])
    return torch.stack(found, dim=1)


@grouped.also_right
def with_a_group_axis(q, k, v):
    q = q.unflatten(1, (k.shape[1], -1))
    scores = torch.einsum("bgrqd,bgkd->bgrqk", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bgrqk,bgke->bgrqe", scores.softmax(dim=-1), v).flatten(1, 2)


@grouped.also_right
def by_a_list_of_heads(q, k, v):
    which = torch.arange(q.shape[1]) // (q.shape[1] // k.shape[1])
    scores = q @ k[:, which].transpose(-1, -2) / np.sqrt(q.shape[-1])
    return torch.softmax(scores, -1) @ v[:, which]


grouped.hints(
    "How many query heads share one KV head? With 6 and 3 it is 2. Write down which KV head the query heads 0 to 5 read.",
    "Make k and v as tall as q along the axis of heads: each head r times before the next comes. After that it is the "
    "attention of chapter 02, with torch's softmax.",
)
grouped.errors(
    (
        "RuntimeError: The size of tensor a (6) must match the size of tensor b (3) at non-singleton dimension 1",
        "Broadcasting stretches an axis only where its length is 1. Axis 1 counts heads: k and v have fewer.",
    ),
)

# --- 6.8 -------------------------------------------------------------------------------------------------------------


def attention_parameters(d_model, n_heads, n_kv_heads, d_head):
    """Weights of W_q, W_k, W_v and W_o, without biases.  -> int"""
    return cost.attention_parameters(d_model, n_heads, n_kv_heads, d_head)


counting = Exercise(
    "6.8",
    "How many weights",
    reference=attention_parameters,
    minutes=6,
    forbids=("attn_ref.cost.attention_parameters", "attn_ref.cost.projection_flops", "attn_ref.MultiHeadAttention"),
)


@counting.criterion("as many KV heads as heads, and a whole number", points=1, same_dtype=True)
def as_many(rng):
    yield dict(d_model=4, n_heads=2, n_kv_heads=2, d_head=2)
    yield dict(d_model=768, n_heads=12, n_kv_heads=12, d_head=64)


@counting.criterion("fewer KV heads make W_k and W_v smaller, and nothing else", points=2)
def fewer(rng):
    yield dict(d_model=512, n_heads=8, n_kv_heads=2, d_head=64)
    yield dict(d_model=4096, n_heads=32, n_kv_heads=1, d_head=128)
    h = int(rng.integers(2, 5))
    yield dict(d_model=24 * h, n_heads=6 * h, n_kv_heads=h, d_head=4)


@counting.criterion("heads of any size, also where H·d is not d_model", points=1)
def own_head_size(rng):
    yield dict(d_model=3, n_heads=2, n_kv_heads=1, d_head=5)
    yield dict(d_model=1024, n_heads=128, n_kv_heads=128, d_head=128)
    yield dict(d_model=1, n_heads=1, n_kv_heads=1, d_head=1)


@counting.mistake(
    "Four square matrices are right for MHA alone. Which of the four shrink when several heads share keys and values?"
)
def four_squares(d_model, n_heads, n_kv_heads, d_head):
    return 4 * d_model**2


@counting.mistake("You count keys and values for every query head. How many heads do W_k and W_v make?")
def no_sharing(d_model, n_heads, n_kv_heads, d_head):
    return 4 * d_model * n_heads * d_head


@counting.mistake("The output matrix is missing: W_o reads all H·d numbers and writes d_model.")
def without_w_o(d_model, n_heads, n_kv_heads, d_head):
    return d_model * d_head * (n_heads + 2 * n_kv_heads)


@counting.mistake("Keys and values are counted once together. They have a matrix each.")
def keys_and_values_once(d_model, n_heads, n_kv_heads, d_head):
    return d_model * d_head * (2 * n_heads + n_kv_heads)


@counting.mistake("You let the queries shrink too. In GQA every query head keeps its own projection.")
def queries_shrink_too(d_model, n_heads, n_kv_heads, d_head):
    return d_model * d_head * (n_heads + 3 * n_kv_heads)


@counting.mistake("Biases are counted in. The contract asks for the weights of the four matrices alone.")
def with_biases(d_model, n_heads, n_kv_heads, d_head):
    return 2 * d_model * d_head * (n_heads + n_kv_heads) + d_head * (n_heads + 2 * n_kv_heads) + d_model


@counting.mistake("Your W_q and W_o are squares of d_model. They are d_model by H·d, and H·d may differ from d_model.")
def squares_for_q_and_o(d_model, n_heads, n_kv_heads, d_head):
    return 2 * d_model**2 + 2 * d_model * n_kv_heads * d_head


@counting.mistake(
    "W_o is counted as a square of d_model. It reads H·d numbers: how many columns has it, and how many rows?"
)
def square_for_the_output(d_model, n_heads, n_kv_heads, d_head):
    return d_model * d_head * (n_heads + 2 * n_kv_heads) + d_model**2


@counting.mistake("This is the count for a single head. How many query heads and KV heads are there?")
def for_one_head(d_model, n_heads, n_kv_heads, d_head):
    return 4 * d_model * d_head


@counting.mistake("You divide d_model by n_heads for the size of a head. It is given, and need not be that.")
def size_worked_out(d_model, n_heads, n_kv_heads, d_head):
    return 2 * d_model * (d_model // n_heads) * (n_heads + n_kv_heads)


@counting.mistake(
    "The right count as a float. Beyond 2⁵³ a float no longer counts by ones; which of your operations leaves the whole numbers?"
)
def counted_in_floats(d_model, n_heads, n_kv_heads, d_head):
    return 2 * d_model * n_heads * d_head * (1 + n_kv_heads / n_heads)


@counting.also_right
def matrix_by_matrix(d_model, n_heads, n_kv_heads, d_head):
    w_q = w_o = d_model * (n_heads * d_head)
    w_k = w_v = d_model * (n_kv_heads * d_head)
    return w_q + w_k + w_v + w_o


@counting.also_right
def counted_on_empty_matrices(d_model, n_heads, n_kv_heads, d_head):
    rows = (n_heads, n_kv_heads, n_kv_heads, n_heads)
    return sum(torch.empty(count * d_head, d_model, device="meta").numel() for count in rows)


@counting.also_right
def as_a_numpy_number(d_model, n_heads, n_kv_heads, d_head):
    return np.dot([1, 2, 1], np.array([n_heads, n_kv_heads, n_heads]) * d_model * d_head)


counting.hints(
    "Write the shape of each of the four matrices before you multiply anything.",
    "W_q turns d_model numbers into n_heads · d_head, and W_o turns those back. W_k and W_v make n_kv_heads · d_head each.",
)

# --- quiz and written question ---------------------------------------------------------------------------------------

what_a_head_reads = Quiz(
    "6.a",
    "A layer has d_model = 512 and 8 heads. What does head 3 see of a token?",
    {
        "a": (
            "The numbers 192 to 255 of its vector.",
            "That is the slice of the query (and key, and value) that belongs to head 3. Before the cut w_q has mixed all 512 numbers into it.",
        ),
        "b": (
            "All 512 numbers, through 64 rows each of w_q, w_k and w_v.",
            "Yes: the projections come first, and what is cut are their results.",
        ),
        "c": (
            "An eighth of the tokens.",
            "That is what a reshape without an exchange of axes would do. Every head sees every token that the mask allows.",
        ),
        "d": (
            "What heads 0 to 2 have left over.",
            "Heads do not know of each other; they run side by side. Only w_o brings them together.",
        ),
    },
    right="b",
)

more_heads = Quiz(
    "6.b",
    "You go from 8 heads to 16 at d_model = 512, with heads of d_model / H numbers. What doubles?",
    {
        "a": (
            "The number of weights.",
            "W_q, W_k, W_v and W_o stay 512 by 512; their rows and columns are dealt out to more heads.",
        ),
        "b": (
            "The multiplications for the scores.",
            "Twice as many maps, each entry half as long a dot product: n · n · 512 in total, as before.",
        ),
        "c": (
            "The KV cache of a token.",
            "It holds 2 · H · d numbers, and H · d is 512 in both.",
        ),
        "d": (
            "The number of maps, and with it the memory of the weights n × n.",
            "Yes: one map a head. The heads get smaller, and at some point too small to tell many keys apart.",
        ),
    },
    right="d",
)

which_polarity = Quiz(
    "6.c",
    "`mask` is True where a token may attend. Which call is right?",
    {
        "a": (
            "`F.scaled_dot_product_attention(q, k, v, attn_mask=mask)`",
            "Yes: there True takes part, as in this course.",
        ),
        "b": (
            "`nn.MultiheadAttention(...)(x, x, x, attn_mask=mask)`",
            "There True forbids. With a causal mask every token would see the future alone, without an error.",
        ),
        "c": (
            "`F.scaled_dot_product_attention(q, k, v, attn_mask=~mask)`",
            "The function has this course's polarity; turned over, the mask allows what it should forbid.",
        ),
        "d": (
            "`nn.MultiheadAttention(...)(x, x, x, attn_mask=mask.float())`",
            "Numbers are added to the scores: 1 where allowed, 0 where not. That bans nothing and tilts a little.",
        ),
    },
    right="a",
)

what_gqa_saves = Quiz(
    "6.d",
    "A model goes from 32 KV heads to 8, with 32 query heads as before. What happens when it writes a text?",
    {
        "a": (
            "The scores need a quarter of the multiplications.",
            "All 32 query heads still meet all keys. What is shared are the keys, and not the questions.",
        ),
        "b": (
            "Four query heads have the same map.",
            "They share keys, and ask with queries of their own, so their maps differ.",
        ),
        "c": (
            "The cache is a quarter, and so is what must be read from it for each token.",
            "Yes: K and V of 8 heads in place of 32. Writing is bound by that reading, so it gets faster.",
        ),
        "d": (
            "The whole model is a quarter as large.",
            "Only w_k and w_v shrink: of the layer's four matrices, two are left whole and two are a quarter.",
        ),
    },
    right="c",
)

cut_and_share = Written(
    "6.w",
    "Cut and share",
    minutes=10,
    rubric=(
        "Separates where a head looks from what it is worth, with an ablation that also removes several heads; says what averaging does and that training must follow; tells the cache from the weights, with the factor.",
        "The same points; one without its reason or its number.",
        "One right point (maps are not importance, or averaging harms, or only the cache shrinks), or a wrong link among several.",
        "Says that it is risky, without a reason from the chapter.",
    ),
)
