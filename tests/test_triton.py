"""The Triton kernels against the plain version in float64: for real on a GPU, in Triton's interpreter elsewhere."""

import os

import numpy as np
import pytest

import attn_ref

torch = pytest.importorskip("torch", reason="the Triton backend takes torch tensors")
pytest.importorskip("triton", reason="Triton is not installed; it needs Linux")

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.skipif(not GPU and not INTERPRETING, reason="no GPU, and TRITON_INTERPRET=1 was not set")
needs_gpu = pytest.mark.skipif(not GPU or INTERPRETING, reason="needs a GPU and compiled kernels")

# Two tiles and a ragged rest along each axis: the interpreter's tiles are 32 wide, those of a GPU up to 128.
BATCH, HEADS, KV_HEADS, D, D_V = 2, 6, 3, 16, 24
N_Q, N_K = (301, 427) if GPU else (37, 53)


def inputs(n_q=N_Q, n_k=N_K, d=D, d_v=D_V, heads=HEADS, kv_heads=KV_HEADS, batch=BATCH, dtype=torch.float32, seed=5):
    """q, k, v with entries that every dtype holds exactly."""
    rng = np.random.default_rng(seed)
    shapes = (batch, heads, n_q, d), (batch, kv_heads, n_k, d), (batch, kv_heads, n_k, d_v)
    return [torch.tensor(rng.normal(size=s).round(2), dtype=torch.float16).to(DEVICE, dtype) for s in shapes]


def numbers(*shape, seed=6):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=shape).round(2), dtype=torch.float32, device=DEVICE)


def sparse_mask(*shape):
    """About half of the pairs allowed; where there is an axis of queries, query 2 may attend to nothing."""
    allowed = numbers(*shape, seed=7) > 0
    if shape[-2] > 2:
        allowed[..., 2, :] = False
    return allowed


def kernel(q, k, v, **options):
    """out, lse and what leads to gradients of q, k, v, from the kernels."""
    from attn_ref import triton_backend
    from attn_ref.problem import make_problem

    problem = make_problem(q, k, v, **options)
    assert triton_backend.refusal(problem) is None
    out, lse = triton_backend.forward(problem)
    return out, lse, lambda grad_out, grad_lse: triton_backend.backward(problem, out, lse, grad_out, grad_lse)


def naive(q, k, v, sinks=None, **options):
    """out, lse of the textbook's three lines, which store scores and weights in the dtype of q."""
    scores = attn_ref.attention_scores(q, k, **options)
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(q.dtype)[:, None, None].expand(*scores.shape[:-1], 1)], -1)
    weights = attn_ref.softmax(scores)[..., : k.shape[2]]
    groups = q.shape[1] // k.shape[1]
    return weights @ v.repeat_interleave(groups, 1), attn_ref.logsumexp(scores.float())


def in_float64(options):
    return {n: x.double() if torch.is_tensor(x) and x.is_floating_point() else x for n, x in options.items()}


def gradients(function, arrays, grad_out, grad_lse, **options):
    arrays = [x.detach().clone().requires_grad_() for x in arrays]
    out, lse = function(*arrays, **options)
    loss = (out * grad_out.to(out.dtype)).sum() + (torch.where(lse.isinf(), 0, lse) * grad_lse.to(lse.dtype)).sum()
    return out, lse, *torch.autograd.grad(loss, arrays)


def plain(*arrays, **options):
    return attn_ref.attention(*arrays, backend="torch", return_lse=True, **options)


