"""Chapter 07, a transformer that learns to point: norms, the block, the loss, and the study of single heads."""

import numpy as np
import torch
from torch import nn

import attn_ref
from autograder.exercise import Exercise, Quiz, Written


def tensor(rng, *shape, scale=1.0):
    """Normal numbers as a float64 tensor."""
    return torch.from_numpy(scale * rng.normal(size=shape))


def shares(rng, *shape):
    """Rows of weights that sum to 1, some of them sharp."""
    return torch.softmax(tensor(rng, *shape, scale=2.0), -1)


# --- 7.1 -------------------------------------------------------------------------------------------------------------


def layer_norm(x, gain, bias, eps):
    """Each vector shifted to mean 0 and scaled to variance 1, then gain · x + bias.  (..., d) -> (..., d)"""
    return attn_ref.layer_norm(x, gain, bias, eps)


norm = Exercise(
    "7.1",
    "Every token to the same scale",
    reference=layer_norm,
    minutes=12,
    forbids=(
        "attn_ref.layer_norm",
        "attn_ref.block.Norm",
        "torch.nn.LayerNorm",
        "torch.nn.functional.layer_norm",
        "torch.layer_norm",
        "torch.native_layer_norm",
        "torch.nn.GroupNorm",
        "torch.nn.functional.group_norm",
        "torch.nn.InstanceNorm1d",
        "torch.nn.functional.instance_norm",
        "torch.nn.functional.batch_norm",
    ),
)


@norm.criterion("each token gets mean 0 and variance 1, then its gain and its bias", points=2)
def normalised(rng):
    one, two = torch.ones(2, dtype=torch.float64), torch.tensor([0.0, 10.0], dtype=torch.float64)
    yield dict(x=torch.tensor([[1.0, 3.0]], dtype=torch.float64), gain=one, bias=two, eps=0.0)
    yield dict(x=tensor(rng, 5, 7, scale=3), gain=tensor(rng, 7), bias=30 * tensor(rng, 7), eps=1e-5)
    yield dict(x=tensor(rng, 4, 4) + 2, gain=tensor(rng, 4), bias=tensor(rng, 4), eps=1e-5)


@norm.criterion("any number of leading axes, one vector alone included", points=1)
def norm_axes(rng):
    for shape in ((2, 5, 7), (7,), (3, 3, 3), (2, 3, 5, 4), (1, 1, 4), (1, 3, 4), (2, 1, 5), (6, 1)):
        yield dict(x=tensor(rng, *shape), gain=tensor(rng, shape[-1]), bias=tensor(rng, shape[-1]), eps=1e-5)


@norm.criterion("eps is added to the variance, and keeps a token of equal numbers finite", points=1)
def norm_eps(rng):
    gain, bias = tensor(rng, 4), tensor(rng, 4)
    yield dict(x=torch.tensor([[2.0, 2.0, 2.0, 2.0], [1.0, 2.0, 3.0, 6.0]]).double(), gain=gain, bias=bias, eps=1e-5)
    yield dict(x=tensor(rng, 5, 4, scale=1e-3), gain=gain, bias=bias, eps=1e-5)
    yield dict(x=tensor(rng, 5, 4), gain=gain, bias=bias, eps=0.5)


@norm.criterion("numbers far from 0 and close together keep their digits", points=1, tolerance=1e-7)
def norm_far(rng):
    yield dict(x=1e5 + tensor(rng, 5, 7), gain=tensor(rng, 7), bias=tensor(rng, 7), eps=1e-5)
    yield dict(x=-3e5 + tensor(rng, 2, 3, 6), gain=tensor(rng, 6), bias=tensor(rng, 6), eps=1e-5)


norm.leaves_inputs_alone(points=1)


@norm.mistake(
    "Your variance divides by d - 1, as `torch.var` and `torch.std` do unless told otherwise. By how many numbers is the mean of the squares taken here?"
)
def variance_over_d_minus_1(x, gain, bias, eps):
    variance = ((x - x.mean(-1, keepdim=True)) ** 2).sum(-1, keepdim=True) / (x.shape[-1] - 1)
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(variance + eps) * gain + bias


@norm.mistake(
    "eps stands outside the root in your answer. With a variance of 0 and eps = 1e-5 you divide by 0.00001, and the formula by 0.003. What exactly is the root taken of?"
)
def eps_outside_the_root(x, gain, bias, eps):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (torch.sqrt((centred**2).mean(-1, keepdim=True)) + eps) * gain + bias


@norm.mistake(
    "Your columns have mean 0, not your rows: mean and variance run along the tokens. A token must not depend on its neighbours here; which axis holds the numbers of one token?"
)
def norm_along_the_tokens(x, gain, bias, eps):
    centred = x - x.mean(0, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(0, keepdim=True) + eps) * gain + bias


@norm.mistake(
    "One mean and one variance serve all tokens in your answer. What would happen to one token's result if another token grew a hundredfold?"
)
def one_mean_for_all(x, gain, bias, eps):
    centred = x - x.mean()
    return centred / torch.sqrt((centred**2).mean() + eps) * gain + bias


@norm.mistake(
    "Right for a table of tokens, wrong with a batch: your axis is counted from the front. How do you name the last axis, whatever stands before it?"
)
def second_axis(x, gain, bias, eps):
    centred = x - x.mean(1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(1, keepdim=True) + eps) * gain + bias


@norm.mistake("The scale is right and the mean is still there. What has to be subtracted before the squares are taken?")
def mean_kept(x, gain, bias, eps):
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps) * gain + bias


@norm.mistake(
    "You subtract the mean, and divide by the root mean square of the numbers as they were. Whose variance is it that should become 1, theirs or that of the shifted ones?"
)
def scale_of_the_unshifted(x, gain, bias, eps):
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt((x**2).mean(-1, keepdim=True) + eps) * gain + bias


@norm.mistake("You divide by the variance; (1, 3, 5, 7) has variance 5. Which number brings a spread of √5 to 1?")
def no_root(x, gain, bias, eps):
    centred = x - x.mean(-1, keepdim=True)
    return centred / ((centred**2).mean(-1, keepdim=True) + eps) * gain + bias


@norm.mistake(
    "The bias is added before the gain multiplies, so it is scaled too. In the example the second number should end 10 higher: is it the last step in yours?"
)
def bias_before_gain(x, gain, bias, eps):
    centred = x - x.mean(-1, keepdim=True)
    return (centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps) + bias) * gain


@norm.mistake("Mean and variance are right. Where do gain and bias enter your answer?")
def gain_and_bias_forgotten(x, gain, bias, eps):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps)


@norm.mistake("Mean, variance and bias are right. Which argument has not been used yet?")
def norm_without_gain(x, gain, bias, eps):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps) + bias


@norm.mistake("All is right but the last step: in the example the second number should end 10 higher. What is missing?")
def norm_without_bias(x, gain, bias, eps):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps) * gain


@norm.mistake(
    "eps takes the variance's place where that is smaller, and is nothing elsewhere. The formula adds it always; which sign stands before it?"
)
def eps_as_a_floor(x, gain, bias, eps):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True).clamp(min=eps)) * gain + bias


@norm.mistake(
    "The mean of the squares minus the square of the mean is the variance on paper. Near 100,000 both are about 10,000,000,000, and their difference of about 1 has lost its digits. In which order would you square and subtract instead?"
)
def difference_of_large_numbers(x, gain, bias, eps):
    mean = x.mean(-1, keepdim=True)
    variance = ((x**2).mean(-1, keepdim=True) - mean**2).clamp(min=0)
    return (x - mean) / torch.sqrt(variance + eps) * gain + bias


@norm.mistake("eps is 1e-5 in your answer, whatever the caller asks for. Where does your code read the argument `eps`?")
def eps_fixed(x, gain, bias, eps):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * gain + bias


@norm.mistake(
    "The numbers are right, and the caller's tokens have been shifted: `x -= ...` writes into x. The residual path still needs them as they were. Which form makes a new tensor?"
)
def tokens_overwritten(x, gain, bias, eps):
    x -= x.mean(-1, keepdim=True)
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps) * gain + bias


@norm.also_right
def with_var_mean(x, gain, bias, eps):
    variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
    return torch.addcmul(bias, gain, (x - mean) * (variance + eps).rsqrt())


@norm.also_right
def vector_by_vector(x, gain, bias, eps):
    rows = []
    for vector in x.reshape(-1, x.shape[-1]).tolist():
        mean = sum(vector) / len(vector)
        spread = (sum((number - mean) ** 2 for number in vector) / len(vector) + eps) ** 0.5
        rows.append([(number - mean) / spread * g + b for number, g, b in zip(vector, gain, bias, strict=True)])
    return torch.tensor(rows, dtype=x.dtype).reshape(x.shape)


@norm.also_right
def in_numpy(x, gain, bias, eps):
    centred = x.numpy() - np.mean(x.numpy(), axis=-1, keepdims=True)
    return centred / np.sqrt(np.var(centred, axis=-1, keepdims=True) + eps) * gain.numpy() + bias.numpy()


norm.hints(
    "Work (1, 3) by hand: the mean is 2, the shifted numbers are -1 and 1. What is the mean of their squares?",
    "Along the last axis, kept: shift; mean of the squares of what you have; add eps; root; divide; multiply by gain; add bias.",
)
norm.errors(
    (
        "RuntimeError: The size of tensor a (7) must match the size of tensor b (5) at non-singleton dimension 1",
        "A mean along an axis removes that axis. With <code>keepdim=True</code> it stays, with length 1.",
    ),
    (
        "IndexError: Dimension out of range (expected to be in range of [-1, 0], but got 1)",
        "A single vector has one axis. Counted from the end, its last axis has the same number as everyone else's.",
    ),
)

# --- 7.2 -------------------------------------------------------------------------------------------------------------


def rms_norm(x, gain, eps):
    """Each vector scaled to a mean square of 1, then times gain.  (..., d) -> (..., d), in x's dtype"""
    return attn_ref.rms_norm(x, gain, eps)


rms = Exercise(
    "7.2",
    "The same without the shift",
    reference=rms_norm,
    minutes=10,
    forbids=(
        "attn_ref.rms_norm",
        "attn_ref.block.Norm",
        "torch.nn.RMSNorm",
        "torch.nn.functional.rms_norm",
        "torch.rms_norm",
    ),
)


@rms.probe
def drive_rms(answer, x, gain, eps):
    """The result; of tokens that are not float64 its numbers and its dtype."""
    out = answer(x, gain, eps)
    if x.dtype == torch.float64:
        return out
    out = torch.as_tensor(out)
    return {"the numbers": out.double(), "the dtype": str(out.dtype).removeprefix("torch.")}


@rms.criterion("each token gets a mean square of 1, then its gain, whatever axes stand before", points=2)
def rms_rows(rng):
    yield dict(
        x=torch.tensor([[3.0, 4.0]], dtype=torch.float64), gain=torch.tensor([1.0, 2.0], dtype=torch.float64), eps=0.0
    )
    for shape in ((5, 7), (2, 5, 7), (4, 4), (3, 3, 3), (6,), (1, 1, 4), (2, 1, 5), (6, 1)):
        yield dict(x=40 * tensor(rng, *shape) + 3, gain=20 * tensor(rng, shape[-1]), eps=1e-6)


@rms.criterion("eps is added to the mean square, and keeps a token of zeros at 0", points=1)
def rms_eps(rng):
    gain = tensor(rng, 4)
    yield dict(x=torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, -2.0, 3.0, 0.0]]).double(), gain=gain, eps=1e-6)
    yield dict(x=tensor(rng, 5, 4, scale=1e-3), gain=gain, eps=1e-6)
    yield dict(x=tensor(rng, 2, 5, 4), gain=gain, eps=0.5)


