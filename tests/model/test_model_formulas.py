"""What the ops do to a layer, against the layer written out by hand, in double precision.

The three families compute the same function, so one hand-written layer serves them all.
"""

import math

import pytest
import torch
from tiny import D_MODEL, FAMILIES, N_HEADS, as_params, genotype, op, tiny_batch, tiny_model
from torch.nn import functional

from autopeft.model.anatomy import Anatomy
from autopeft.model.inject import Injection
from autopeft.space.forms import Activation, Form
from autopeft.space.taps import CROSS, LINEAR_INPUT, THROUGH_NORM, Tap

LAYER = 1
"""The one layer of three that has ops."""

ACTIVATIONS = {
    Activation.RELU: torch.relu,
    Activation.GELU: lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    Activation.GELU_NEW: lambda x: (
        x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    ),
    Activation.TANH: torch.tanh,
    Activation.SILU: lambda x: x * torch.sigmoid(x),
}


def attend(q, k, v, mask):
    """softmax(q k^T / sqrt(d)) v in each head: [batch, head, token, d_head]."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v


def by_hand(anatomy, x, mask, changes=None, attend=attend):
    """The layer; `changes[tap](h, seen)` is what becomes of h, `seen` the states up to there.

    At a LayerNorm's tap, `seen` already has what it would put out if nothing changed.
    """
    changes = changes or {}
    seen = {}

    def reach(tap, h):
        seen[tap] = h
        seen[tap] = changes.get(tap, lambda h, _: h)(h, seen)
        return seen[tap]

    def linear(role, x):
        module = anatomy.module(LAYER, role)
        return x @ module.weight.T + module.bias

    def norm(role, x):
        module = anatomy.module(LAYER, role)
        return functional.layer_norm(x, (D_MODEL,), module.weight, module.bias, module.eps)

    def sublayer(out, role, residual):
        """LN(h + residual), its ops h += f(LN(h + residual)) first."""
        if f := changes.get(f"through {role}"):
            out = out + f(norm(role, out + residual))
        return norm(role, out + residual)

    def heads(x):
        return x.unflatten(-1, (N_HEADS, -1)).transpose(1, 2)

    attn_in = reach(Tap.ATTN_IN, x)
    q = heads(reach(Tap.Q, linear("q", attn_in)))
    k = heads(reach(Tap.K, linear("k", attn_in)))
    v = heads(reach(Tap.V, linear("v", attn_in)))
    pre_o = reach(Tap.PRE_O, attend(q, k, v, mask).transpose(1, 2).flatten(2))
    attn_out = reach(Tap.ATTN_OUT, linear("o", pre_o))
    attn_norm = reach(Tap.ATTN_NORM, sublayer(attn_out, "attn_norm", x))
    ffn_up = reach(Tap.FFN_UP, linear("up", reach(Tap.FFN_IN, attn_norm)))
    ffn_mid = reach(Tap.FFN_MID, ACTIVATIONS[Activation.GELU](ffn_up))
    ffn_out = reach(Tap.FFN_OUT, linear("down", ffn_mid))
    ffn_norm = reach(Tap.FFN_NORM, sublayer(ffn_out, "ffn_norm", attn_norm))
    return reach(Tap.BLOCK_OUT, ffn_norm)


class Bench:
    """A layer with ops, whose parameters are all random, in double precision."""

    def __init__(self, family, *ops):
        self.model = tiny_model(family)
        self.batch = tiny_batch(self.model)
        self.injection = Injection(self.model, [genotype(*ops)], [0], "eager")
        self.model.double()
        self.tensors = self.injection.tensors(0)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for tensor in self.tensors.values():
                if tensor.is_floating_point():
                    tensor.normal_(generator=generator)

    def own(self, *words):
        """The parameter whose name has all these words."""
        (found,) = (t for name, t in self.tensors.items() if set(words) <= set(name.split(".")))
        return found

    def check(self, changes, attend=attend):
        """The model's layer is the layer by hand, and not the layer without changes."""
        anatomy = Anatomy(self.model)
        seen = []
        anatomy.layers[LAYER].register_forward_hook(lambda *call: seen.append(call[1:]))
        with torch.no_grad():
            self.model.base_model(**self.batch)
            ((x, *_), out), mask = seen[0], self.batch["attention_mask"].bool()[:, None, None]
            expected = by_hand(anatomy, x, mask, changes, attend)
            plain = by_hand(anatomy, x, mask)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
        assert (out - plain).abs().max() > 1e-3


