"""The functional forms an op can have, and the number of parameters each one costs.

He et al. (ICLR 2022) write every method as `h <- compose(h, s * f(x))`. A form is the function f
together with the way it composes with h.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from autopeft.space.taps import LINEAR_INPUT, ORDER, QUERIES, THROUGH_NORM, Tap


class Form(StrEnum):
    """The function f of an op."""

    LOWRANK = "lowrank"
    """f(x) = x A B (LoRA, Hu et al. 2022)."""
    LOWRANK_FA = "lowrank_fa"
    """f(x) = x A B with A frozen at its random start (LoRA-FA, Zhang et al. 2023)."""
    DORA = "dora"
    """W x -> m (W + A B) x / ||W + A B|| (DoRA, Liu et al. 2024)."""
    VERA = "vera"
    """f(x) = ((x A * d) B) * b with A and B random and frozen (VeRA, Kopiczko et al. 2024)."""
    KRONECKER = "kronecker"
    """f(x) = x (A (x) B)^T with A of size x size (KronA, Edalati et al. 2022; LoKr)."""
    ADALORA = "adalora"
    """f(x) = x Q^T diag(l) P, triplets cut while training, then a LoRA (Zhang et al. 2023)."""
    SPARSE = "sparse"
    """f(x) = x D^T, D zero but for entries drawn at random; the others below become this."""
    FISH = "fish"
    """The same, the entries with the largest Fisher information (Sung et al. 2021)."""
    LT_SFT = "lt_sft"
    """The same, the entries that a dense training moves the most (Ansell et al. 2022)."""
    DIFF_PRUNING = "diff_pruning"
    """The same, the entries that gates under an L0 penalty leave (Guo et al. 2021)."""
    BOTTLENECK = "bottleneck"
    """f(x) = act(x Wd + bd) Wu + bu (adapters, Houlsby et al. 2019; He et al. 2022)."""
    PHM = "phm"
    """A bottleneck whose W are sum_i A_i (x) s_i t_i^T, A shared by all layers (Compacter, Karimi
    Mahabadi et al. 2021)."""
    SPARSE_BOTTLENECK = "sparse_bottleneck"
    """A bottleneck four times as wide with as many weights, chosen by SNIP (He et al. 2022)."""
    PREFIX = "prefix"
    """f(x) = softmax(q Pk) Pv, sharing the softmax with the keys (Li and Liang 2021)."""
    PREFIX_MLP = "prefix_mlp"
    """A prefix that an MLP puts out while it is trained (Li and Liang 2021, section 4.3)."""
    PROMPT = "prompt"
    """Rows of the embedding before a text's own (prompt tuning, Lester et al. 2021)."""
    PROMPT_MLP = "prompt_mlp"
    """A prompt that an MLP puts out while it is trained (p-tuning, Liu et al. 2021)."""
    MULTIHEAD = "multihead"
    """f(q) = relu(q Pk^T) Pv in each head (multi-head parallel adapter, He et al. 2022)."""
    BIAS = "bias"
    """f(x) = b (BitFit, Ben Zaken et al. 2022)."""
    SCALE = "scale"
    """h <- h * l, elementwise (IA3, Liu et al. 2022)."""


class Compose(StrEnum):
    """How f(x) joins h."""

    ADD = "add"
    """h + s f(x)."""
    RENORMALISE = "renormalise"
    """c (h + s f(x)), c keeps the norm of each output's weights at a trained magnitude."""
    MULTIPLY = "multiply"
    """h * l."""
    SOFTMAX = "softmax"
    """(1 - lambda) h + lambda f(x), lambda the share of the softmax mass that the prefix takes."""
    CONCATENATE = "concatenate"
    """[f; h], more tokens before those of the row."""


class Activation(StrEnum):
    """The non-linearity of a bottleneck. Each maps 0 to 0, so padded ranks stay silent."""

    RELU = "relu"
    GELU = "gelu"
    GELU_NEW = "gelu_new"
    """GELU with tanh instead of erf, as GPT-2 has it."""
    TANH = "tanh"
    SILU = "silu"


PREFIX_HIDDEN = 512
"""Width of the MLP that a prefix can come out of, as published."""

PHM_PARTS = 4
"""How many Kronecker products a phm sums, and their first factors' width, as published."""


class Fits(NamedTuple):
    """Which sizes a form has between which widths.

    Attributes:
        test: of (size, width read, width written).
        words: the same for people.
    """

    test: Callable[[int, int, int], bool]
    words: str