@rms.criterion("float16 tokens, loud or quiet, come out right; each result has x's dtype", points=1, tolerance=3e-3)
def rms_half(rng):
    gain = torch.ones(4, dtype=torch.float16)
    yield dict(x=torch.tensor([[3000.0, 4000.0, 0.0, 0.0], [1.0, -1.0, 2.0, 0.0]]).half(), gain=gain, eps=1e-6)
    yield dict(x=(2000 * tensor(rng, 3, 5, 4)).half(), gain=tensor(rng, 4).half(), eps=1e-6)
    yield dict(x=(1e-3 * tensor(rng, 3, 5, 4)).half(), gain=tensor(rng, 4).half(), eps=1e-6)
    yield dict(x=tensor(rng, 5, 4).half(), gain=tensor(rng, 4).float(), eps=1e-6)
    loud, doubled = torch.tensor([[40000.0, -30000.0, 20.0, 0.0], [3.0, 1.0, -2.0, 5.0]]), torch.tensor([2.0, -3, 4, 1])
    yield dict(x=loud.half(), gain=doubled.half(), eps=1e-6)  # gain · x is beyond 65,504
    yield dict(x=tensor(rng, 5, 4).float(), gain=tensor(rng, 4).float(), eps=1e-6)


rms.leaves_inputs_alone(points=1)


@rms.mistake(
    "You subtract the mean first, which is layer norm without its bias. In the example 3 and 4 should keep their ratio; do they in yours?"
)
def mean_subtracted(x, gain, eps):
    centred = x.float() - x.float().mean(-1, keepdim=True) if x.dtype == torch.float16 else x - x.mean(-1, keepdim=True)
    return (centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps) * gain).to(x.dtype)


@rms.mistake(
    "You divide by the length of the vector, the root of the sum of squares. Then a mean square of 1 becomes 1/d; which average is missing under the root?"
)
def divided_by_the_length(x, gain, eps):
    wide = x.float() if x.dtype == torch.float16 else x
    return (wide / torch.sqrt((wide**2).sum(-1, keepdim=True) + eps) * gain).to(x.dtype)


@rms.mistake("The root is missing: you divide by the mean square. With (3, 4) that is 12.5; what should it be?")
def mean_square_without_root(x, gain, eps):
    wide = x.float() if x.dtype == torch.float16 else x
    return (wide / ((wide**2).mean(-1, keepdim=True) + eps) * gain).to(x.dtype)


@rms.mistake(
    "You divide by the mean of the sizes |x|. For (3, 4) that is 3.5, and the root of the mean square is 3.54: close, and another number. Which of the two does the formula name?"
)
def mean_of_sizes(x, gain, eps):
    wide = x.float() if x.dtype == torch.float16 else x
    return (wide / (wide.abs().mean(-1, keepdim=True) + eps) * gain).to(x.dtype)


@rms.mistake("eps is added after the root in your answer. To what is it added in the formula?")
def eps_after_the_root(x, gain, eps):
    wide = x.float() if x.dtype == torch.float16 else x
    return (wide / (torch.sqrt((wide**2).mean(-1, keepdim=True)) + eps) * gain).to(x.dtype)


@rms.mistake(
    "The mean runs along the first axis, so a token's scale depends on its neighbours. Which axis holds the numbers of one token?"
)
def rms_along_the_tokens(x, gain, eps):
    wide = x.float() if x.dtype == torch.float16 else x
    return (wide / torch.sqrt((wide**2).mean(0, keepdim=True) + eps) * gain).to(x.dtype)


@rms.mistake("One mean square serves all tokens in your answer. Along which axis should each token take its own?")
def one_scale_for_all(x, gain, eps):
    wide = x.float() if x.dtype == torch.float16 else x
    return (wide / torch.sqrt((wide**2).mean() + eps) * gain).to(x.dtype)


@rms.mistake("The scale is right; the gain is missing. Which argument has not been used yet?")
def gain_forgotten(x, gain, eps):
    wide = x.float() if x.dtype == torch.float16 else x
    return (wide / torch.sqrt((wide**2).mean(-1, keepdim=True) + eps)).to(x.dtype)


@rms.mistake(
    "Right in float64. In float16 the square of 3,000 is beyond the largest number, 65,504, so it becomes inf and everything else 0. In which precision could the squares be taken?"
)
def squares_overflow(x, gain, eps):
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps) * gain


@rms.mistake(
    "Right in float64, and the squares of float16 tokens are float16 too: that of 3,000 is beyond 65,504, that of 0.0001 is 0. The cast at the end comes too late; where should the wider numbers begin?"
)
def cast_too_late(x, gain, eps):
    return (gain * x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps)).to(x.dtype)


@rms.mistake(
    "The root is safe, and gain · x is still a product in float16: 40,000 times a gain of 2 is beyond 65,504. In which order would the numbers stay small?"
)
def product_in_float16(x, gain, eps):
    wide = x.float() if x.dtype == torch.float16 else x
    return (gain * x / torch.sqrt((wide**2).mean(-1, keepdim=True) + eps)).to(x.dtype)


@rms.mistake(
    "All is computed in float64, and of the narrower dtypes only float16 is restored: a float32 token comes back as float64. Which dtype does the text ask for?"
)
def float32_comes_back_wider(x, gain, eps):
    wide = x.double()
    out = wide / torch.sqrt((wide**2).mean(-1, keepdim=True) + eps) * gain.double()
    return out.half() if x.dtype == torch.float16 else out


@rms.mistake("eps is 1e-6 in your answer, whatever the caller asks for. Where does your code read the argument `eps`?")
def rms_eps_fixed(x, gain, eps):
    wide = x.float() if x.dtype == torch.float16 else x
    return (wide / torch.sqrt((wide**2).mean(-1, keepdim=True) + 1e-6) * gain).to(x.dtype)


@rms.mistake("eps is missing, so a token of zeros is divided by 0. Which argument has not been used yet?")
def rms_eps_forgotten(x, gain, eps):
    wide = x.float() if x.dtype == torch.float16 else x
    return (wide / torch.sqrt((wide**2).mean(-1, keepdim=True)) * gain).to(x.dtype)


@rms.mistake(
    "Right for a table of tokens, wrong with a batch: your axis is counted from the front. How do you name the last axis, whatever stands before it?"
)
def rms_along_the_second_axis(x, gain, eps):
    wide = x.float() if x.dtype == torch.float16 else x
    return (wide / torch.sqrt((wide**2).mean(1, keepdim=True) + eps) * gain).to(x.dtype)


@rms.mistake(
    "The squares are safe now, and your result is float32 where x was float16. The next layer's weights are float16 too; which dtype does it expect?"
)
def left_in_float32(x, gain, eps):
    wide = x.float() if x.dtype == torch.float16 else x
    return wide / torch.sqrt((wide**2).mean(-1, keepdim=True) + eps) * gain


@rms.mistake(
    "Right while gain has the dtype of x. A float16 token times a float32 gain is float32 again; which of your two last steps should come last?"
)
def cast_before_the_gain(x, gain, eps):
    wide = x.float() if x.dtype == torch.float16 else x
    return (wide / torch.sqrt((wide**2).mean(-1, keepdim=True) + eps)).to(x.dtype) * gain


@rms.mistake(
    "Dividing by 256 keeps the squares of loud float16 tokens below 65,504, and the squares of quiet ones become 0. Which dtype has room for both?"
)
def scaled_by_a_constant(x, gain, eps):
    small = x / 256
    return (x / (256 * torch.sqrt((small**2).mean(-1, keepdim=True) + eps / 65536)) * gain).to(x.dtype)


@rms.mistake(
    "`x.float()` widens float16 and narrows float64: the squares of a float64 token keep 7 digits. For which tokens is it needed?"
)
def squares_in_float32(x, gain, eps):
    mean_square = (x.float() ** 2).mean(-1, keepdim=True)
    return (gain * x.float() / torch.sqrt(mean_square + eps)).to(x.dtype)


@rms.mistake(
    "Everything is computed and returned in float32, so a float64 token keeps only 7 digits. Which of the two precisions is the wider one for these inputs?"
)
def always_in_float32(x, gain, eps):
    wide = x.float()
    return (wide / torch.sqrt((wide**2).mean(-1, keepdim=True) + eps) * gain).to(x.dtype)


@rms.mistake(
    "The caller's tokens have been scaled in place. The residual path adds to them as they were; which form of the division makes a new tensor?"
)
def scaled_in_place(x, gain, eps):
    wide = x.double()
    x /= torch.sqrt((wide**2).mean(-1, keepdim=True) + eps).to(x.dtype)
    return x * gain


@rms.also_right
def in_float64_throughout(x, gain, eps):
    wide = x.double()
    return (wide * torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + eps) * gain.double()).to(x.dtype)


@rms.also_right
def by_the_vector_norm(x, gain, eps):
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean_square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True) ** 2 / x.shape[-1]
    return (wide * gain / (mean_square + eps) ** 0.5).type_as(x)


@rms.also_right
def largest_taken_out(x, gain, eps):
    out = torch.empty_like(x)
    for index in np.ndindex(*x.shape[:-1]):
        numbers = [float(number) for number in x[index]]
        scale = (sum(number * number for number in numbers) / len(numbers) + eps) ** 0.5
        out[index] = torch.tensor([number / scale for number in numbers], dtype=torch.float64).to(x.dtype) * gain
    return out


rms.hints(
    "RMS is read from right to left: square, mean, root. What are these three for (3, 4)?",
    "Widen x if it is float16; square; mean along the last axis, kept; add eps; root; divide; multiply by gain; return in x's dtype.",
)

# --- 7.3 -------------------------------------------------------------------------------------------------------------


class TransformerBlock(nn.Module):
    """Attention, then a feed-forward network, each after a norm and added to its input.  (B, n, d_model) -> the same"""

    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = nn.LayerNorm(d_model)
        self.up = nn.Linear(d_model, d_ff)
        self.down = nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x), causal=True)
        return x + self.down(torch.nn.functional.gelu(self.up(self.ffn_norm(x))))


block = Exercise(
    "7.3",
    "The block",
    reference=TransformerBlock,
    minutes=15,
    isolate=False,  # gradients are computed, and torch may refuse a backward pass in a fork
    forbids=(
        "attn_ref.TransformerBlock",
        "attn_ref.FeedForward",
        "torch.nn.TransformerEncoderLayer",
        "torch.nn.TransformerDecoderLayer",
        "torch.nn.TransformerEncoder",
        "torch.nn.TransformerDecoder",
    ),
)


@block.probe
def drive_block(answer, d_model, n_heads, d_ff, x, seed, norms=False, gradient=False):
    """Build the block, give it known weights, and run it. `norms` also moves gains and biases away from 1 and 0.

    With `gradient`, the gradients of the mean square of the result are what counts.
    """
    built = answer(d_model, n_heads, d_ff).double()
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, usual in TransformerBlock(d_model, n_heads, d_ff).double().state_dict().items():
        drawn = torch.randn(usual.shape, generator=generator, dtype=torch.float64)
        kept = "norm" in name and not norms
        weights[name] = usual.clone() if kept else drawn * (0.0 if seed == 0 else 0.7)
    built.load_state_dict(weights)
    if gradient:
        below = x.clone().requires_grad_()  # as if another block had made it
        try:
            (built(1 * below) ** 2).mean().backward()
        except RuntimeError as error:
            return {"what backward() gives": str(error)[:40]}
        found = {"x": below.grad} | {name: part.grad for name, part in built.named_parameters() if name in weights}
        found = {f"the gradient of {name}": "none" if part is None else part for name, part in found.items()}
        return {"what backward() gives": "gradients"} | found
    with torch.no_grad():
        return built(x)


