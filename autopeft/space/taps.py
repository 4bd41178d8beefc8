"""The taps: named places in a transformer layer where a hidden state is read or written.

Every tap is the input or the output of one module, in the order in which a layer computes them.
`docs/architecture.md` has the picture.
"""

from enum import StrEnum


class Tap(StrEnum):
    """A place in a layer. The order of the members is the order of computation."""

    EMBED = "embed"
    """The word embeddings of a row, below the lowest layer, which is the one that has the tap."""
    ATTN_IN = "attn_in"
    """Input of the query, key and value projections."""
    Q = "q"
    K = "k"
    V = "v"
    HEAD = "head"
    """Inside attention: the keys and values of each head."""
    PRE_O = "pre_o"
    """Concatenated heads, the input of the output projection."""
    ATTN_OUT = "attn_out"
    """Output of the output projection, before the residual is added."""
    ATTN_NORM = "attn_norm"
    """Output of the attention sublayer's LayerNorm."""
    CROSS_IN = "cross_in"
    """Input of the query projection of a decoder layer's attention to the encoder."""
    CROSS_Q = "cross_q"
    CROSS_MEMORY = "cross_memory"
    """What the encoder put out: the input of that attention's key and value projections."""
    CROSS_K = "cross_k"
    CROSS_V = "cross_v"
    CROSS_HEAD = "cross_head"
    CROSS_PRE_O = "cross_pre_o"
    CROSS_OUT = "cross_out"
    CROSS_NORM = "cross_norm"
    """Output of that sublayer's LayerNorm."""
    FFN_IN = "ffn_in"
    FFN_GATE = "ffn_gate"
    """Output of a gated FFN's gate projection, before the activation."""
    FFN_UP = "ffn_up"
    """Output of the FFN's first projection, before the activation."""
    FFN_MID = "ffn_mid"
    """The activated state, the input of the FFN's last projection."""
    FFN_OUT = "ffn_out"
    """Output of the FFN's last projection, before the residual is added."""
    FFN_NORM = "ffn_norm"
    """Output of the FFN sublayer's LayerNorm."""
    BLOCK_OUT = "block_out"
    """Output of the whole layer."""


CROSS = frozenset(tap for tap in Tap if tap.startswith("cross_"))
"""The taps that layers of an encoder-decoder's decoder have, and no other ones."""

QUERIES = {Tap.HEAD: Tap.Q, Tap.CROSS_HEAD: Tap.CROSS_Q}
"""For the heads of each kind of attention, the tap of their queries."""

ORDER = {tap: i for i, tap in enumerate(Tap)}

LINEAR_INPUT = {
    Tap.Q: Tap.ATTN_IN,
    Tap.K: Tap.ATTN_IN,
    Tap.V: Tap.ATTN_IN,
    Tap.ATTN_OUT: Tap.PRE_O,
    Tap.CROSS_Q: Tap.CROSS_IN,
    Tap.CROSS_K: Tap.CROSS_MEMORY,
    Tap.CROSS_V: Tap.CROSS_MEMORY,
    Tap.CROSS_OUT: Tap.CROSS_PRE_O,
    Tap.FFN_GATE: Tap.FFN_IN,
    Tap.FFN_UP: Tap.FFN_IN,
    Tap.FFN_OUT: Tap.FFN_MID,
}
"""For the output of each weight matrix, the tap that is its input."""

FFN_WEIGHTS = frozenset({Tap.FFN_GATE, Tap.FFN_UP, Tap.FFN_OUT})
"""The outputs of the weight matrices of an FFN."""

THROUGH_NORM = {
    Tap.ATTN_NORM: Tap.ATTN_OUT,
    Tap.CROSS_NORM: Tap.CROSS_OUT,
    Tap.FFN_NORM: Tap.FFN_OUT,
}
"""Reading at the key, writing at the value: h += f(LN(h + residual)), LN the layer's own."""