_ANYWHERE = Fits(lambda _, __, ___: True, "any size fits")
_DIVIDES = Fits(lambda r, m, n: m % r == n % r == 0, "a size has to divide both widths")
_IN_PARTS = Fits(
    lambda *numbers: all(number % PHM_PARTS == 0 for number in numbers),
    f"size and widths have to be multiples of {PHM_PARTS}",
)


@dataclass(frozen=True)
class FormRule:
    """What the form admits.

    Attributes:
        compose: how it joins h.
        sized: it has a free size (rank, bottleneck width, prefix length); otherwise size is 1.
        scalable: a constant or learned factor s applies.
        activated: it has an activation.
        count: parameters in one layer for (size, width read, width written), without a learned s;
            it need not grow with the size.
        trained: how many of them are trained, likewise; None if those that are stored.
        becomes: the form that it has once it is trained, and is stored in; None if its own.
        fits: the sizes that the form comes in.
        gated: s can be a gate.
        shared: parameters that all ops of the form in a genotype have in common, in all layers.
        shared_trained: how many of those are trained, where it is more, for (largest size, width of
            the model).
        learnable: the factor s may be learned.
        alone: it cannot share a cohort: it is too large while training, or its rows are longer.
    """

    compose: Compose
    sized: bool
    scalable: bool
    activated: bool
    count: Callable[[int, int, int], int]
    trained: Callable[[int, int, int], int] | None = None
    becomes: "Form | None" = None
    fits: Fits = _ANYWHERE
    gated: bool = False
    shared: int = 0
    shared_trained: Callable[[int, int], int] | None = None
    learnable: bool = True
    alone: bool = False