@block.criterion("a token alone: two branches, each behind its norm, each added to what came in", points=2)
def one_token(rng):
    yield dict(d_model=2, n_heads=1, d_ff=3, x=torch.tensor([[[1.0, 3.0]]], dtype=torch.float64), seed=0)
    yield dict(d_model=6, n_heads=3, d_ff=10, x=tensor(rng, 4, 1, 6), seed=1)
    yield dict(d_model=8, n_heads=2, d_ff=5, x=3 + tensor(rng, 1, 1, 8, scale=20), seed=2)


@block.criterion("several tokens: each gathers from itself and from earlier ones, never from later ones", points=1)
def several_tokens(rng):
    yield dict(d_model=6, n_heads=3, d_ff=10, x=tensor(rng, 2, 5, 6), seed=3)
    yield dict(d_model=4, n_heads=1, d_ff=4, x=tensor(rng, 4, 4, 4, scale=3), seed=4)
    yield dict(d_model=8, n_heads=4, d_ff=1, x=tensor(rng, 1, 7, 8), seed=5)


@block.criterion("each norm uses its own gain and bias", points=1)
def own_norms(rng):
    yield dict(d_model=6, n_heads=2, d_ff=7, x=tensor(rng, 3, 4, 6), seed=6, norms=True)
    yield dict(d_model=4, n_heads=4, d_ff=9, x=tensor(rng, 2, 1, 4), seed=7, norms=True)


@block.criterion("gradients flow back to x and to every weight", points=1)
def trainable(rng):
    yield dict(d_model=6, n_heads=3, d_ff=10, x=tensor(rng, 2, 5, 6), seed=8, gradient=True)


block.leaves_inputs_alone(points=1)


@block.mistake(
    "You normalise the sums. That is post-norm, the order of 2017: the residual path then runs through every norm. In this block, what does a norm read, and what is added to x?"
)
class PostNorm(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = self.attention_norm(x + self.attention(x, causal=True))
        return self.ffn_norm(x + self.down(torch.nn.functional.gelu(self.up(x))))


@block.mistake(
    "What attention gathered replaces x in your block. With all weights at 0 the token would be gone; what should be left of it?"
)
class NoResidualAtAttention(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = self.attention(self.attention_norm(x), causal=True)
        return x + self.down(torch.nn.functional.gelu(self.up(self.ffn_norm(x))))


@block.mistake(
    "The result of the feed-forward network replaces x. The second step adds to its input as the first does; where is that sum?"
)
class NoResidualAtFfn(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x), causal=True)
        return self.down(torch.nn.functional.gelu(self.up(self.ffn_norm(x))))


@block.mistake(
    "You add to the normalised tokens: x is overwritten by its norm before the sum. Which of the two, x or norm(x), travels on the residual path?"
)
class NormedResidual(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = self.attention_norm(x)
        x = x + self.attention(x, causal=True)
        x = self.ffn_norm(x)
        return x + self.down(torch.nn.functional.gelu(self.up(x)))


@block.mistake(
    "Attention and the feed-forward network read the tokens as they are. What stands before each of them in a pre-norm block?"
)
class NoNorms(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = x + self.attention(x, causal=True)
        return x + self.down(torch.nn.functional.gelu(self.up(x)))


@block.mistake(
    "Both steps use `attention_norm`. As long as gains are 1 and biases 0 nobody can tell; which norm belongs to the second step?"
)
class OneNormTwice(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x), causal=True)
        return x + self.down(torch.nn.functional.gelu(self.up(self.attention_norm(x))))


@block.mistake(
    "Each norm does the other's work. Their gains and biases are learned for one reader each; which is named after attention?"
)
class NormsSwapped(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = x + self.attention(self.ffn_norm(x), causal=True)
        return x + self.down(torch.nn.functional.gelu(self.up(self.attention_norm(x))))


@block.mistake(
    "The feed-forward network reads the block's input, not what attention left. Some models do that (GPT-J, 2021), and it is another function. What does the second step read here?"
)
class SideBySide(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        gathered = self.attention(self.attention_norm(x), causal=True)
        return x + gathered + self.down(torch.nn.functional.gelu(self.up(self.ffn_norm(x))))


@block.mistake("The two steps have changed places. Which comes first, gathering from other tokens or digesting?")
class FfnFirst(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = x + self.down(torch.nn.functional.gelu(self.up(self.ffn_norm(x))))
        return x + self.attention(self.attention_norm(x), causal=True)


@block.mistake(
    "One token alone comes out right; with several, early tokens read later ones. Which argument of `self.attention` closes the future?"
)
class SeesTheFuture(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.down(torch.nn.functional.gelu(self.up(self.ffn_norm(x))))


@block.mistake(
    "Between `up` and `down` nothing bends, and two linear maps in a row are one linear map. Which function stands between them?"
)
class NoBend(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x), causal=True)
        return x + self.down(self.up(self.ffn_norm(x)))


@block.mistake("The bend between `up` and `down` is ReLU in your block. It was in 2017; which does the text ask for?")
class ReluForGelu(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x), causal=True)
        return x + self.down(torch.relu(self.up(self.ffn_norm(x))))


@block.mistake(
    "Right to about three digits: this is the tanh approximation of GELU, which GPT-2 used. What does `gelu` compute if nothing is said about it?"
)
class ApproximateGelu(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x), causal=True)
        return x + self.down(torch.nn.functional.gelu(self.up(self.ffn_norm(x)), approximate="tanh"))


@block.mistake("The bend between `up` and `down` is SiLU in your block, as in Llama. Which does the text ask for?")
class SiluForGelu(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x), causal=True)
        return x + self.down(torch.nn.functional.silu(self.up(self.ffn_norm(x))))


@block.mistake(
    "GELU bends the result of `down`, and between `up` and `down` nothing does. Which of the two vectors, the wide or the narrow one, should meet the bend?"
)
class BendAfterDown(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x), causal=True)
        return x + torch.nn.functional.gelu(self.down(self.up(self.ffn_norm(x))))


@block.mistake(
    "GELU bends what `up` is given, and between `up` and `down` nothing does. Which of the two vectors, the wide or the narrow one, should meet the bend?"
)
class BendBeforeUp(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x), causal=True)
        return x + self.down(self.up(torch.nn.functional.gelu(self.ffn_norm(x))))


@block.mistake(
    "A second GELU sits on the result of `down`, so the network can hardly take anything away from x. How many bends does the feed-forward network have?"
)
class BendTwice(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x), causal=True)
        return x + torch.nn.functional.gelu(self.down(torch.nn.functional.gelu(self.up(self.ffn_norm(x)))))


@block.mistake(
    "The result is right, and the caller's x has grown: `x += ...` writes into it. Which form of the sum makes a new tensor?"
)
class BlockInPlace(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x += self.attention(self.attention_norm(x), causal=True)
        return x + self.down(torch.nn.functional.gelu(self.up(self.ffn_norm(x))))


@block.mistake(
    "The feed-forward network reads the tokens as they are. Each step has a norm before it; which has not been used yet?"
)
class FfnUnnormed(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x), causal=True)
        return x + self.down(torch.nn.functional.gelu(self.up(x)))