@pytest.fixture(params=as_params(FAMILIES))
def family(request):
    return request.param


def at(form, read, write, size=1, **more):
    return op(form, read, write, (0, size, 0), **more)


# One vector added to all keys adds one number to all scores of a query: the softmax ignores it.
@pytest.mark.parametrize(
    "tap", [tap for tap in Tap if tap not in {Tap.EMBED, Tap.HEAD, Tap.K, Tap.FFN_GATE, *CROSS}]
)
def test_every_tap_is_where_its_name_says(family, tap):
    bench = Bench(family, at(Form.BIAS, tap, tap))
    bench.check({tap: lambda h, _: h + bench.own("bias")})


@pytest.mark.parametrize("tap", [Tap.ATTN_IN, Tap.K, Tap.V, Tap.FFN_MID, Tap.FFN_NORM])
def test_scale(family, tap):
    bench = Bench(family, at(Form.SCALE, tap, tap))
    bench.check({tap: lambda h, _: h * bench.own("factors")})


@pytest.mark.parametrize(
    "write", [tap for tap in LINEAR_INPUT if tap not in {Tap.FFN_GATE, *CROSS}]
)
def test_low_rank_on_every_weight(family, write):
    read = LINEAR_INPUT[write]
    bench = Bench(family, at(Form.LOWRANK, read, write, 3, scale=2.0))
    a, b = bench.own("a"), bench.own("b")
    bench.check({write: lambda h, seen: h + 2 * seen[read] @ a.T @ b})


@pytest.mark.parametrize("write", [Tap.Q, Tap.ATTN_OUT, Tap.FFN_UP])
def test_low_rank_with_a_frozen_factor(family, write):
    read = LINEAR_INPUT[write]
    bench = Bench(family, at(Form.LOWRANK_FA, read, write, 3, scale=2.0))
    (stack,) = bench.injection.stacks()
    a, b = stack.a[0, :3].double(), bench.own("b")
    bench.check({write: lambda h, seen: h + 2 * seen[read] @ a.T @ b})


@pytest.mark.parametrize("write", [Tap.Q, Tap.ATTN_OUT, Tap.FFN_UP])
def test_adalora(family, write):
    read = LINEAR_INPUT[write]
    bench = Bench(family, at(Form.ADALORA, read, write, 2, scale=2.0))
    q, p, values = bench.own("a"), bench.own("b"), bench.own("values")
    assert q.shape[0] == p.shape[0] == values.shape[0] == 3
    bench.check({write: lambda h, seen: h + 2 * seen[read] @ q.T @ torch.diag(values[:, 0]) @ p})