def assert_as_exact_as_naive(arrays, backward=True, **options):
    """Error of out, lse, dq, dk, dv against float64 at most twice the naive version's in the same dtype.

    Gradients come from weights made again as exp(s - lse): the last digit of lse, a float32, is their relative error.
    """
    q, k, v = arrays
    grad_out, grad_lse = numbers(*q.shape[:3], v.shape[3]), numbers(*q.shape[:3], seed=8)
    exact = gradients(plain, [x.double() for x in arrays], grad_out, grad_lse, **in_float64(options))
    simple = gradients(naive, arrays, grad_out, grad_lse, **options)
    out, lse, back = kernel(*arrays, **options)
    ours = (out, lse, *(back(grad_out.to(q.dtype), grad_lse) if backward else ()))
    largest_lse = lse[lse.isfinite()].abs().max().item() if lse.isfinite().any() else 0
    names = ["out", "lse", "dq", "dk", "dv"]
    for name, one, other, truth in zip(names, ours, simple, exact, strict=False):
        assert one.shape == truth.shape, name
        assert one.dtype == (torch.float32 if name == "lse" else q.dtype), name
        same = truth.isinf()
        assert torch.equal(one.double()[same], truth[same]), f"{name}: another -inf"
        mistake, allowance = (error(x, truth) for x in (one, other))
        last_digit = torch.finfo(one.dtype).eps + (
            torch.finfo(torch.float32).eps * largest_lse if name[0] == "d" else 0
        )
        floor = 2 * last_digit * truth[~same].abs().max().item() if (~same).any() else 0
        assert mistake <= 2 * allowance + floor, f"{name}: error {mistake:.2e}, the naive version's {allowance:.2e}"


def error(x, truth):
    finite = truth.isfinite()
    return (x.double() - truth)[finite].abs().max().item() if finite.any() else 0.0


# name -> (options, sizes that differ from the usual)
CASES = {
    "full": (dict, {}),
    "causal": (lambda: dict(causal=True), {}),
    "more queries than keys, causal": (lambda: dict(causal=True), dict(n_q=N_K, n_k=N_Q)),
    "causal from position 0": (lambda: dict(causal=True, q_offset=0), {}),
    "one offset, a tensor": (lambda: dict(causal=True, q_offset=torch.tensor(4, device=DEVICE)), {}),
    "an offset for each batch entry": (lambda: dict(causal=True, q_offset=torch.tensor([3, 11], device=DEVICE)), {}),
    "an offset far beyond the keys": (lambda: dict(window=(None, 3), q_offset=2**40), {}),
    "all keys in the future": (lambda: dict(causal=True, q_offset=-(2**40)), {}),
    "window 9": (lambda: dict(window=9), {}),
    "window to both sides": (lambda: dict(window=(4, 7)), {}),
    "window to the right only": (lambda: dict(window=(None, 2), q_offset=5), {}),
    "window to the left only": (lambda: dict(window=(6, None), q_offset=2), {}),
    "lengths": (lambda: dict(kv_len=torch.tensor([N_K - 3, 17], device=DEVICE)), {}),
    "lengths, one of them 0, causal": (lambda: dict(causal=True, kv_len=torch.tensor([0, N_K - 9], device=DEVICE)), {}),
    "a mask for each head": (lambda: dict(allowed=sparse_mask(BATCH, HEADS, N_Q, N_K)), {}),
    "a mask of keys": (lambda: dict(allowed=sparse_mask(BATCH, 1, 1, N_K)), {}),
    "a mask of queries and keys, causal": (lambda: dict(causal=True, allowed=sparse_mask(N_Q, N_K)), {}),
    "bias": (lambda: dict(bias=numbers(HEADS, N_Q, N_K)), {}),
    "bias that forbids": (lambda: dict(bias=numbers(N_Q, N_K).masked_fill(~sparse_mask(N_Q, N_K), -np.inf)), {}),
    "bias, transposed": (lambda: dict(bias=numbers(HEADS, N_K, N_Q).mT), {}),
    "softcap": (lambda: dict(softcap=1.5), {}),
    "softcap wide and causal": (lambda: dict(softcap=50.0, causal=True), {}),
    "sinks": (lambda: dict(sinks=numbers(HEADS)), {}),
    "sinks and empty rows": (lambda: dict(sinks=numbers(HEADS), causal=True, q_offset=-5), {}),
    "alibi": (lambda: dict(alibi=numbers(HEADS).abs(), causal=True), {}),
    "a negative scale": (lambda: dict(scale=-0.3), {}),
    "scale 0": (lambda: dict(scale=0.0, causal=True), {}),
    "one KV head, d=20, d_v=7": (lambda: dict(causal=True), dict(kv_heads=1, d=20, d_v=7)),
    "as many KV heads, d=1": (dict, dict(kv_heads=HEADS, d=1, d_v=33)),
    "all options": (
        lambda: dict(
            window=(21, 4), q_offset=9, kv_len=torch.tensor([N_K, 31], device=DEVICE), softcap=3.0, scale=0.4,
            allowed=sparse_mask(BATCH, 1, N_Q, N_K), bias=numbers(N_K), sinks=numbers(HEADS), alibi=numbers(HEADS),
        ),
        {},
    ),
}  # fmt: skip
QUICK = ["causal", "all options"]
HALF = [
    "full",
    "causal",
    "window to both sides",
    "lengths",
    "a mask for each head",
    "bias",
    "softcap",
    "sinks",
    "alibi",
]