@block.mistake("Attention reads the tokens as they are. Each step has a norm before it; which has not been used yet?")
class AttentionUnnormed(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = x + self.attention(x, causal=True)
        return x + self.down(torch.nn.functional.gelu(self.up(self.ffn_norm(x))))


@block.mistake(
    "The second sum starts from the block's input again, so what attention gathered is read and then lost. To what should the second step add?"
)
class SecondSumFromTheInput(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        gathered = x + self.attention(self.attention_norm(x), causal=True)
        return x + self.down(torch.nn.functional.gelu(self.up(self.ffn_norm(gathered))))


@block.mistake(
    "The values are right, and no gradient goes back to x: `detach` and `no_grad` cut it off, so that no block below this one would ever learn. What makes a copy that stays connected, and is one needed?"
)
class CutOff(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = x.detach().clone()
        x = x + self.attention(self.attention_norm(x), causal=True)
        return x + self.down(torch.nn.functional.gelu(self.up(self.ffn_norm(x))))


@block.mistake(
    "The values are right, and training fails: `x += ...` overwrites what the norm has kept for its gradient, your own copy too. Which form of the sum makes a new tensor?"
)
class CopyOverwritten(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = x.clone()
        x += self.attention(self.attention_norm(x), causal=True)
        return x + self.down(torch.nn.functional.gelu(self.up(self.ffn_norm(x))))


@block.also_right
class BranchesByName(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        return self.digest(self.gather(x))

    def gather(self, x):
        return torch.add(self.attention(self.attention_norm(x), causal=True), x)

    def digest(self, x):
        hidden = torch.nn.GELU()(self.ffn_norm(x) @ self.up.weight.T + self.up.bias)
        return torch.nn.functional.linear(hidden, self.down.weight, self.down.bias) + x


@block.also_right
class MaskByHand(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        n = x.shape[1]
        allowed = torch.ones(n, n, dtype=torch.bool).tril()
        for step in (
            lambda y: self.attention(self.attention_norm(y), allowed=allowed),
            lambda y: self.down(torch.nn.functional.gelu(self.up(self.ffn_norm(y)))),
        ):
            x = x + step(x)
        return x


@block.also_right
class SentenceBySentence(torch.nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(d_model)
        self.attention = attn_ref.MultiHeadAttention(d_model, n_heads)
        self.ffn_norm = torch.nn.LayerNorm(d_model)
        self.up = torch.nn.Linear(d_model, d_ff)
        self.down = torch.nn.Linear(d_ff, d_model)

    def forward(self, x):
        out = torch.empty_like(x)
        for i, sentence in enumerate(x):
            sentence = sentence[None] + self.attention(self.attention_norm(sentence[None]), causal=True)
            for j, token in enumerate(sentence[0]):
                half = self.up(self.ffn_norm(token))
                bent = half * (1 + torch.erf(half / 2**0.5)) / 2
                out[i, j] = token + self.down(bent)
        return out


block.hints(
    "Two lines, one for each step. Both have the form x = x + step(norm(x)).",
    "The first step is `self.attention(..., causal=True)` behind `self.attention_norm`. The second is up, GELU, down, behind `self.ffn_norm`.",
)
block.errors(
    (
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (10x6 and 10x6)",
        "`down` expects the hidden width d_ff and got d_model, or `up` the reverse. Which of the two comes first?",
    ),
)

# --- 7.4 -------------------------------------------------------------------------------------------------------------


def causal_lm_loss(logits, tokens, pad_id):
    """How surprising each next token is on average, -log p in nats.  (B, n, vocab_size), (B, n) -> ()"""
    return attn_ref.causal_lm_loss(logits, tokens, pad_id)


loss = Exercise("7.4", "How surprised by the next token?", reference=causal_lm_loss, minutes=18)


def ids(rng, *shape, vocab_size=6, least=0):
    """Random token ids."""
    return torch.from_numpy(rng.integers(least, vocab_size, size=shape))


@loss.criterion("the logits at t are judged by the token at t + 1", points=2)
def next_token(rng):
    logits = torch.zeros(1, 3, 4, dtype=torch.float64)
    logits[0, 0, 2] = logits[0, 1, 1] = np.log(3.0)
    yield dict(logits=logits, tokens=torch.tensor([[3, 2, 1]]), pad_id=0)
    yield dict(logits=torch.zeros(2, 5, 7, dtype=torch.float64), tokens=ids(rng, 2, 5, least=1), pad_id=0)
    yield dict(logits=tensor(rng, 3, 7, 6, scale=3), tokens=ids(rng, 3, 7, least=1), pad_id=0)
    yield dict(logits=tensor(rng, 6, 6, 6), tokens=ids(rng, 6, 6), pad_id=-100)


@loss.criterion("targets that are padding do not count; all others weigh the same", points=2)
def padding_left_out(rng):
    tokens = ids(rng, 3, 7, least=1)
    for row, length in enumerate((7, 3, 5)):
        tokens[row, length:] = 0
    yield dict(logits=tensor(rng, 3, 7, 6, scale=3), tokens=tokens, pad_id=0)
    yield dict(logits=tensor(rng, 3, 7, 6, scale=3), tokens=torch.where(tokens == 0, 4, tokens % 4), pad_id=4)
    yield dict(logits=tensor(rng, 3, 7, 6, scale=3), tokens=torch.where(tokens == 0, -100, tokens), pad_id=-100)
    yield dict(logits=tensor(rng, 3, 7, 6, scale=3), tokens=torch.where(tokens == 0, 50, tokens), pad_id=50)
    yield dict(logits=tensor(rng, 3, 7, 6, scale=3), tokens=torch.where(tokens == 0, -1, tokens), pad_id=-1)
    yield dict(logits=tensor(rng, 3, 7, 6, scale=3), tokens=tokens.flip(1), pad_id=0)  # padding in front
    yield dict(logits=tensor(rng, 1, 2, 6), tokens=torch.tensor([[0, 3]]), pad_id=0)


@loss.criterion("0 where no target is left, and only there", points=1)
def no_target(rng):
    yield dict(logits=tensor(rng, 2, 2, 6), tokens=torch.tensor([[5, 1], [2, 0]]), pad_id=0)
    yield dict(logits=tensor(rng, 2, 1, 6), tokens=ids(rng, 2, 1, least=1), pad_id=0)
    yield dict(logits=tensor(rng, 2, 4, 6), tokens=torch.tensor([[5, 0, 0, 0], [2, 0, 0, 0]]), pad_id=0)
    yield dict(logits=tensor(rng, 2, 3, 6), tokens=torch.tensor([[5, -1, -1], [0, -1, -1]]), pad_id=-1)


@loss.criterion("logits in the thousands give a finite loss", points=1)
def large_logits(rng):
    yield dict(logits=tensor(rng, 2, 5, 6, scale=2000), tokens=ids(rng, 2, 5, least=1), pad_id=0)
    logits = torch.zeros(1, 2, 3, dtype=torch.float64)
    logits[0, 0] = torch.tensor([-3000.0, -1000.0, -1001.0])
    yield dict(logits=logits, tokens=torch.tensor([[1, 2]]), pad_id=0)


loss.leaves_inputs_alone(points=1)


@loss.mistake(
    "Your logits are judged by the token they were computed from. A model that copies its input would have no loss at all; which token should the logits at t foretell?"
)
def not_shifted(logits, tokens, pad_id):
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens.flatten(), ignore_index=pad_id, reduction="sum"
    ) / (tokens != pad_id).sum().clamp(min=1)


@loss.mistake(
    "You shift the other way: the logits at t + 1 are judged by the token at t, which the model has just read. Which of the two loses its last entry, and which its first?"
)
def shifted_backwards(logits, tokens, pad_id):
    targets = tokens[:, :-1]
    total = torch.nn.functional.cross_entropy(
        logits[:, 1:].flatten(0, 1), targets.flatten(), ignore_index=pad_id, reduction="sum"
    )
    return total / (targets != pad_id).sum().clamp(min=1)


@loss.mistake(
    "Your logits are judged by the token two places on. How far ahead does a language model look at one step?"
)
def shifted_by_two(logits, tokens, pad_id):
    targets = tokens[:, 2:]
    total = torch.nn.functional.cross_entropy(
        logits[:, : targets.shape[1]].flatten(0, 1), targets.flatten(), ignore_index=pad_id, reduction="sum"
    )
    return total / (targets != pad_id).sum().clamp(min=1)


@loss.mistake(
    "Padding counts as a token to be foretold in your answer. A model would earn most by learning when a short row ends; where could `pad_id` enter?"
)
def padding_counted(logits, tokens, pad_id):
    known = tokens[:, 1:].clamp(0, logits.shape[-1] - 1)
    losses = -logits[:, :-1].log_softmax(-1).gather(-1, known[..., None])[..., 0]
    return losses.sum() / max(1, losses.numel())


@loss.mistake(
    "The padded targets add nothing to your sum, and still count when you divide. The more padding, the smaller your loss: by how many targets should the sum be divided?"
)
def divided_by_all(logits, tokens, pad_id):
    targets = tokens[:, 1:]
    total = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=pad_id, reduction="sum"
    )
    return total / max(1, targets.numel())


@loss.mistake(
    "You leave out the places where the *input* is padding. At the last word of a short row the input is a word and the target padding. Which of the two decides?"
)
def masked_by_inputs(logits, tokens, pad_id):
    keep = tokens[:, :-1] != pad_id
    losses = -logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:].clamp(0, logits.shape[-1] - 1)[..., None])[..., 0]
    return (losses * keep).sum() / keep.sum().clamp(min=1)


@loss.mistake(
    "You average each row first and then the rows, so a token of a short row weighs more than one of a long row. Over what is the mean to be taken at once?"
)
def mean_of_row_means(logits, tokens, pad_id):
    targets = tokens[:, 1:]
    keep = targets != pad_id
    losses = (
        -logits[:, :-1].log_softmax(-1).gather(-1, targets.clamp(0, logits.shape[-1] - 1)[..., None])[..., 0] * keep
    )
    return (losses.sum(1) / keep.sum(1).clamp(min=1)).mean()


@loss.mistake(
    "This is the sum over all targets. Two equal batches in one would double it; what turns it into a number that does not depend on the batch's size?"
)
def summed(logits, tokens, pad_id):
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=pad_id, reduction="sum"
    )


@loss.mistake(
    "Right as long as a target is left. If all is padding, the mean over nothing is 0/0 = NaN, and one NaN spoils every weight. What should it be?"
)
def nan_for_nothing(logits, tokens, pad_id):
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=pad_id)


@loss.mistake(
    "Softmax and then the logarithm: for a logit 1,000 below the largest, softmax is 0, and log 0 is -inf. Which function takes both steps at once?"
)
def logarithm_of_zero(logits, tokens, pad_id):
    targets = tokens[:, 1:]
    keep = targets != pad_id
    chances = logits[:, :-1].softmax(-1).gather(-1, targets.clamp(0, logits.shape[-1] - 1)[..., None])[..., 0]
    return -(chances.log()[keep]).sum() / keep.sum().clamp(min=1)


@loss.mistake(
    "A small number inside the logarithm keeps -inf away, and caps the loss: a token that the model takes for impossible costs 27 nats and no more. What does log-softmax give there?"
)
def capped_logarithm(logits, tokens, pad_id):
    targets = tokens[:, 1:]
    keep = targets != pad_id
    chances = logits[:, :-1].softmax(-1).gather(-1, targets.clamp(0, logits.shape[-1] - 1)[..., None])[..., 0]
    return -((chances + 1e-12).log()[keep]).sum() / keep.sum().clamp(min=1)


@loss.mistake(
    "You divide by the number of tokens that are not padding, and each row's first token is no target. How many logits of a row judge nothing?"
)
def divided_by_the_tokens(logits, tokens, pad_id):
    total = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=pad_id, reduction="sum"
    )
    return total / (tokens != pad_id).sum().clamp(min=1)


@loss.mistake(
    "A target counts in your answer only if the token before it is no padding either. Where the padding stands in front, each row loses a word that way; which of the two decides?"
)
def both_must_be_words(logits, tokens, pad_id):
    keep = (tokens[:, 1:] != pad_id) & (tokens[:, :-1] != pad_id)
    known = tokens[:, 1:].clamp(0, logits.shape[-1] - 1)
    losses = -logits[:, :-1].log_softmax(-1).gather(-1, known[..., None])[..., 0]
    return (losses * keep).sum() / keep.sum().clamp(min=1)


@loss.mistake(
    "`clamp(min=0)` turns a padding of -100 into a token that can be looked up. With 6 tokens and a padding of 50, what does the lookup meet?"
)
def padding_above_the_vocabulary(logits, tokens, pad_id):
    targets = tokens[:, 1:]
    losses = -logits[:, :-1].log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    keep = targets != pad_id
    return (losses * keep).sum() / keep.sum().clamp(min=1)


@loss.mistake(
    "The rows are joined before the shift, so the last logits of a row are judged by the first token of the next one. Which has to come first, the shift or the flattening?"
)
def rows_run_together(logits, tokens, pad_id):
    targets = tokens.flatten()[1:]
    total = torch.nn.functional.cross_entropy(logits.flatten(0, 1)[:-1], targets, ignore_index=pad_id, reduction="sum")
    return total / (targets != pad_id).sum().clamp(min=1)


@loss.mistake(
    "Each row ends for you at its first padding. Where the padding stands in front, nothing of the row is left; which targets does the text leave out?"
)
def ends_at_the_first_padding(logits, tokens, pad_id):
    keep = (tokens != pad_id).long().cumprod(1).bool()[:, 1:]
    losses = -logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:].clamp(0, logits.shape[-1] - 1)[..., None])[..., 0]
    return losses[keep].sum() / keep.sum().clamp(min=1)


@loss.mistake(
    "e to the power of 1,000 is inf, and inf/inf is NaN. What can be subtracted from all logits of a place without a change in their softmax, or which function does it for you?"
)
def exponentials_overflow(logits, tokens, pad_id):
    targets = tokens[:, 1:]
    keep = targets != pad_id
    size = logits[:, :-1].exp()
    chances = size / size.sum(-1, keepdim=True)
    chances = chances.gather(-1, targets.clamp(0, logits.shape[-1] - 1)[..., None])[..., 0]
    return -(chances.log()[keep]).sum() / keep.sum().clamp(min=1)


@loss.mistake(
    "-100 is left out wherever `pad_id` is negative, as PyTorch does unless told otherwise. With a padding of -1, where does your code read the argument?"
)
def below_zero_means_minus_100(logits, tokens, pad_id):
    targets = tokens[:, 1:]
    keep = targets != (-100 if pad_id < 0 else pad_id)
    losses = -logits[:, :-1].log_softmax(-1).gather(-1, targets.clamp(0, logits.shape[-1] - 1)[..., None])[..., 0]
    return losses[keep].sum() / keep.sum().clamp(min=1)


@loss.mistake("Your loss is negative: log p is never above 0. Which sign makes surprise a number to be made small?")
def sign_forgotten(logits, tokens, pad_id):
    return -attn_ref.causal_lm_loss(logits, tokens, pad_id)


@loss.mistake("Your loss is in bits, the logarithm to base 2. Which unit does the text ask for?")
def in_bits(logits, tokens, pad_id):
    return attn_ref.causal_lm_loss(logits, tokens, pad_id) / np.log(2)


@loss.mistake(
    "0 is left out in your answer, whatever the caller calls padding. Where does your code read the argument `pad_id`?"
)
def zero_is_padding(logits, tokens, pad_id):
    keep = (tokens[:, 1:] != 0) & (tokens[:, 1:] >= 0)
    losses = -logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:].clamp(0, logits.shape[-1] - 1)[..., None])[..., 0]
    return losses[keep].sum() / keep.sum().clamp(min=1)


@loss.mistake(
    "The loss is right, and the caller's tokens have changed: padding was overwritten in place. `tokens[:, 1:]` is a view; what would give you a tensor of your own?"
)
def padding_overwritten(logits, tokens, pad_id):
    targets = tokens[:, 1:]
    targets[targets == pad_id] = -100
    total = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), reduction="sum")
    return total / (targets != -100).sum().clamp(min=1)


@loss.also_right
def with_log_softmax(logits, tokens, pad_id):
    targets = tokens[:, 1:]
    keep = targets != pad_id
    if not keep.any():
        return logits.new_zeros(())
    log_p = torch.log_softmax(logits[:, :-1][keep], dim=-1)
    return -log_p[torch.arange(len(log_p)), targets[keep]].mean()


