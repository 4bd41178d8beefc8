"""Task heads, stacked over the trials of a cohort.

The head is what the checkpoint did not bring plus the final classifier; each of its Linears
becomes one weight per trial. A pooler that came with the checkpoint is backbone.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from autopeft.errors import DataError
from autopeft.ops.base import padded_size, seed_of

OPS_ATTRIBUTE = "autopeft_ops"
"""The submodule of a model that holds all ops."""


class StackedLinear(nn.Module):
    """A Linear with weights of its own for each trial.

    Args:
        linear: the layer that it stands in for.
        name: its name in the model.
        fresh: it was not in the checkpoint; every trial starts it from its own seed.
        seeds: one for each trial.
        std: standard deviation of fresh weights, the model's `initializer_range`.
    """

    def __init__(
        self, linear: nn.Linear, name: str, *, fresh: bool, seeds: Sequence[int], std: float
    ) -> None:
        super().__init__()
        self.weight: nn.Parameter
        self.bias: nn.Parameter | None
        self.name, self.fresh, self.seeds, self.std = name, fresh, tuple(seeds), std
        self.in_features, self.out_features = linear.in_features, linear.out_features
        n = len(seeds)
        self.weight = nn.Parameter(linear.weight.detach().float().repeat(n, 1, 1))
        has_bias = linear.bias is not None
        bias = linear.bias.detach().float().repeat(n, 1, 1) if has_bias else None
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))
        if fresh:
            self._reset()

    @torch.no_grad()
    def _reset(self) -> None:
        for i, seed in enumerate(self.seeds):
            generator = torch.Generator().manual_seed(seed_of(seed, self.name, "weight"))
            fresh = torch.empty(self.out_features, self.in_features)
            self.weight[i] = fresh.normal_(0.0, self.std, generator=generator)
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, x: Float[Tensor, "row *rest d_in"]) -> Float[Tensor, "row *rest d_out"]:
        """X W^T + b, each row with the weights of its trial."""
        n_trials = len(self.seeds)
        stacked = x.reshape(n_trials, -1, x.shape[-1]).to(self.weight.dtype)
        # A product with one output takes another path, with other bits, when it is alone.
        padding = padded_size(self.out_features) - self.out_features
        weight = nn.functional.pad(self.weight, (0, 0, 0, padding))
        out = torch.bmm(stacked, weight.transpose(1, 2))[..., : self.out_features]
        if self.bias is not None:
            out = out + self.bias
        return out.reshape(*x.shape[:-1], self.out_features)


def last_token_logits(
    model: PreTrainedModel, head: str, batch: Mapping[str, Tensor]
) -> Float[Tensor, "row output"]:
    """What a head puts out at the last token of every row, of several trials.

    The model's own forward pass looks for the last tokens of as many rows as it was given.

    Args:
        model: with ops.
        head: name of the Linear.
        batch: as the model takes it, of the examples that all trials have.
    """
    states: Tensor = model.base_model(**batch, use_cache=False).last_hidden_state
    mask = batch["attention_mask"]
    last = (torch.arange(mask.shape[1], device=mask.device) * mask).argmax(-1)
    of_trials = states.view(-1, *mask.shape, states.shape[-1])
    pooled = of_trials[:, torch.arange(len(mask), device=mask.device), last]
    out: Tensor = model.get_submodule(head)(pooled.flatten(0, 1))
    return out


class StackedHead:
    """The head of a model, stacked over trials. `remove` puts the old one back.

    Args:
        model: a model with a task head.
        fresh: names of the head's parameters that were not in the checkpoint.
        seeds: one for each trial.

    Raises:
        DataError: the head has parameters outside Linear layers.
    """

    def __init__(self, model: PreTrainedModel, fresh: Sequence[str], seeds: Sequence[int]) -> None:
        self._model = model
        # All of them, before any is replaced: a head that is refused leaves the model alone.
        self._old = dict(head_linears(model, fresh))
        self.linears: dict[str, StackedLinear] = {}
        std = float(getattr(model.config, "initializer_range", 0.02))
        device = next(model.parameters()).device
        for name, linear in self._old.items():
            stacked = StackedLinear(
                linear, name, fresh=f"{name}.weight" in fresh, seeds=seeds, std=std
            )
            self.linears[name] = stacked.to(device)
            model.set_submodule(name, self.linears[name])

    def tensors(self, trial: int) -> dict[str, Tensor]:
        """The head's parameters of one trial, by the names they have in the model; views."""
        out: dict[str, Tensor] = {}
        for name, linear in self.linears.items():
            out[f"{name}.weight"] = linear.weight[trial]
            if linear.bias is not None:
                out[f"{name}.bias"] = linear.bias[trial, 0]
        return out

    def count(self) -> int:
        """Parameters of one trial's head."""
        return sum(tensor.numel() for tensor in self.tensors(0).values())

    def remove(self) -> None:
        """Put the model's own head back."""
        for name, linear in self._old.items():
            self._model.set_submodule(name, linear)


def head_linears(model: PreTrainedModel, fresh: Sequence[str]) -> Iterator[tuple[str, nn.Linear]]:
    """The Linears of the task head, in the order of the forward pass.

    What a language model puts its words out with is not one.

    Raises:
        DataError: the head has parameters outside Linear layers.
    """
    prefix = f"{model.base_model_prefix}."
    fresh_pooler = any(name.startswith(f"{prefix}pooler.") for name in fresh)
    vocabulary = model.get_output_embeddings()
    names = [
        name
        for name, _ in model.named_parameters()
        if vocabulary is None or model.get_submodule(name.rpartition(".")[0]) is not vocabulary
        if not name.startswith((prefix, f"{OPS_ATTRIBUTE}."))
        or (fresh_pooler and name.startswith(f"{prefix}pooler."))
    ]
    owners = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    # A pooler runs before the classifier, whatever the order of registration.
    for owner in sorted(owners, key=lambda name: not name.startswith(prefix)):
        module = model.get_submodule(owner)
        if not isinstance(module, nn.Linear):
            raise DataError(
                f"`{owner}` of the task head is a {type(module).__name__}; "
                "only heads made of Linear layers can be trained"
            )
        yield owner, module
