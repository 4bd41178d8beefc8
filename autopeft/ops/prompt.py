"""Prompts: trained rows of the embedding before those of a text.

Prompt tuning trains the rows themselves (Lester et al. 2021), p-tuning an encoder that puts them
out (Liu et al. 2021), which is dropped afterwards. They lengthen the rows, by hooks of
`autopeft.model.prompts`.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autopeft.ops.base import Declared, StackedOp
from autopeft.ops.lowrank import kaiming
from autopeft.ops.point import Point
from autopeft.space.forms import Form

_LINEARS = (1, 2, 3)


class Prompt(StackedOp):
    """`prompt` [1, length, d]: at the start, words drawn from the vocabulary (section 3.2)."""

    form = Form.PROMPT
    pads = False  # its rows are those of the model
    prompt: nn.Parameter
    _point: Point | None = None

    def declare(self) -> Mapping[str, Declared]:
        """One row for each token."""
        return {"prompt": Declared("size", self.d_read)}

    def stand_at(self, point: Point) -> None:
        """Start from what this embedding puts out, without registering it a second time."""
        self._point = point
        self.reset()

    def initial(
        self, name: str, rows: int, width: int, generator: torch.Generator
    ) -> Float[Tensor, "rows width"]:
        """Embeddings of words, each as likely as any other; zero before there is a vocabulary."""
        if self._point is None:
            return super().initial(name, rows, width, generator)
        words: Tensor = self._point.module.get_parameter("weight")
        drawn = torch.randint(len(words), (rows,), generator=generator)
        out: Tensor = self._point.module(drawn.to(words.device))
        return out.float()

    def tokens(self) -> Float[Tensor, "length d"]:
        """The rows that come before those of a text."""
        return self.prompt[0]

    def forward(
        self,
        h: Float[Tensor, "member token d_write"],
        x: Float[Tensor, "member token d_read"],
    ) -> Float[Tensor, "member token d_write"]:
        """A prompt acts before the layers.

        Raises:
            NotImplementedError: always; `tokens` is what the embeddings are lengthened with.
        """
        raise NotImplementedError("a prompt acts before the layers, by `tokens`")


class PromptMlp(Prompt):
    """relu(relu(E W1 + b1) W2 + b2) W3 + b3, all as wide as the embedding.

    Of the encoders of p-tuning the one without an LSTM, as in peft; as wide as the authors' one.
    """

    form = Form.PROMPT_MLP
    embedding: nn.Parameter

    def declare(self) -> Mapping[str, Declared]:
        """An embedding of the prompt and three Linears."""
        d = self.d_read
        linears = {f"linear{i}": Declared(d, d) for i in _LINEARS}
        biases = {f"bias{i}": Declared("one", d, decays=False) for i in _LINEARS}
        return {"embedding": Declared("size", d), **linears, **biases}

    def initial(
        self, name: str, rows: int, width: int, generator: torch.Generator
    ) -> Float[Tensor, "rows width"]:
        """As torch initialises an Embedding and a Linear, the biases zero."""
        if name == "embedding":
            return torch.empty(rows, width).normal_(0.0, 1.0, generator=generator)
        if name.startswith("linear"):
            return kaiming(rows, width, generator)
        return torch.zeros(rows, width)

    def tokens(self) -> Float[Tensor, "length d"]:
        """What the encoder puts out, anew at every step."""
        state: Tensor = self.embedding[0]
        for i in _LINEARS:
            state = state if i == _LINEARS[0] else torch.relu(state)
            weight, bias = self.get_parameter(f"linear{i}"), self.get_parameter(f"bias{i}")
            state = nn.functional.linear(state, weight[0], bias[0, 0])
        return state

    def stored(self, member: int) -> tuple[int, dict[str, Tensor]]:
        """What the encoder has come to put out: a prompt."""
        with torch.no_grad():
            return self.stack[member].size, {"prompt": self.tokens().clone()}