@loss.also_right
def token_by_token(logits, tokens, pad_id):
    total, count = 0.0, 0
    for row in range(tokens.shape[0]):
        for t in range(tokens.shape[1] - 1):
            target = int(tokens[row, t + 1])
            if target != pad_id:
                total += float(torch.logsumexp(logits[row, t], 0) - logits[row, t, target])
                count += 1
    return total / count if count else 0.0


@loss.also_right
def nan_mended(logits, tokens, pad_id):
    found = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), tokens[:, 1:], ignore_index=pad_id, reduction="none"
    )
    return torch.nan_to_num(found.sum() / (tokens[:, 1:] != pad_id).sum())


loss.hints(
    "Write a row of tokens, and below it what each position should foretell. Which logits have nothing to foretell?",
    "Drop the last logits and the first token; then both are (B, n - 1). Surprise is minus the log-softmax of the logits, read at the target.",
    '`F.cross_entropy` takes logits (m, vocab_size) and targets (m,), knows `ignore_index` and `reduction="sum"`. Divide by the number of real targets, or by 1.',
)
loss.errors(
    (
        "ValueError: Expected input batch_size (12) to match target batch_size (15).",
        "Logits and targets have different numbers of positions. Only one of the two has lost an entry in each row.",
    ),
    (
        "RuntimeError: index -100 is out of bounds for dimension 2 with size 6",
        "`gather` looks up every target, padding too, and -100 is no token. Put any real token there first.",
    ),
)

# --- 7.5 -------------------------------------------------------------------------------------------------------------


def coreference_score(weights, pronoun, candidates):
    """How the pronoun's attention divides among the candidates.  (layers, heads, n, n) -> (layers, heads, candidates)"""
    return attn_ref.coreference_score(weights, pronoun, candidates)


coreference = Exercise(
    "7.5",
    "Whom does the pronoun look at?",
    reference=coreference_score,
    minutes=10,
    forbids=("attn_ref.coreference_score", "attn_ref.diagnose.coreference_score"),
)


@coreference.criterion("the pronoun's weights on the candidates, as shares of what they get together", points=2)
def among_candidates(rng):
    one = torch.tensor([[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.6, 0.2, 0.2]]]], dtype=torch.float64)
    yield dict(weights=one, pronoun=2, candidates=[0, 1])
    yield dict(weights=shares(rng, 2, 3, 7, 7), pronoun=6, candidates=[1, 4])
    yield dict(weights=shares(rng, 3, 4, 5, 5), pronoun=1, candidates=[4, 0])


@coreference.criterion("any number of candidates, in the order given; any number of layers and heads", points=1)
def any_candidates(rng):
    yield dict(weights=shares(rng, 6, 5, 8, 8), pronoun=3, candidates=[7, 2, 0])
    yield dict(weights=shares(rng, 4, 4, 4, 4), pronoun=2, candidates=[3, 0, 1, 2])
    yield dict(weights=shares(rng, 3, 3, 3, 3), pronoun=1, candidates=[2, 0, 1])
    yield dict(weights=shares(rng, 2, 1, 6, 6), pronoun=5, candidates=[4])
    yield dict(weights=shares(rng, 1, 1, 6, 6), pronoun=0, candidates=[2, 5])


@coreference.criterion("a head that gives the candidates nothing scores 0 for each", points=1)
def nothing_for_candidates(rng):
    weights = shares(rng, 2, 3, 5, 5)
    weights[0, 1, 4] = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
    yield dict(weights=weights, pronoun=4, candidates=[1, 3])
    faint = shares(rng, 1, 2, 4, 4)
    faint[0, 0, 3] = torch.tensor([3e-9, 1e-9, 1 - 4e-9, 0.0])
    yield dict(weights=faint, pronoun=3, candidates=[0, 1])
    fainter = shares(rng, 1, 2, 4, 4)
    fainter[0, 1, 3] = torch.tensor([3e-30, 1e-30, 1.0, 0.0], dtype=torch.float64)
    yield dict(weights=fainter, pronoun=3, candidates=[1, 0])


coreference.leaves_inputs_alone(points=1)


@coreference.mistake(
    "You read the pronoun's column: who looks at it. Queries go down and keys go across; which index of weights[layer, head] is the one who looks?"
)
def column_for_row(weights, pronoun, candidates):
    among = weights[:, :, candidates, pronoun]
    total = among.sum(-1, keepdim=True)
    return among / torch.where(total > 0, total, 1)


@coreference.mistake(
    "These are the weights as they are. A head that spends 0.2 on the candidates and one that spends 0.9 cannot be compared so; what should each be divided by?"
)
def weights_as_they_are(weights, pronoun, candidates):
    return weights[:, :, pronoun, candidates]


@coreference.mistake(
    "Softmax over weights that are shares already makes them nearly equal: (0.9, 0.1) becomes (0.69, 0.31). They are positive; what is the shortest way to a sum of 1?"
)
def softmax_over_shares(weights, pronoun, candidates):
    return weights[:, :, pronoun, candidates].softmax(-1)


@coreference.mistake(
    "Your shares sum to 1 over the heads. Each head has a score of its own; along which axis do the candidates lie?"
)
def shares_over_heads(weights, pronoun, candidates):
    among = weights[:, :, pronoun, candidates]
    total = among.sum(1, keepdim=True)
    return among / torch.where(total > 0, total, 1)


@coreference.mistake(
    "One total serves all layers and heads. A head's shares should sum to 1; along which axis do the candidates lie?"
)
def one_total_for_all(weights, pronoun, candidates):
    among = weights[:, :, pronoun, candidates]
    return among / among.sum()


@coreference.mistake(
    "Right until a head gives the candidates nothing: 0/0 is NaN, and one NaN makes a mean over stories NaN. What is that head's score?"
)
def nan_for_a_head_that_looks_away(weights, pronoun, candidates):
    among = weights[:, :, pronoun, candidates]
    return among / among.sum(-1, keepdim=True)


@coreference.mistake(
    "A small number in the denominator keeps NaN away, and faint weights lose their shares: 3e-9 and 1e-9 should still be ¾ and ¼. Can the total be replaced only where it is 0?"
)
def small_number_in_the_total(weights, pronoun, candidates):
    among = weights[:, :, pronoun, candidates]
    return among / (among.sum(-1, keepdim=True) + 1e-8)


@coreference.mistake(
    "The total has a floor, as in `clamp(min=1e-12)` or the `eps` of `normalize`: below it the shares no longer sum to 1. The text says how little is too little; which totals should be replaced?"
)
def floor_under_the_total(weights, pronoun, candidates):
    return torch.nn.functional.normalize(weights[:, :, pronoun, candidates], p=1, dim=-1)


@coreference.mistake(
    "A head that gives the candidates nothing gets equal shares in your answer, as if it were undecided. It does not look at them at all; what does the text ask for?"
)
def equal_for_a_head_that_looks_away(weights, pronoun, candidates):
    among = weights[:, :, pronoun, candidates]
    total = among.sum(-1, keepdim=True)
    return torch.where(total > 0, among / torch.where(total > 0, total, 1), 1 / len(candidates))


@coreference.mistake(
    "The heads are averaged away. One head that points and seven that do not would look like a faint tendency; how many numbers should there be for each candidate?"
)
def heads_averaged(weights, pronoun, candidates):
    among = weights[:, :, pronoun, candidates].mean(1)
    return among / among.sum(-1, keepdim=True)


@coreference.mistake(
    "You answer which candidate comes first, with 1 and 0. How far the others are behind is gone; the text asks for shares."
)
def winner_takes_all(weights, pronoun, candidates):
    among = weights[:, :, pronoun, candidates]
    return torch.nn.functional.one_hot(among.argmax(-1), len(candidates)).to(weights.dtype) * (
        among.sum(-1, keepdim=True) > 0
    )


@coreference.mistake(
    "Your candidates come out in the order of their positions. The caller may name them in any order, and reads the answers in that one."
)
def candidates_sorted(weights, pronoun, candidates):
    among = weights[:, :, pronoun, sorted(candidates)]
    total = among.sum(-1, keepdim=True)
    return among / torch.where(total > 0, total, 1)


@coreference.mistake("You compare the first two candidates and no others. How many are there in `candidates`?")
def two_candidates_only(weights, pronoun, candidates):
    among = weights[:, :, pronoun, candidates[:2]]
    total = among.sum(-1, keepdim=True)
    return among / torch.where(total > 0, total, 1)


@coreference.mistake(
    "Layers and heads have changed places. weights is (layers, heads, n, n); in which order should the answer's first two axes stand?"
)
def heads_before_layers(weights, pronoun, candidates):
    among = weights[:, :, pronoun, candidates]
    total = among.sum(-1, keepdim=True)
    return (among / torch.where(total > 0, total, 1)).swapaxes(0, 1)


@coreference.mistake(
    "The shares are right, and the caller's map has been written to: `weights[:, :, pronoun]` is a view, and `/=` changes what it shows. Which form makes a new tensor?"
)
def row_divided_in_place(weights, pronoun, candidates):
    row = weights[:, :, pronoun]
    total = row[..., candidates].sum(-1, keepdim=True)
    row /= torch.where(total > 0, total, 1)
    return row[..., candidates]


@coreference.also_right
def head_by_head(weights, pronoun, candidates):
    scores = []
    for layer in weights.tolist():
        scores.append([])
        for head in layer:
            among = [head[pronoun][candidate] for candidate in candidates]
            scores[-1].append([share / sum(among) if sum(among) else 0.0 for share in among])
    return scores


@coreference.also_right
def chosen_with_a_matrix(weights, pronoun, candidates):
    chosen = torch.nn.functional.one_hot(torch.tensor(candidates), weights.shape[-1]).to(weights.dtype)
    among = torch.einsum("lhk,ck->lhc", weights[:, :, pronoun], chosen)
    return torch.nan_to_num(among / among.sum(2)[..., None])


@coreference.also_right
def masked_and_gathered(weights, pronoun, candidates):
    places = torch.as_tensor(candidates)
    among = weights.select(2, pronoun).index_select(-1, places)
    return torch.nn.functional.normalize(among, p=1, dim=-1, eps=1e-300)


coreference.hints(
    "weights[layer, head, i, j] is what query i spends on key j. Which of the two is the pronoun?",
    "Take the pronoun's row in every layer and head, and of it the candidates' entries; a list as an index picks them. Divide by their sum along the last axis, kept, and by 1 where it is 0.",
)

# --- 7.6 -------------------------------------------------------------------------------------------------------------


def ablate_head(model, layer, head, measure):
    """The result of measure() while `head` of `model.blocks[layer]` adds nothing; afterwards all is as before."""
    with attn_ref.ablate_head(model, layer, head):
        return measure()


ablate = Exercise(
    "7.6",
    "Switch a head off, and on again",
    reference=ablate_head,
    minutes=25,
    isolate=False,  # gradients are computed, and torch may refuse a backward pass in a fork
    forbids=("attn_ref.ablate_head", "attn_ref.ablation.ablate_head"),
)


def strong_model(n_layers, n_heads, d_head):
    """A TinyLM in float64 whose weights are large enough for every head to matter."""
    model = attn_ref.TinyLM(vocab_size=9, d_model=n_heads * d_head, n_layers=n_layers, n_heads=n_heads).double()
    generator = torch.Generator().manual_seed(n_layers + 10 * n_heads)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(drawn * (0.5 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5))
        model.embed.weight *= 20  # which makes the logits, too
    return model