@pytest.mark.parametrize(("form", "write"), [(Form.SPARSE, Tap.FFN_OUT), (Form.FISH, Tap.Q)])
def test_sparse_delta(family, form, write):
    """W + D, D zero but for the values at their entries, counted row by row."""
    read = LINEAR_INPUT[write]
    bench = Bench(family, at(form, read, write, 9))
    linear = Anatomy(bench.model).point(LAYER, write)[0]
    (stack,) = bench.injection.stacks()
    entries, values = stack.own("entries", 0).flatten().tolist(), bench.own("values").flatten()
    assert len(set(entries)) == 9
    weight = linear.weight.clone()
    for entry, value in zip(entries, values, strict=True):
        weight[entry // weight.shape[1], entry % weight.shape[1]] += value
    bench.check({write: lambda _, seen: seen[read] @ weight.T + linear.bias})


def test_lottery_ticket_before_and_after_its_choice():
    bench = Bench("bert", at(Form.LT_SFT, Tap.FFN_IN, Tap.FFN_UP, 9))
    linear = Anatomy(bench.model).point(LAYER, Tap.FFN_UP)[0]
    (stack,) = bench.injection.stacks()
    for n_entries in (linear.weight.numel(), 9):
        delta = stack.current().detach().view(linear.weight.shape)
        assert delta.count_nonzero() == n_entries
        weight = linear.weight + delta
        bench.check({Tap.FFN_UP: lambda _, s, w=weight: s[Tap.FFN_IN] @ w.T + linear.bias})
        stack.choose()
        stack.delta.data.fill_(0.5)


def test_diff_pruning_gates():
    """z = min(1, max(0, sigmoid(logit) (1.5 + 1.5) - 1.5)) without noise (Louizos et al. 2018)."""
    bench = Bench("bert", at(Form.DIFF_PRUNING, Tap.FFN_IN, Tap.FFN_UP, 9))
    linear = Anatomy(bench.model).point(LAYER, Tap.FFN_UP)[0]
    delta, logits = (bench.own(name).view(linear.weight.shape) for name in ("delta", "logits"))
    gates = (3 / (1 + torch.exp(-logits)) - 1.5).clamp(0, 1)
    assert 0 < gates.count_nonzero() < gates.numel()
    weight = (linear.weight + gates * delta).detach()
    bench.check({Tap.FFN_UP: lambda _, seen: seen[Tap.FFN_IN] @ weight.T + linear.bias})


def test_sparse_bottleneck_is_a_wide_bottleneck_with_few_weights(family):
    bench = Bench(family, at(Form.SPARSE_BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, 3, scale=4.0))
    (stack,) = bench.injection.stacks()
    table = torch.zeros(12 * 65, dtype=torch.double)
    table[stack.own("entries", 0).flatten()] = bench.own("values").flatten()
    assert table.count_nonzero() == 3 * 65
    down, bias, up = table.view(12, 65).split([32, 1, 32], 1)
    up_bias = bench.own("up_bias")

    def adapter(x):
        return torch.relu(x @ down.T + bias[:, 0]) @ up + up_bias

    bench.check({Tap.FFN_OUT: lambda h, seen: h + 4 * adapter(seen[Tap.FFN_IN])})


@pytest.mark.parametrize("write", [Tap.Q, Tap.ATTN_OUT, Tap.FFN_UP])
def test_vera(family, write):
    read = LINEAR_INPUT[write]
    bench = Bench(family, at(Form.VERA, read, write, 3, scale=2.0))
    (stack,) = bench.injection.stacks()
    down, up = stack.down[0, :3].double(), stack.up[0, :3].double()
    d, b = bench.own("lambda_d"), bench.own("b")
    bench.check({write: lambda h, seen: h + 2 * (seen[read] @ down.T * d[:, 0]) @ up * b})


@pytest.mark.parametrize("write", [Tap.Q, Tap.ATTN_OUT, Tap.FFN_UP])
def test_kronecker(family, write):
    read = LINEAR_INPUT[write]
    bench = Bench(family, at(Form.KRONECKER, read, write, 4, scale=2.0))
    product = torch.kron(bench.own("a"), bench.own("b"))
    bench.check({write: lambda h, seen: h + 2 * seen[read] @ product.T})


@pytest.mark.parametrize("write", [Tap.V, Tap.FFN_UP, Tap.FFN_OUT])
def test_dora(family, write):
    """m (W + s B A) / ||W + s B A|| in place of W."""
    read = LINEAR_INPUT[write]
    bench = Bench(family, at(Form.DORA, read, write, 3, scale=2.0))
    linear = Anatomy(bench.model).point(LAYER, write)[0]
    moved = linear.weight + 2 * bench.own("b").T @ bench.own("a")
    magnitude = linear.weight.norm(dim=1) + bench.own("magnitude")[0]
    weight = moved * (magnitude / moved.norm(dim=1))[:, None]
    bench.check({write: lambda _, seen: seen[read] @ weight.T + linear.bias})


@pytest.mark.parametrize(
    ("read", "write"),
    [
        (Tap.ATTN_OUT, Tap.ATTN_OUT),
        (Tap.FFN_OUT, Tap.FFN_OUT),
        (Tap.ATTN_IN, Tap.ATTN_IN),
        (Tap.ATTN_IN, Tap.ATTN_OUT),
        (Tap.FFN_IN, Tap.FFN_OUT),
        (Tap.ATTN_IN, Tap.FFN_OUT),
        (Tap.ATTN_NORM, Tap.BLOCK_OUT),
    ],
)
def test_bottleneck_sequential_and_parallel(family, read, write):
    bench = Bench(family, at(Form.BOTTLENECK, read, write, 5, scale=4.0))
    bench.check({write: lambda h, seen: h + 4 * bottleneck(bench, seen[read])})


@pytest.mark.parametrize("activation", Activation)
def test_bottleneck_with_every_activation_and_a_learned_scale(activation):
    one = at(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, 5, activation=activation, scale="learned")
    bench = Bench("bert", one)
    s, act = bench.own("scale"), ACTIVATIONS[activation]
    bench.check({Tap.FFN_OUT: lambda h, seen: h + s * bottleneck(bench, seen[Tap.FFN_IN], act)})


@pytest.mark.parametrize("read", [Tap.ATTN_NORM, Tap.FFN_NORM])
def test_bottleneck_that_reads_through_the_layer_norm(family, read):
    bench = Bench(family, at(Form.BOTTLENECK, read, THROUGH_NORM[read], 5))
    bench.check({f"through {read}": lambda normed: bottleneck(bench, normed)})


def bottleneck(bench, x, activation=torch.relu):
    down, down_bias, up, up_bias = map(bench.own, ("down", "down_bias", "up", "up_bias"))
    return activation(x @ down.T + down_bias.T) @ up + up_bias


@pytest.mark.parametrize("tap", [Tap.ATTN_OUT, Tap.FFN_OUT])
def test_phm_is_a_bottleneck_of_sums_of_kronecker_products(family, tap):
    bench = Bench(family, at(Form.PHM, tap, tap, 8, scale=2.0, activation=Activation.GELU))
    rule = bench.own("rule").view(4, 4, 4)

    def weight(left, right):
        s, t = bench.own(left).view(4, -1), bench.own(right).view(4, -1)
        return sum(torch.kron(rule[i], torch.outer(s[i], t[i])) for i in range(4))

    down, up = weight("down_in", "down_out"), weight("up_in", "up_out")
    gelu = ACTIVATIONS[Activation.GELU]

    def adapter(h, _):
        hidden = gelu(h @ down + bench.own("down_bias")[:, 0])
        return h + 2 * (hidden @ up + bench.own("up_bias"))

    bench.check({tap: adapter})


def test_prefix_is_a_convex_combination_of_two_attentions(family):
    """He et al. 2022, eq. 7: (1 - lambda(x)) Attn(x) + lambda(x) softmax(q Pk^T) Pv."""
    bench = Bench(family, at(Form.PREFIX, Tap.HEAD, Tap.HEAD, 5))
    keys, values = (
        bench.own(name).unflatten(-1, (N_HEADS, -1)).transpose(0, 1) for name in ("keys", "values")
    )

    def with_prefix(q, k, v, mask):
        root = math.sqrt(q.shape[-1])
        theirs = (q @ k.transpose(-1, -2) / root).masked_fill(~mask, -torch.inf).exp().sum(-1)
        ours = (q @ keys.transpose(-1, -2) / root).exp().sum(-1)
        share = (ours / (ours + theirs))[..., None]
        everything = torch.ones(1, dtype=torch.bool)
        return (1 - share) * attend(q, k, v, mask) + share * attend(q, keys, values, everything)

    bench.check({}, with_prefix)


def test_a_multihead_adapter_adds_to_what_each_head_puts_out(family):
    """He et al. 2022: relu(q_i Pk_i^T) Pv_i, in the model's own heads and beside a prefix."""
    ops = [at(Form.MULTIHEAD, Tap.Q, Tap.HEAD, 5, scale=2.0), at(Form.BIAS, Tap.Q, Tap.Q)]
    bench = Bench(family, *ops)
    keys, values = (
        bench.own(name).unflatten(-1, (N_HEADS, -1)).transpose(0, 1) for name in ("keys", "values")
    )

    def adapted(q, k, v, mask):
        return attend(q, k, v, mask) + 2 * torch.relu(q @ keys.transpose(-1, -2)) @ values

    bench.check({Tap.Q: lambda h, _: h + bench.own("bias", "bias")}, adapted)


def gate(bench, x, *words):
    """UniPELT: a number for each example, the mean over its tokens of sigmoid(x w + b)."""
    weight, bias = (bench.own(*words, "gate", name) for name in ("weight", "bias"))
    of_tokens = torch.sigmoid(x @ weight[0] + bias[0])
    real = bench.batch["attention_mask"]
    return ((of_tokens * real).sum(1) / real.sum(1))[:, None, None]


@pytest.mark.parametrize(("read", "write"), [(Tap.FFN_IN, Tap.FFN_OUT), (Tap.ATTN_OUT,) * 2])
def test_a_gate_is_the_mean_over_the_real_tokens(family, read, write):
    bench = Bench(family, at(Form.BOTTLENECK, read, write, 5, scale="gated"))
    assert bench.batch["attention_mask"].min() == 0, "there is padding"

    def change(h, seen):
        return h + gate(bench, seen[read]) * bottleneck(bench, seen[read])

    bench.check({write: change})


def test_a_gated_prefix_has_its_keys_and_values_scaled(family):
    bench = Bench(family, at(Form.PREFIX, Tap.HEAD, Tap.HEAD, 5, scale="gated"))
    gates = []

    def with_prefix(q, k, v, mask):
        mask = functional.pad(mask.expand(-1, -1, q.shape[2], -1), (5, 0), value=True)
        prefix = (
            gates[-1][..., None] * bench.own(name).unflatten(-1, (N_HEADS, -1)).transpose(0, 1)
            for name in ("keys", "values")
        )
        keys, values = (torch.cat([p, own], 2) for p, own in zip(prefix, (k, v), strict=True))
        return attend(q, keys, values, mask)

    bench.check({Tap.ATTN_IN: lambda h, _: gates.append(gate(bench, h)) or h}, with_prefix)


def test_parallel_ops_add_then_biases_then_scales_then_sequential_ops_transform(family):
    bench = Bench(
        family,
        at(Form.BOTTLENECK, Tap.FFN_OUT, Tap.FFN_OUT, 5),
        at(Form.SCALE, Tap.FFN_OUT, Tap.FFN_OUT),
        at(Form.BIAS, Tap.FFN_OUT, Tap.FFN_OUT),
        at(Form.LOWRANK, Tap.FFN_MID, Tap.FFN_OUT, 3),
    )

    def change(h, seen):
        h = h + seen[Tap.FFN_MID] @ bench.own("lowrank", "a").T @ bench.own("lowrank", "b")
        h = (h + bench.own("bias", "bias")) * bench.own("factors")
        return h + bottleneck(bench, h)

    bench.check({Tap.FFN_OUT: change})


def test_what_is_read_is_what_earlier_ops_have_written(family):
    bench = Bench(
        family,
        at(Form.BIAS, Tap.FFN_IN, Tap.FFN_IN),
        at(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, 5),
        at(Form.SCALE, Tap.FFN_IN, Tap.FFN_IN),
    )
    bench.check(
        {
            Tap.FFN_IN: lambda h, _: (h + bench.own("bias", "bias")) * bench.own("factors"),
            Tap.FFN_OUT: lambda h, seen: h + bottleneck(bench, seen[Tap.FFN_IN]),
        }
    )


def test_a_parallel_adapter_with_the_ffns_activation_is_a_wider_ffn(family):
    """Down projections side by side, up projections one over the other, biases added."""
    size, scale = 7, 4.0
    ffn = at(
        Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, size, activation=Activation.GELU, scale=scale
    )
    bench = Bench(family, ffn)
    wide = Bench(family)
    anatomy = Anatomy(wide.model)
    up, down = (anatomy.module(LAYER, role) for role in ("up", "down"))
    up.weight.data = torch.cat([up.weight, bench.own("down")])
    up.bias.data = torch.cat([up.bias, bench.own("down_bias")[:, 0]])
    down.weight.data = torch.cat([down.weight, scale * bench.own("up").T], 1)
    down.bias.data += scale * bench.own("up_bias")[0]
    with torch.no_grad():
        found, expected = (one.model(**one.batch).logits for one in (bench, wide))
        plain = Bench(family).model(**bench.batch).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert (found - plain).abs().max() > 1e-2