def some_slow(names, quick):
    return [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in names]


class TestNumbers:
    @pytest.mark.parametrize("case", some_slow(CASES, QUICK))
    def test_float32_is_as_exact_as_the_naive_version(self, case):
        options, sizes = CASES[case]
        assert_as_exact_as_naive(inputs(**sizes), **options())

    @pytest.mark.parametrize("case", some_slow(HALF, ["causal"]))
    def test_float16_is_as_exact_as_the_naive_version(self, case):
        options, sizes = CASES[case]
        assert_as_exact_as_naive(inputs(dtype=torch.float16, **sizes), **options())

    @needs_gpu
    @pytest.mark.parametrize("case", HALF)
    def test_bfloat16_is_as_exact_as_the_naive_version(self, case):
        options, sizes = CASES[case]
        assert_as_exact_as_naive(inputs(dtype=torch.bfloat16, **sizes), **options())

    @pytest.mark.parametrize("case", some_slow(CASES, QUICK))
    def test_few_queries_are_decoded_from_several_splits(self, case, monkeypatch):
        from attn_ref import triton_backend

        options, sizes = CASES[case]
        options = {
            n: x[..., -4:, :] if torch.is_tensor(x) and N_Q in x.shape[-2:-1] else x for n, x in options().items()
        }
        monkeypatch.setattr(triton_backend, "_splits", lambda *_: 3)
        assert_as_exact_as_naive(inputs(**{**sizes, "n_q": 4}), backward=False, **options)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_scores_near_1000_neither_overflow_nor_vanish(self, sign):
        q, k, v = inputs(heads=2, kv_heads=1)
        q[:, :, 3] = sign * 1000
        k[:, :, 7] = 1
        assert_as_exact_as_naive([q, k, v])

    @needs_gpu
    @pytest.mark.parametrize("d", [64, 80, 128, 256])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("causal", [False, True])
    def test_real_head_sizes(self, d, dtype, causal):
        assert_as_exact_as_naive(inputs(d=d, d_v=d, dtype=dtype), causal=causal)

    @needs_gpu
    def test_long_work_is_tuned_and_still_right(self, monkeypatch):
        from attn_ref import triton_tuning

        monkeypatch.setattr(triton_tuning, "LONG", 0)
        assert_as_exact_as_naive(inputs(d=64, d_v=64, dtype=torch.float16), causal=True)

    @needs_gpu
    def test_addresses_beyond_32_bits(self):
        n_k, window = 2**25 + 77, 100
        q = torch.randn(1, 1, 3, 64, device=DEVICE, dtype=torch.float16)
        cache = torch.zeros(1, 1, n_k, 64, device=DEVICE, dtype=torch.float16)
        cache[:, :, -window - 3 :] = torch.randn(window + 3, 64, device=DEVICE)
        recent = cache[:, :, -window - 3 :].clone()
        long = attn_ref.attention(q, cache, cache, window=window, backend="triton")
        torch.testing.assert_close(long, attn_ref.attention(q, recent, recent, window=window, backend="triton"))