@ablate.probe
def drive_ablation(answer, n_layers, n_heads, d_head, layer, head, tokens, ask="inside", other=None, training=True):
    """What the answer measures on a model, and whether the model is the same afterwards."""
    model = strong_model(n_layers, n_heads, d_head).train(training)

    calls = []

    def logits():
        calls.append(1)
        with torch.no_grad():
            return model(tokens)

    def fails():
        raise KeyError("from inside measure")

    def gradient():
        calls.append(model.training)
        return torch.autograd.grad((model(tokens) ** 2).mean(), model.embed.weight)[0]

    if ask == "gradient":
        found = {"a gradient taken in measure": answer(model, layer, head, gradient)}
        return found | {"the mode in measure as before": calls == [training]}
    before = logits()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    objects = list(model.parameters())
    calls.clear()
    found = {"what it measured": answer(model, layer, head, logits)}
    if ask == "inside":
        return found | {"how often it called measure": len(calls)}
    if ask == "nested":
        found["two heads off"] = answer(model, layer, head, lambda: answer(model, *other, logits))
        found["the inner one on again"] = answer(
            model, layer, head, lambda: [answer(model, *other, logits), logits()][1]
        )
        return found
    if ask == "error":
        try:
            answer(model, layer, head, fails)
            found["the error came through"] = False
        except KeyError as error:
            found["the error came through"] = "from inside measure" in str(error)
    same = model.state_dict()
    found["afterwards, the same logits to the last bit"] = torch.equal(logits(), before)
    found["afterwards, every weight as before"] = same.keys() == weights.keys() and all(
        torch.equal(same[name], weights[name]) for name in weights
    )
    found["afterwards, the same parameters"] = all(
        one is other for one, other in zip(model.parameters(), objects, strict=True)
    )
    found["afterwards, weights that can be trained"] = all(one.requires_grad for one in model.parameters())
    found["afterwards, the mode as before"] = model.training == training
    return found