def adalora_start(rank: int) -> int:
    """Ranks that AdaLoRA starts with: half as many again as it may keep on average."""
    return -(-3 * rank // 2)


_SPARSE = FormRule(
    *(Compose.ADD, True, False, False),
    count=lambda k, _, __: k,
    fits=Fits(lambda k, m, n: k <= m * n, "a weight has no more entries"),
)

FORMS: dict[Form, FormRule] = {
    Form.SPARSE: _SPARSE,
    Form.FISH: replace(_SPARSE, becomes=Form.SPARSE),
    Form.LT_SFT: replace(_SPARSE, trained=lambda _, m, n: m * n, becomes=Form.SPARSE, alone=True),
    Form.DIFF_PRUNING: replace(
        _SPARSE, trained=lambda _, m, n: 2 * m * n, becomes=Form.SPARSE, alone=True
    ),
    Form.SPARSE_BOTTLENECK: FormRule(
        *(Compose.ADD, True, True, True), count=lambda r, m, n: r * (m + n) + r + n
    ),
    Form.LOWRANK: FormRule(
        *(Compose.ADD, True, True, False), lambda r, m, n: r * (m + n), gated=True
    ),
    Form.LOWRANK_FA: FormRule(*(Compose.ADD, True, True, False), lambda r, _, n: r * n, gated=True),
    Form.DORA: FormRule(Compose.RENORMALISE, True, True, False, lambda r, m, n: r * (m + n) + n),
    Form.VERA: FormRule(*(Compose.ADD, True, True, False), lambda r, _, n: r + n, gated=True),
    Form.KRONECKER: FormRule(
        *(Compose.ADD, True, True, False),
        count=lambda r, m, n: r * r + (m // r) * (n // r),
        fits=_DIVIDES,
        gated=True,
    ),
    Form.BOTTLENECK: FormRule(
        *(Compose.ADD, True, True, True), lambda r, m, n: r * (m + n) + r + n, gated=True
    ),
    Form.ADALORA: FormRule(
        *(Compose.ADD, True, True, False),
        count=lambda r, m, n: r * (m + n),
        trained=lambda r, m, n: adalora_start(r) * (m + n + 1),
        becomes=Form.LOWRANK,
        learnable=False,
    ),
    Form.PHM: FormRule(
        *(Compose.ADD, True, True, True),
        count=lambda r, m, n: (m + r) + (r + n) + r + n,
        fits=_IN_PARTS,
        gated=True,
        shared=PHM_PARTS**3,
    ),
    Form.PREFIX: FormRule(
        *(Compose.SOFTMAX, True, False, False), lambda r, m, _: 2 * r * m, gated=True
    ),
    Form.PREFIX_MLP: FormRule(
        *(Compose.SOFTMAX, True, False, False),
        count=lambda r, m, _: 2 * r * m,
        trained=lambda _, m, __: (PREFIX_HIDDEN + 1) * 2 * m,
        shared_trained=lambda r, d: r * d + (d + 1) * PREFIX_HIDDEN,
        becomes=Form.PREFIX,
        alone=True,
    ),
    Form.PROMPT: FormRule(
        *(Compose.CONCATENATE, True, False, False), lambda r, m, _: r * m, alone=True
    ),
    Form.PROMPT_MLP: FormRule(
        *(Compose.CONCATENATE, True, False, False),
        count=lambda r, m, _: r * m,
        trained=lambda r, m, _: r * m + 3 * (m + 1) * m,
        becomes=Form.PROMPT,
        alone=True,
    ),
    Form.MULTIHEAD: FormRule(Compose.ADD, True, True, False, lambda r, _, n: 2 * r * n),
    Form.BIAS: FormRule(Compose.ADD, False, False, False, lambda r, m, _: r * m),
    Form.SCALE: FormRule(Compose.MULTIPLY, False, False, False, lambda r, m, _: r * m),
}


def shared_params(forms: Iterable[Form]) -> int:
    """Parameters that are there once for the layers of a genotype with ops of these forms."""
    return sum(FORMS[form].shared for form in set(forms))


PREFIXES = (Form.PREFIX, Form.PREFIX_MLP)
PROMPTS = (Form.PROMPT, Form.PROMPT_MLP)
"""Forms that lengthen the rows."""
IN_HEADS = (*PREFIXES, Form.MULTIHEAD)
"""Forms that act inside attention."""

SPARSE_DELTAS = (Form.SPARSE, Form.FISH, Form.LT_SFT, Form.DIFF_PRUNING)
"""Some entries of a weight matrix change; their size is how many."""

ON_WEIGHTS = (Form.DORA, *SPARSE_DELTAS)
"""Forms that are changes of a weight matrix and nothing else."""


def shared_trained_params(form: Form, size: int, d_model: int) -> int:
    """Parameters trained once for all ops of a form, of which the largest has this size."""
    rule = FORMS[form]
    return rule.shared if rule.shared_trained is None else rule.shared_trained(size, d_model)


def gate_tap(read: Tap) -> Tap:
    """Where the gate of an op reads: where the op does, of a prefix what attention starts from."""
    return Tap.ATTN_IN if read is Tap.HEAD else read


def is_sequential(read: Tap, write: Tap) -> bool:
    """Whether an op that reads and writes there modifies a state by a function of that state."""
    return read == write or THROUGH_NORM.get(read) == write


def misplaced(form: Form, read: Tap, write: Tap) -> str | None:
    """Say why an op of this form cannot read and write at these taps; None when it can."""
    if (form in PROMPTS) != (Tap.EMBED in (read, write)):
        return "a prompt stands at `embed`, and nothing else does"
    if (form in IN_HEADS) != (write in QUERIES):
        return "a prefix acts at `head` and `cross_head`, and nothing else but a multihead does"
    if form is Form.MULTIHEAD:
        queries = QUERIES[write]
        return None if read is queries else f"a multihead reads the queries, `{queries}`"
    if write is Tap.CROSS_MEMORY:
        return "`cross_memory` is what the encoder put out, which a layer of the decoder only reads"
    if form in (*PREFIXES, *PROMPTS, Form.BIAS, Form.SCALE):
        return None if read == write else f"a {form} reads where it writes"
    if read in QUERIES:
        return f"only a prefix reads at `{read}`"
    if form in ON_WEIGHTS and LINEAR_INPUT.get(write) is not read:
        return f"a {form} reads the input of the weight matrix whose output it writes"
    return None if is_sequential(read, write) else _unreachable(read, write)


def _unreachable(read: Tap, write: Tap) -> str | None:
    """Say why what is written at one tap cannot be computed of another one; None when it can."""
    memory = {Tap.CROSS_MEMORY, Tap.CROSS_K, Tap.CROSS_V}
    if (read in memory) != (write in memory):
        return f"one of `{read}` and `{write}` has the encoder's tokens, the other the decoder's"
    if {read, write} <= {Tap.Q, Tap.K, Tap.V} or {read, write} <= {Tap.CROSS_K, Tap.CROSS_V}:
        return "q, k and v are computed side by side"
    if {read, write} == {Tap.FFN_GATE, Tap.FFN_UP}:
        return "the gate and the other projection are computed side by side"
    if ORDER[read] > ORDER[write]:
        return f"`{read}` is computed after `{write}`"
    return None


def weight_input(write: Tap) -> Tap:
    """The input tap of the weight matrix whose output is `write`.

    Raises:
        KeyError: no single weight matrix writes there.
    """
    return LINEAR_INPUT[write]