class TestPromises:
    def test_decoding_equals_the_full_kernel(self, monkeypatch):
        from attn_ref import triton_backend

        q, k, v = inputs(n_q=5)
        options = dict(causal=True, sinks=numbers(HEADS), kv_len=torch.tensor([N_K, 20], device=DEVICE))
        decoded = kernel(q, k, v, **options)[:2]
        monkeypatch.setattr(triton_backend, "DECODE_ROWS", 0)
        for one, other in zip(decoded, kernel(q, k, v, **options)[:2], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("poison", [np.nan, -np.inf])
    @pytest.mark.parametrize("how", ["by length", "by mask"])
    def test_hidden_keys_cannot_leak_whatever_they_hold(self, how, poison):
        q, k, v = inputs(heads=2, kv_heads=1)
        lengths = torch.tensor([N_K - 6, 21], device=DEVICE)
        counts = torch.arange(N_K, device=DEVICE) < lengths[:, None]
        hidden = dict(kv_len=lengths) if how == "by length" else dict(allowed=counts[:, None, None])
        spoilt = [torch.where(counts[:, None, :, None], x, poison) for x in (k, v)]
        grad_out, grad_lse = numbers(*q.shape[:3], D_V), numbers(*q.shape[:3])
        results = []
        for keys, values in ((k, v), spoilt):
            out, lse, back = kernel(q, keys, values, causal=True, q_offset=16, **hidden)
            results.append((out, lse, *back(grad_out, grad_lse)))
        for one, other in zip(*results, strict=True):
            assert one.isfinite().all() and torch.equal(one, other)

    @pytest.mark.parametrize("n_q", [N_Q, 3])
    def test_a_spoilt_key_reaches_the_queries_that_may_attend_to_it_and_no_others(self, n_q):
        q, k, v = inputs(n_q=n_q, heads=2, kv_heads=1)
        clean = kernel(q, k, v, causal=True)[0]
        for spoilt in (N_K - 2, N_K - n_q + 1):
            for x in (k, v):
                poisoned = x.clone()
                poisoned[:, :, spoilt] = np.nan
                out = kernel(q, *((poisoned, v) if x is k else (k, poisoned)), causal=True)[0]
                sees = torch.arange(n_q, device=DEVICE) + N_K - n_q >= spoilt
                assert out[:, :, sees].isnan().all()
                assert torch.equal(out[:, :, ~sees], clean[:, :, ~sees])

    def test_a_query_with_nothing_to_attend_to_gets_0_and_no_gradient(self):
        q, k, v = inputs(heads=2, kv_heads=1)
        out, lse, back = kernel(q, k, v, causal=True, q_offset=-4)
        dq, dk, dv = back(torch.ones_like(out), torch.ones_like(lse))
        assert (out[:, :, :4] == 0).all() and (lse[:, :, :4] == -np.inf).all() and (dq[:, :, :4] == 0).all()
        assert (dk[:, :, N_Q - 4 :] == 0).all() and dv.isfinite().all() and dq[:, :, 5:].abs().min() > 0
        no_keys = kernel(q, k[:, :, :0], v[:, :, :0])
        assert (no_keys[0] == 0).all() and (no_keys[1] == -np.inf).all()
        assert [x.shape for x in no_keys[2](out, lse)] == [q.shape, k[:, :, :0].shape, v[:, :, :0].shape]
        assert kernel(q[:, :, :0], k, v)[0].shape == (BATCH, 2, 0, D_V)

    def test_any_strides_give_the_same(self):
        q, k, v = inputs(heads=2, kv_heads=2)
        grad_out = numbers(1, 1, 1, D_V).expand(BATCH, 2, N_Q, D_V)
        out, lse, back = kernel(q, k, v, causal=True)
        by_token = q.transpose(1, 2).contiguous().transpose(1, 2)  # (B, N, H, D) in memory
        by_column = k.mT.contiguous().mT
        within_more = torch.cat([v, v], -1)[..., :D_V]
        other_out, other_lse, other_back = kernel(by_token, by_column, within_more, causal=True)
        ours = out, lse, *back(grad_out.contiguous(), lse)
        others = other_out, other_lse, *other_back(grad_out, lse.mT.contiguous().mT)
        for one, other in zip(ours, others, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)  # a GPU may add in another order

    def test_inputs_are_not_written_to(self):
        arrays = inputs(heads=2, kv_heads=1)
        options = dict(allowed=sparse_mask(N_Q, N_K), bias=numbers(N_K), sinks=numbers(2), alibi=numbers(2))
        before = [x.clone() for x in (*arrays, *options.values())]
        out, lse, back = kernel(*arrays, **options)
        kept = out.clone(), lse.clone()
        back(torch.ones_like(out), None)
        for one, other in zip((*arrays, *options.values(), out, lse), (*before, *kept), strict=True):
            assert torch.equal(one, other)

    def test_the_public_entry_reaches_the_kernels(self, monkeypatch):
        from attn_ref import triton_backend

        q, k, v = inputs(heads=2, kv_heads=1, n_q=3)
        calls, original = [], triton_backend.forward
        monkeypatch.setattr(triton_backend, "forward", lambda problem: calls.append(1) or original(problem))
        with torch.no_grad():
            out, lse = attn_ref.attention(q, k, v, backend="triton", return_lse=True)
        expected = plain(q, k, v)
        torch.testing.assert_close(out, expected[0])
        torch.testing.assert_close(lse, expected[1])
        assert calls == [1]


Q, K, V = (x[:1, :2, :4] for x in inputs(heads=2, kv_heads=2, n_q=4, n_k=5))
with_gradient = torch.ones(2, device=DEVICE).requires_grad_()
WRONG = {
    "NumPy arrays": (lambda: [np.ones((2, 4, 8))] * 3, {}, "q, k and v are NumPy arrays; pass torch tensors"),
    "float64": (lambda: [Q.double(), K.double(), V.double()], {}, "q has dtype torch.float64.* compute in float32"),
    "a head of 257": (lambda: [Q[..., :1].expand(1, 2, 4, 257)] * 2 + [V], {}, "head size d=257 is not in 1..256"),
    "values of 300": (lambda: [Q, K, V[..., :1].expand(1, 2, 4, 300)], {}, "head size d_v=300 is not in 1..256"),
    "an empty head": (lambda: [Q[..., :0], K[..., :0], V], {}, "head size d=0 is not in 1..256"),
    "70,000 heads": (lambda: [Q[:, :1].expand(1, 70_000, 4, D), K[:, :1], V[:, :1]], {}, "70000 heads; a launch grid"),
    "a huge stride": (
        lambda: [Q, torch.zeros(2**22 + D, device=DEVICE).as_strided((1, 2, 2, D), (0, 0, 2**22, 1)), V[:, :, :2]],
        {},
        "k has strides .* pass k.contiguous",
    ),
    "a bias to be trained": (lambda: [Q, K, V], dict(bias=with_gradient[0]), "bias requires a gradient"),
    "sinks to be trained": (lambda: [Q, K, V], dict(sinks=with_gradient), "sinks requires a gradient"),
    "slopes to be trained": (lambda: [Q, K, V], dict(alibi=with_gradient), "alibi requires a gradient"),
    "the weights": (lambda: [Q, K, V], dict(return_weights=True), "return_weights asks for the whole matrix"),
}
if not GPU:
    WRONG["bfloat16 in the interpreter"] = (
        lambda: [Q.bfloat16(), K.bfloat16(), V.bfloat16()],
        {},
        "torch.bfloat16, which Triton's interpreter reads as raw",
    )


@pytest.mark.parametrize("kind", WRONG)
def test_what_the_kernels_cannot_do_they_refuse_by_name(kind):
    arrays, options, message = WRONG[kind]
    with pytest.raises(ValueError, match=f"backend 'triton' cannot do this: .*{message}"):
        attn_ref.attention(*arrays(), backend="triton", **options)