@ablate.criterion("it gives what `measure` gives while that head adds nothing and all others work", points=2)
def one_head_off(rng):
    for n_layers, n_heads, d_head in ((1, 2, 4), (2, 3, 2), (3, 4, 6), (3, 1, 4), (2, 2, 2)):
        for layer, head in sorted({(0, 0), (n_layers - 1, n_heads - 1), (n_layers - 1, n_heads // 2)}):
            tokens = ids(rng, n_layers * 2, 9, vocab_size=9)  # as many tokens as the vocabulary has
            yield dict(n_layers=n_layers, n_heads=n_heads, d_head=d_head, layer=layer, head=head, tokens=tokens)


@ablate.criterion("afterwards the model is as it was, to the last bit", points=1)
def restored(rng):
    tokens = ids(rng, 3, 4, vocab_size=9)
    yield dict(n_layers=2, n_heads=3, d_head=2, layer=1, head=1, tokens=tokens, ask="after")
    yield dict(n_layers=1, n_heads=2, d_head=6, layer=0, head=0, tokens=tokens[:1], ask="after")
    yield dict(n_layers=1, n_heads=3, d_head=4, layer=0, head=1, tokens=tokens, ask="after", training=False)


@ablate.criterion("also after an error in `measure`, which comes through", points=1)
def restored_after_an_error(rng):
    tokens = ids(rng, 2, 5, vocab_size=9)
    yield dict(n_layers=2, n_heads=3, d_head=2, layer=0, head=2, tokens=tokens, ask="error")


@ablate.criterion("`measure` is free to switch off a second head, or to take a gradient", points=1)
def nested(rng):
    tokens = ids(rng, 2, 5, vocab_size=9)
    yield dict(n_layers=2, n_heads=3, d_head=2, layer=1, head=0, tokens=tokens, ask="nested", other=(1, 2))
    yield dict(n_layers=3, n_heads=2, d_head=4, layer=0, head=1, tokens=tokens, ask="nested", other=(2, 1))
    yield dict(n_layers=2, n_heads=3, d_head=4, layer=0, head=1, tokens=tokens, ask="gradient")
    yield dict(n_layers=2, n_heads=2, d_head=2, layer=1, head=0, tokens=tokens, ask="gradient", training=False)


@ablate.mistake(
    "You silence one number, not one head. Head h owns the numbers h·d to h·d + d - 1 of what reaches `w_o`; how long is d here?"
)
def one_number_silenced(model, layer, head, measure):
    def silence(module, inputs):
        heads = inputs[0].clone()
        heads[..., head] = 0
        return (heads,)

    hook = model.blocks[layer].attention.w_o.register_forward_pre_hook(silence)
    try:
        return measure()
    finally:
        hook.remove()


@ablate.mistake(
    "You silence the wrong numbers: every n_heads-th one, as if the heads lay interleaved. Which numbers belong to head h after `merge_heads`?"
)
def interleaved_heads(model, layer, head, measure):
    attention = model.blocks[layer].attention

    def silence(module, inputs):
        heads = inputs[0].clone()
        heads[..., head :: attention.n_heads] = 0
        return (heads,)

    hook = attention.w_o.register_forward_pre_hook(silence)
    try:
        return measure()
    finally:
        hook.remove()


@ablate.mistake(
    "The next head is silent, not the one that was asked for. Heads are counted from 0; where does head 0 begin?"
)
def the_next_head(model, layer, head, measure):
    attention = model.blocks[layer].attention
    d = attention.d_model // attention.n_heads
    start = (head + 1) % attention.n_heads * d

    def silence(module, inputs):
        heads = inputs[0].clone()
        heads[..., start : start + d] = 0
        return (heads,)

    hook = attention.w_o.register_forward_pre_hook(silence)
    try:
        return measure()
    finally:
        hook.remove()


@ablate.mistake(
    "Only the head that was asked for still works; all others are silent. Which part of the sum should be 0, the slice or the rest?"
)
def all_the_others(model, layer, head, measure):
    attention = model.blocks[layer].attention
    d = attention.d_model // attention.n_heads

    def silence(module, inputs):
        heads = torch.zeros_like(inputs[0])
        heads[..., head * d : (head + 1) * d] = inputs[0][..., head * d : (head + 1) * d]
        return (heads,)

    hook = attention.w_o.register_forward_pre_hook(silence)
    try:
        return measure()
    finally:
        hook.remove()


@ablate.mistake("The whole attention of that layer is silent. Where does the argument `head` enter?")
def the_whole_layer(model, layer, head, measure):
    hook = model.blocks[layer].attention.w_o.register_forward_pre_hook(
        lambda module, inputs: (torch.zeros_like(inputs[0]),)
    )
    try:
        return measure()
    finally:
        hook.remove()


@ablate.mistake("The head is silent in every layer. Where does the argument `layer` enter?")
def every_layer(model, layer, head, measure):
    hooks = []
    for block in model.blocks:
        d = block.attention.d_model // block.attention.n_heads

        def silence(module, inputs, d=d):
            heads = inputs[0].clone()
            heads[..., head * d : (head + 1) * d] = 0
            return (heads,)

        hooks.append(block.attention.w_o.register_forward_pre_hook(silence))
    try:
        return measure()
    finally:
        for hook in hooks:
            hook.remove()


@ablate.mistake(
    "You silence rows of `w_o.weight`. A row makes one number of the layer's result, out of all heads; which of the two axes of W_o reads the heads?"
)
def rows_of_w_o(model, layer, head, measure):
    attention = model.blocks[layer].attention
    d = attention.d_model // attention.n_heads
    kept = attention.w_o.weight.detach().clone()
    with torch.no_grad():
        attention.w_o.weight[head * d : (head + 1) * d] = 0
    try:
        return measure()
    finally:
        with torch.no_grad():
            attention.w_o.weight.copy_(kept)


@ablate.mistake(
    "You silence numbers of what `w_o` gives, in which all heads are mixed already. Where do the heads still lie side by side?"
)
def result_silenced(model, layer, head, measure):
    attention = model.blocks[layer].attention
    d = attention.d_model // attention.n_heads

    def silence(module, inputs, result):
        result = result.clone()
        result[..., head * d : (head + 1) * d] = 0
        return result

    hook = attention.w_o.register_forward_hook(silence)
    try:
        return measure()
    finally:
        hook.remove()


@ablate.mistake(
    "With queries of 0 all scores are equal, and the head averages all tokens that it may see. That is a blind head and not a silent one: what of it still reaches `w_o`?"
)
def queries_silenced(model, layer, head, measure):
    attention = model.blocks[layer].attention
    d = attention.d_model // attention.n_heads
    kept = attention.w_q.weight.detach().clone(), attention.w_q.bias.detach().clone()
    with torch.no_grad():
        attention.w_q.weight[head * d : (head + 1) * d] = 0
        attention.w_q.bias[head * d : (head + 1) * d] = 0
    try:
        return measure()
    finally:
        with torch.no_grad():
            attention.w_q.weight.copy_(kept[0])
            attention.w_q.bias.copy_(kept[1])


@ablate.mistake(
    "The rows of `w_v.weight` are 0 and its bias is not, so the head still hands on its bias. What else makes the values?"
)
def bias_left_speaking(model, layer, head, measure):
    attention = model.blocks[layer].attention
    d = attention.d_model // attention.n_heads
    kept = attention.w_v.weight.detach().clone()
    with torch.no_grad():
        attention.w_v.weight[head * d : (head + 1) * d] = 0
    try:
        return measure()
    finally:
        with torch.no_grad():
            attention.w_v.weight.copy_(kept)


@ablate.mistake(
    "The head is halved, and still speaks. By which number must its part be multiplied so that nothing is left?"
)
def halved(model, layer, head, measure):
    attention = model.blocks[layer].attention
    d = attention.d_model // attention.n_heads

    def soften(module, inputs):
        heads = inputs[0].clone()
        heads[..., head * d : (head + 1) * d] /= 2
        return (heads,)

    hook = attention.w_o.register_forward_pre_hook(soften)
    try:
        return measure()
    finally:
        hook.remove()


@ablate.mistake(
    "The head stays silent afterwards: nothing is undone, or what you kept was a view and turned 0 with the rest. Every later measurement is one of a damaged model; what belongs after the measurement?"
)
def never_undone(model, layer, head, measure):
    attention = model.blocks[layer].attention
    d = attention.d_model // attention.n_heads
    with torch.no_grad():
        attention.w_o.weight[:, head * d : (head + 1) * d] = 0
    return measure()


@ablate.mistake(
    "Afterwards W_o is a new parameter. Its numbers are right, and an optimizer made before still holds the old one; can the numbers be put back into the parameter that is there?"
)
def parameter_exchanged(model, layer, head, measure):
    w_o = model.blocks[layer].attention.w_o
    d = w_o.in_features // model.blocks[layer].attention.n_heads
    kept = w_o.weight.detach().clone()
    changed = kept.clone()
    changed[:, head * d : (head + 1) * d] = 0
    w_o.weight = torch.nn.Parameter(changed)
    try:
        return measure()
    finally:
        w_o.weight = torch.nn.Parameter(kept)


@ablate.mistake(
    "Right until `measure` raises an error: then the lines after `measure()` are never reached, and the model stays damaged. Which two words of Python run a line whatever happens?"
)
def without_finally(model, layer, head, measure):
    attention = model.blocks[layer].attention
    d = attention.d_model // attention.n_heads

    def silence(module, inputs):
        heads = inputs[0].clone()
        heads[..., head * d : (head + 1) * d] = 0
        return (heads,)

    hook = attention.w_o.register_forward_pre_hook(silence)
    result = measure()
    hook.remove()
    return result


@ablate.mistake(
    "The model is restored, and the error from `measure` is gone too: nobody learns that the measurement failed. What does `except` do that `finally` does not?"
)
def error_swallowed(model, layer, head, measure):
    attention = model.blocks[layer].attention
    d = attention.d_model // attention.n_heads

    def silence(module, inputs):
        heads = inputs[0].clone()
        heads[..., head * d : (head + 1) * d] = 0
        return (heads,)

    hook = attention.w_o.register_forward_pre_hook(silence)
    try:
        result = measure()
    except Exception:
        result = None
    hook.remove()
    return result


@ablate.mistake(
    "The end of an inner measurement switches the outer head on again: you clear every hook. Which one did this call make?"
)
def every_hook_cleared(model, layer, head, measure):
    attention = model.blocks[layer].attention
    d = attention.d_model // attention.n_heads

    def silence(module, inputs):
        heads = inputs[0].clone()
        heads[..., head * d : (head + 1) * d] = 0
        return (heads,)

    attention.w_o.register_forward_pre_hook(silence)
    try:
        return measure()
    finally:
        for block in model.blocks:
            block.attention.w_o._forward_pre_hooks.clear()


@ablate.mistake(
    "`measure` runs on the whole model: nothing is off meanwhile. Is the head on again before `measure` is called, or does a hook change a copy that it does not return?"
)
def measured_too_late(model, layer, head, measure):
    attention = model.blocks[layer].attention
    d = attention.d_model // attention.n_heads
    kept = attention.w_o.weight.detach().clone()
    with torch.no_grad():
        attention.w_o.weight[:, head * d : (head + 1) * d] = 0
        attention.w_o.weight.copy_(kept)
    return measure()


@ablate.mistake(
    "You measured and kept the result to yourself: your function gives None. Which word hands it to the caller?"
)
def result_kept(model, layer, head, measure):
    attention = model.blocks[layer].attention
    d = attention.d_model // attention.n_heads

    def silence(module, inputs):
        heads = inputs[0].clone()
        heads[..., head * d : (head + 1) * d] = 0
        return (heads,)

    hook = attention.w_o.register_forward_pre_hook(silence)
    try:
        measure()
    finally:
        hook.remove()


@ablate.mistake(
    "`measure` is called twice, and one of the two results is thrown away. A measurement may take a minute, or draw random numbers; how often does the text ask for it?"
)
def measured_twice(model, layer, head, measure):
    measure()
    with attn_ref.ablate_head(model, layer, head):
        return measure()


@ablate.mistake(
    "The weights come back, and the model is left in evaluation mode. Whoever trains on would train without dropout; did the contract ask for a change of mode?"
)
def mode_left_changed(model, layer, head, measure):
    attention = model.blocks[layer].attention
    d = attention.d_model // attention.n_heads

    def silence(module, inputs):
        heads = inputs[0].clone()
        heads[..., head * d : (head + 1) * d] = 0
        return (heads,)

    model.eval()
    hook = attention.w_o.register_forward_pre_hook(silence)
    try:
        return measure()
    finally:
        hook.remove()


@ablate.mistake(
    "The weights come back, and the model ends in training mode, whatever its mode was. Does the text ask for any change of mode?"
)
def trained_on_afterwards(model, layer, head, measure):
    attention = model.blocks[layer].attention
    d = attention.d_model // attention.n_heads

    def silence(module, inputs):
        heads = inputs[0].clone()
        heads[..., head * d : (head + 1) * d] = 0
        return (heads,)

    model.eval()
    hook = attention.w_o.register_forward_pre_hook(silence)
    try:
        return measure()
    finally:
        hook.remove()
        model.train()


@ablate.mistake(
    "`measure` runs inside your `torch.no_grad()`, so it cannot take a gradient. Which lines need that block, and which only stand in it?"
)
def measured_without_gradients(model, layer, head, measure):
    attention = model.blocks[layer].attention
    d = attention.d_model // attention.n_heads
    columns = slice(head * d, (head + 1) * d)
    with torch.no_grad():
        kept = attention.w_o.weight[:, columns].clone()
        attention.w_o.weight[:, columns] = 0
        try:
            return measure()
        finally:
            attention.w_o.weight[:, columns] = kept


@ablate.mistake(
    "Your hook cuts the other heads off from their gradient: `detach` or `.data` hands on numbers without a history. Which copy keeps it?"
)
def hook_detached(model, layer, head, measure):
    attention = model.blocks[layer].attention
    d = attention.d_model // attention.n_heads

    def silence(module, inputs):
        heads = inputs[0].detach().clone()
        heads[..., head * d : (head + 1) * d] = 0
        return (heads,)

    hook = attention.w_o.register_forward_pre_hook(silence)
    try:
        return measure()
    finally:
        hook.remove()


@ablate.mistake(
    "The numbers are back, and `w_o.weight` can no longer be trained: its `requires_grad` stays off. Is there a way to write to a weight that changes nothing else?"
)
def left_untrainable(model, layer, head, measure):
    w_o = model.blocks[layer].attention.w_o
    d = w_o.in_features // model.blocks[layer].attention.n_heads
    kept = w_o.weight.detach().clone()
    w_o.weight.requires_grad_(False)
    w_o.weight[:, head * d : (head + 1) * d] = 0
    try:
        return measure()
    finally:
        w_o.weight.copy_(kept)


@ablate.mistake(
    "You silence n_heads numbers, from head · n_heads on. How many numbers is one head long, and where does head 1 begin?"
)
def heads_for_width(model, layer, head, measure):
    attention = model.blocks[layer].attention
    d = attention.n_heads

    def silence(module, inputs):
        heads = inputs[0].clone()
        heads[..., head * d : (head + 1) * d] = 0
        return (heads,)

    hook = attention.w_o.register_forward_pre_hook(silence)
    try:
        return measure()
    finally:
        hook.remove()


@ablate.also_right
def columns_put_aside(model, layer, head, measure):
    attention = model.blocks[layer].attention
    d = attention.d_model // attention.n_heads
    with torch.no_grad():
        columns = attention.w_o.weight[:, head * d : (head + 1) * d]
        kept = columns.clone()
        columns.zero_()
    try:
        return measure()
    finally:
        with torch.no_grad():
            columns.copy_(kept)


@ablate.also_right
def values_silenced(model, layer, head, measure):
    class Off:
        def __enter__(self):
            attention = model.blocks[layer].attention
            d = attention.d_model // attention.n_heads
            self.parts = [one.data[head * d : (head + 1) * d] for one in (attention.w_v.weight, attention.w_v.bias)]
            self.kept = [part.clone() for part in self.parts]
            for part in self.parts:
                part.fill_(0)

        def __exit__(self, *error):
            for part, kept in zip(self.parts, self.kept, strict=True):
                part.copy_(kept)

    with Off():
        return measure()


@ablate.also_right
def forward_wrapped(model, layer, head, measure):
    w_o = model.blocks[layer].attention.w_o
    n_heads, usual = model.blocks[layer].attention.n_heads, w_o.forward
    keep = (torch.arange(n_heads) != head).repeat_interleave(w_o.in_features // n_heads)
    w_o.forward = lambda x: usual(x * keep)
    try:
        return measure()
    finally:
        w_o.forward = usual


ablate.hints(
    "What a head found reaches the rest of the model through `w_o` alone, as d of its H·d inputs. Which d belong to head h?",
    "Two ways: a hook on `w_o` (`register_forward_pre_hook`) that hands on a copy of its input with those numbers at 0; or zeros in those columns of `w_o.weight`, put back afterwards from a copy.",
    "Switch the head off first. Then `try:` with the measurement, and `finally:` with what undoes the change; that runs after an error too.",
)
ablate.errors(
    (
        "RuntimeError: a view of a leaf Variable that requires grad is being used in an in-place operation.",
        "Torch guards weights that it trains. Write to them inside <code>with torch.no_grad():</code>.",
    ),
    (
        "AttributeError: 'tuple' object has no attribute 'clone'",
        "A hook gets the inputs of its module as a tuple, here of one: <code>inputs[0]</code>. It hands on a tuple too.",
    ),
)

# --- 7.7 -------------------------------------------------------------------------------------------------------------


def induction_score(weights, tokens):
    """How much a token seen before looks at what came after it then.  (layers, heads, n, n), (n,) -> (layers, heads)"""
    return attn_ref.induction_score(weights, tokens)


induction = Exercise(
    "7.7",
    "Does it look at what came next?",
    reference=induction_score,
    minutes=15,
    forbids=("attn_ref.induction_score", "attn_ref.diagnose.induction_score"),
)


@induction.criterion("a token seen before: its weight on the successor of the earlier occurrence, averaged", points=2)
def once_repeated(rng):
    perfect = torch.eye(6, dtype=torch.float64)[[0, 0, 0, 1, 2, 3]][None, None]
    yield dict(weights=perfect, tokens=torch.tensor([7, 8, 9, 7, 8, 9]))
    one_miss = torch.eye(6, dtype=torch.float64)[[0, 0, 0, 1, 4, 3]][None, None]
    yield dict(weights=one_miss, tokens=torch.tensor([7, 8, 9, 7, 8, 9]))
    yield dict(weights=shares(rng, 6, 3, 8, 8), tokens=torch.tensor([4, 1, 3, 2, 4, 1, 3, 2]))
    yield dict(weights=shares(rng, 1, 2, 10, 10), tokens=torch.tensor([4, 1, 3, 2, 9, 4, 1, 3, 2, 9]))


@induction.criterion("several earlier occurrences: the weights on all their successors add up", points=1)
def several_times(rng):
    yield dict(weights=shares(rng, 2, 3, 9, 9), tokens=torch.tensor([4, 1, 3, 4, 1, 3, 4, 1, 3]))
    yield dict(weights=shares(rng, 3, 3, 3, 3), tokens=torch.tensor([5, 5, 5]))
    yield dict(weights=shares(rng, 2, 1, 8, 8), tokens=torch.from_numpy(rng.integers(3, size=8)))


@induction.criterion("only tokens that occurred earlier count, wherever they stand", points=1)
def new_tokens_left_out(rng):
    yield dict(weights=shares(rng, 2, 3, 7, 7), tokens=torch.tensor([6, 2, 8, 2, 5, 9, 1]))
    yield dict(weights=shares(rng, 1, 1, 7, 7), tokens=torch.tensor([0, 2, 8, 3, 5, 2, 0]))
    yield dict(weights=shares(rng, 2, 2, 2, 2), tokens=torch.tensor([1, 1]))


induction.leaves_inputs_alone(points=1)


@induction.mistake(
    "You measure the weight on the earlier occurrence itself. That is a duplicate-token head; an induction head looks one place further, at what the model could copy. Which index does that change?"
)
def looks_at_the_same_token(weights, tokens):
    same = (tokens[:, None] == tokens).tril(-1)
    return (weights * same).sum(-1)[..., same.any(1)].mean(-1)


@induction.mistake(
    "You measure the weight on the token before the earlier occurrence. What an induction head wants to copy stands on the other side of it; does the key come before or after?"
)
def looks_at_the_one_before(weights, tokens):
    same = (tokens[:, None] == tokens).tril(-1)
    before = torch.zeros_like(same)
    before[:, :-1] = same[:, 1:]
    again = same.any(1)
    return (weights * before).sum(-1)[..., again].mean(-1)


@induction.mistake(
    "This is the weight on the token just before the query, whatever it is: a previous-token head. Which earlier place does the query's own token point to?"
)
def previous_token(weights, tokens):
    again = (tokens[:, None] == tokens).tril(-1).any(1)
    places = torch.nonzero(again)[:, 0]
    return weights[..., places, places - 1].mean(-1)


@induction.mistake(
    "You read columns: how much the successor looks back at the query. Queries go down and keys go across; which of the two stands first in weights[layer, head, i, j]?"
)
def turned_map(weights, tokens):
    same = (tokens[:, None] == tokens).tril(-1)
    follows = torch.zeros_like(same)
    follows[:, 1:] = same[:, :-1]
    return (weights.transpose(-1, -2) * follows).sum(-1)[..., follows.any(1)].mean(-1)


@induction.mistake(
    "You assume that the second half repeats the first, so that the successor stands n/2 - 1 places back. The tokens say where it stands; are they read at all?"
)
def half_a_text_back(weights, tokens):
    n = len(tokens)
    later = torch.arange(max(1, n // 2), n)
    return weights[..., later, later - n // 2 + 1].mean(-1)


@induction.mistake(
    "You follow the latest earlier occurrence and no other. If a token occurred twice before, two successors may be looked at; what becomes of their weights?"
)
def latest_occurrence_only(weights, tokens):
    found = []
    for i in range(len(tokens)):
        earlier = [j for j in range(i) if tokens[j] == tokens[i]]
        if earlier:
            found.append(weights[..., i, earlier[-1] + 1])
    return torch.stack(found, -1).mean(-1)


@induction.mistake(
    "You follow the first occurrence and no other. If a token occurred twice before, two successors may be looked at; what becomes of their weights?"
)
def first_occurrence_only(weights, tokens):
    found = []
    for i in range(len(tokens)):
        earlier = [j for j in range(i) if tokens[j] == tokens[i]]
        if earlier:
            found.append(weights[..., i, earlier[0] + 1])
    return torch.stack(found, -1).mean(-1)


@induction.mistake(
    "Where a token occurred several times, you average the weights on the successors. A head that looks at two of them with ½ each looks nowhere else; what should such a head score?"
)
def successors_averaged(weights, tokens):
    found = []
    for i in range(len(tokens)):
        after = [j + 1 for j in range(i) if tokens[j] == tokens[i]]
        if after:
            found.append(weights[..., i, after].mean(-1))
    return torch.stack(found, -1).mean(-1)


@induction.mistake(
    "You divide by all n tokens. The first occurrence of a token has nothing to repeat; over which queries is the mean to be taken?"
)
def new_tokens_counted(weights, tokens):
    same = (tokens[:, None] == tokens).tril(-1)
    follows = torch.zeros_like(same)
    follows[:, 1:] = same[:, :-1]
    return (weights * follows).sum(-1).mean(-1)


@induction.mistake(
    "A query whose sum is 0 is left out of your mean. It occurred before and looked elsewhere: that is a miss, and counts as 0. By what do you know that a query counts?"
)
def misses_left_out(weights, tokens):
    same = (tokens[:, None] == tokens).tril(-1)
    follows = torch.zeros_like(same)
    follows[:, 1:] = same[:, :-1]
    sums = (weights * follows).sum(-1)
    return sums.sum(-1) / (sums > 0).sum(-1).clamp(min=1)


@induction.mistake(
    "No earlier occurrence is ever found. As the key of a dictionary or in a set, a tensor of one number stands for itself and not for its number; how do you get the number out?"
)
def tensors_as_keys(weights, tokens):
    seen, total, count = {}, torch.zeros_like(weights[..., 0, 0]), 0
    for i, token in enumerate(tokens):
        if token in seen:
            total = total + sum(weights[..., i, j + 1] for j in seen[token])
            count += 1
        seen.setdefault(token, []).append(i)
    return total / max(count, 1)


@induction.mistake(
    "The weights are added up and not averaged, so a longer text scores higher. By how many queries should the sum be divided?"
)
def never_averaged(weights, tokens):
    same = (tokens[:, None] == tokens).tril(-1)
    follows = torch.zeros_like(same)
    follows[:, 1:] = same[:, :-1]
    return (weights * follows).sum((-1, -2))


@induction.mistake(
    "Each token counts as an earlier occurrence of itself, so its weight on the next place is added everywhere. From which places on is `earlier` true?"
)
def itself_counts_as_earlier(weights, tokens):
    same = (tokens[:, None] == tokens).tril(0)
    follows = torch.zeros_like(same)
    follows[:, 1:] = same[:, :-1]
    again = (tokens[:, None] == tokens).tril(-1).any(1)
    return (weights * follows).sum(-1)[..., again].mean(-1)


@induction.mistake(
    "Later occurrences count too. A causal map is 0 there and hides it; an encoder's map is not. Which occurrences are earlier than the query?"
)
def later_occurrences_too(weights, tokens):
    same = (tokens[:, None] == tokens) & ~torch.eye(len(tokens), dtype=torch.bool)
    follows = torch.zeros_like(same)
    follows[:, 1:] = same[:, :-1]
    again = (tokens[:, None] == tokens).tril(-1).any(1)
    return (weights * follows).sum(-1)[..., again].mean(-1)


@induction.mistake(
    "You leave out the query itself. In x x the successor of the first x is the second x, which may look at itself; where does your range of keys end?"
)
def never_at_itself(weights, tokens):
    same = (tokens[:, None] == tokens).tril(-1)
    follows = torch.zeros_like(same)
    follows[:, 1:] = same[:, :-1]
    return (weights * follows.tril(-1)).sum(-1)[..., follows.any(1)].mean(-1)


@induction.mistake(
    "Of several successors you keep the weight of the one most looked at. A head with ½ on each of two looks nowhere else; what should it score?"
)
def largest_successor(weights, tokens):
    same = (tokens[:, None] == tokens).tril(-1)
    follows = torch.zeros_like(same)
    follows[:, 1:] = same[:, :-1]
    return (weights * follows).amax(-1)[..., follows.any(1)].mean(-1)


@induction.mistake(
    "You divide by the number of pairs of query and successor. A query with two successors has two pairs and one sum; over what is the mean to be taken?"
)
def averaged_over_pairs(weights, tokens):
    same = (tokens[:, None] == tokens).tril(-1)
    follows = torch.zeros_like(same)
    follows[:, 1:] = same[:, :-1]
    return weights[..., follows].mean(-1)


@induction.mistake(
    "You average over every token that occurs more than once, its first time included. Then it has nothing to repeat yet; which queries have an earlier occurrence?"
)
def first_times_counted(weights, tokens):
    same = tokens[:, None] == tokens
    follows = torch.zeros_like(same)
    follows[:, 1:] = same.tril(-1)[:, :-1]
    return (weights * follows).sum(-1)[..., same.sum(1) > 1].mean(-1)


@induction.mistake(
    "The heads of a layer are averaged away. One head that does this and three that do not would hide each other; what shape does the text ask for?"
)
def heads_of_a_layer_averaged(weights, tokens):
    return attn_ref.induction_score(weights, tokens).mean(-1)


@induction.mistake(
    "The score is right, and the caller's map has been blanked: `*=` writes into weights. Which form of the product makes a new tensor?"
)
def map_blanked(weights, tokens):
    same = (tokens[:, None] == tokens).tril(-1)
    follows = torch.zeros_like(same)
    follows[:, 1:] = same[:, :-1]
    weights *= follows
    return weights.sum(-1)[..., follows.any(1)].mean(-1)


@induction.also_right
def query_by_query(weights, tokens):
    names, totals = tokens.tolist(), []
    for i, name in enumerate(names):
        after = [j + 1 for j in range(i) if names[j] == name]
        if after:
            totals.append(sum(weights[:, :, i, j] for j in after))
    return sum(totals) / len(totals)


@induction.also_right
def one_sum(weights, tokens):
    n = len(tokens)
    follows = torch.zeros(n, n, dtype=weights.dtype)
    for i in range(n):
        for j in range(1, i + 1):
            follows[i, j] = float(tokens[j - 1] == tokens[i])
    return torch.einsum("lhij,ij->lh", weights, follows) / (follows.amax(1)).sum()


@induction.also_right
def rolled_and_cut(weights, tokens):
    n = len(tokens)
    previous = torch.cat([tokens.new_tensor([-1]), tokens[:-1]])
    follows = (tokens.view(n, 1) == previous.view(1, n)) & (torch.arange(n) <= torch.arange(n)[:, None])
    again = [i for i in range(n) if int(tokens[i]) in tokens[:i].tolist()]
    return [[float(sum(head[i][follows[i]].sum() for i in again)) / len(again) for head in layer] for layer in weights]


induction.hints(
    "Write the text a b c a b c and number its places. Which key does a perfect induction head look at from the second a?",
    "A table of truth values will do: key j counts for query i if tokens[j - 1] equals tokens[i] and j - 1 < i. Multiply, sum over keys, and average over the queries that occurred before.",
)
induction.errors(
    (
        "IndexError: index 6 is out of bounds for dimension 3 with size 6",
        "The last token has no successor. Are later occurrences left out, and the query itself?",
    ),
)

# --- questions -------------------------------------------------------------------------------------------------------

who_mixes = Quiz(
    "7.a",
    "You change the third token of a sentence. Which part of a block carries the change to the fifth token?",
    {
        "a": ("the norm before attention", "A norm works on each token's own numbers. The fifth token's norm sees nothing of the third."),
        "b": ("attention", "Yes: it is the only part of a block in which one token reads another. Everything else treats each token alone."),
        "c": ("the feed-forward network", "It is applied to each token by itself, with the same weights. The figure of changed rows showed one row."),
        "d": ("the residual path", "It carries a token's own vector past both steps, unchanged, to the next block."),
    },
    right="b",
)  # fmt: skip

why_not_yet = Quiz(
    "7.b",
    "In the causal model the weights of the story's own 他 are the same whether the story goes on with 着急 or with 需要. Why?",
    {
        "a": ("The model has not been trained long enough.", "No training can change it. The mask hides 着急 and 需要 from 他, so what follows cannot reach its weights."),
        "b": ("Both words have nearly the same embedding.", "Their embeddings differ: at the end of the story the model answers with different names. The question is when they are read."),
        "c": ("The cue comes later, and a query sees no later key.", "Yes: the weights of a query depend on it and on what came before. An encoder such as BERT sees the whole sentence, and its map of 他 may depend on the cue."),
        "d": ("The head that resolves the pronoun sits in another layer.", "The weights agree in every layer and head."),
    },
    right="c",
)  # fmt: skip

what_it_shows = Quiz(
    "7.c",
    "A head gives the right name 90 % of what it spends on the two names. You switch it off, and accuracy stays at 100 %. What follows?",
    {
        "a": ("The score was computed wrongly.", "It may be right. Score and effect answer two questions: where does it look, and does the model need it?"),
        "b": ("The head does not look at the name.", "It does; that is what the map shows. What the model makes of it is not in the map."),
        "c": ("The model can do without this head alone.", "Yes: other heads may do the same work, or what it hands on may be ignored. Switch them off together to find out."),
        "d": ("No head has to do with the pronoun.", "One head that can be spared says little about the others; two together may be needed."),
    },
    right="c",
)  # fmt: skip

two_layers = Quiz(
    "7.d",
    "Why does an induction head need a layer below it?",
    {
        "a": ("Each token must first learn which token stands before it.", "Yes: the lower layer writes into each token what preceded it. Then the upper head can search for “preceded by what I am”, which no token says of itself."),
        "b": ("The first layer is too small to hold all tokens.", "Size is not the matter. In the first layer a key holds its own token alone, and nothing says what came before it."),
        "c": ("The feed-forward network must copy the token.", "Copying is done by the head's values and W_o. Models of attention alone have induction heads too."),
        "d": ("It needs a larger position code.", "It finds its key by content: the head of the last figures copies rows of six tokens and of twelve alike."),
    },
    right="a",
)  # fmt: skip

explain = Written(
    "7.w",
    "The map shows it, doesn't it?",
    minutes=12,
    rubric=(
        "Says what a map can show; gives a control for the score, an ablation with its interval, and what redundancy does to it; says what would still be open.",
        "Asks for a control and for an ablation, rightly; redundancy or the uncertainty is missing.",
        "Doubts the claim for one right reason, without saying what to measure.",
        "Accepts or rejects the claim without a reason that concerns the model.",
    ),
)
