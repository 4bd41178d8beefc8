"""Task heads, stacked over the trials of a cohort.

The head is what the checkpoint did not bring plus the final classifier; each of its Linears and
LayerNorms gets parameters for every trial. A pooler that came with the checkpoint is backbone.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from autopeft.errors import DataError
from autopeft.model.family import Pool
from autopeft.model.quantized_linear import is_packed
from autopeft.ops.base import padded_size
from autopeft.space.seed import seed_of

OPS_ATTRIBUTE = "autopeft_ops"
"""The submodule of a model that holds all ops."""


class StackedModule(nn.Module, ABC):
    """A module of the head with parameters of its own for each trial."""

    @abstractmethod
    def decays(self, name: str) -> bool:
        """Weight decay applies to a parameter."""

    @abstractmethod
    def tensors(self, trial: int) -> Iterator[tuple[str, Tensor]]:
        """A trial's parameters, in the shapes that the module has them; views."""


class StackedLinear(StackedModule):
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
            fresh = torch.empty(self.out_features, self.in_features, dtype=torch.float32)
            self.weight[i] = fresh.normal_(0.0, self.std, generator=generator)
        if self.bias is not None:
            self.bias.zero_()

    def decays(self, name: str) -> bool:
        """The weight does."""
        return name == "weight"

    def tensors(self, trial: int) -> Iterator[tuple[str, Tensor]]:
        """The weight and, if there is one, the bias."""
        yield "weight", self.weight[trial]
        if self.bias is not None:
            yield "bias", self.bias[trial, 0]

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


class StackedNorm(StackedModule):
    """A LayerNorm with gains and biases of its own for each trial.

    Args:
        norm: the layer that it stands in for.
        fresh: it was not in the checkpoint; every trial starts it as no change of scale or mean.
        n_trials: how many there are.
    """

    def __init__(self, norm: nn.LayerNorm, *, fresh: bool, n_trials: int) -> None:
        super().__init__()
        self.weight: nn.Parameter
        self.bias: nn.Parameter | None
        self.shape, self.eps = norm.normalized_shape, norm.eps
        for name, start in (("weight", 1.0), ("bias", 0.0)):
            own: Tensor | None = getattr(norm, name)
            if own is not None:
                value = torch.full_like(own, start) if fresh else own.detach()
                own = nn.Parameter(value.float().repeat(n_trials, 1, 1))
            self.register_parameter(name, own)

    def decays(self, name: str) -> bool:  # noqa: ARG002
        """Nothing does."""
        return False

    def tensors(self, trial: int) -> Iterator[tuple[str, Tensor]]:
        """The gains and, if there are any, the biases."""
        for name, parameter in self.named_parameters():
            yield name, parameter[trial, 0]

    def forward(self, x: Float[Tensor, "row *rest d"]) -> Float[Tensor, "row *rest d"]:
        """LN(x), each row with the gains of its trial."""
        n_trials = len(self.weight)
        normed = nn.functional.layer_norm(x.to(self.weight.dtype), self.shape, eps=self.eps)
        out = normed.reshape(n_trials, -1, x.shape[-1]) * self.weight
        if self.bias is not None:
            out = out + self.bias
        return out.reshape(x.shape)


def pooled_logits(
    model: PreTrainedModel,
    head: Sequence[str],
    pool: Pool,
    batch: Mapping[str, Tensor],
    pad: int | None = None,
) -> Float[Tensor, "row output"]:
    """What a head puts out for every row of several trials.

    The model's own forward pass looks for the tokens to read in as many rows as it was given.

    Args:
        model: with ops.
        head: names of its modules in the order of computation.
        pool: the tokens that it reads.
        batch: as the model takes it, of the examples that all trials have.
        pad: the token that rows are filled up with, which is never the last one of a row.
    """
    given = dict(batch)
    # What a decoder reads of a text; BART's body does so by itself, T5's leaves it to the head.
    if (shift := getattr(model, "_shift_right", None)) is not None:
        given["decoder_input_ids"] = shift(batch["input_ids"])
    states: Tensor = model.base_model(**given, use_cache=False).last_hidden_state
    mask = batch["attention_mask"]
    of_trials = states.view(-1, *mask.shape, states.shape[-1])
    if pool == "late":
        pooled = of_trials
    elif pool == "mean":
        pooled = _mean(of_trials, mask)
    else:
        place = torch.arange(mask.shape[1], device=mask.device)
        # Decoders of transformers look for it by its number, where a row itself ends with it, too.
        real = mask * batch["input_ids"].ne(pad) if pool == "last" and pad is not None else mask
        read = (place * real).argmax(-1) * (pool != "first")
        if pool == "eos":
            ends = mask * batch["input_ids"].eq(model.config.eos_token_id)
            read = torch.where(ends.any(-1), (place * ends).argmax(-1), read)
        pooled = of_trials[:, torch.arange(len(mask), device=mask.device), read]
    out = pooled.flatten(0, 1)
    for name in head:
        out = model.get_submodule(name)(out)
    if pool == "late":  # the head reads every token
        out = _mean(out.view(-1, *mask.shape, out.shape[-1]), mask).flatten(0, 1)
    return out


def _mean(
    of_tokens: Float[Tensor, "trial row token d"], mask: Int[Tensor, "row token"]
) -> Float[Tensor, "trial row d"]:
    """Over the tokens of each row, without padding."""
    real = mask.unsqueeze(-1).to(of_tokens.dtype)
    return (of_tokens * real).sum(2) / real.sum(1)


class StackedHead:
    """The head of a model, stacked over trials. `remove` puts the old one back.

    Args:
        model: a model with a task head.
        fresh: names of the head's parameters that were not in the checkpoint.
        seeds: one for each trial.

    Raises:
        DataError: the head has parameters outside Linear layers and LayerNorms.
    """

    def __init__(self, model: PreTrainedModel, fresh: Sequence[str], seeds: Sequence[int]) -> None:
        self._model = model
        # All of them, before any is replaced: a head that is refused leaves the model alone.
        self._old = dict(head_modules(model, fresh))
        self.modules: dict[str, StackedModule] = {}
        std = float(getattr(model.config, "initializer_range", 0.02))
        device = next(model.parameters()).device
        for name, old in self._old.items():
            new = f"{name}.weight" in fresh
            stacked: StackedModule = (
                StackedNorm(old, fresh=new, n_trials=len(seeds))
                if isinstance(old, nn.LayerNorm)
                else StackedLinear(old, name, fresh=new, seeds=seeds, std=std)
            )
            self.modules[name] = stacked.to(device)
            model.set_submodule(name, self.modules[name])

    def tensors(self, trial: int) -> dict[str, Tensor]:
        """The head's parameters of one trial, by the names they have in the model; views."""
        return {
            f"{name}.{parameter}": tensor
            for name, module in self.modules.items()
            for parameter, tensor in module.tensors(trial)
        }

    def count(self) -> int:
        """Parameters of one trial's head."""
        return sum(tensor.numel() for tensor in self.tensors(0).values())

    def remove(self) -> None:
        """Put the model's own head back."""
        for name, old in self._old.items():
            self._model.set_submodule(name, old)


def head_modules(
    model: PreTrainedModel, fresh: Sequence[str]
) -> Iterator[tuple[str, nn.Linear | nn.LayerNorm]]:
    """The modules of the task head that have parameters, in the order of the forward pass.

    What a language model puts its words out with is not one.

    Raises:
        DataError: the head has parameters outside Linear layers and LayerNorms.
    """
    if model.base_model is model:
        return  # as T5 is for generation: nothing but what words come out of is added to it
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
        if not isinstance(module, nn.Linear | nn.LayerNorm):
            raise DataError(
                f"`{owner}` of the task head is a {type(module).__name__}; "
                "only heads made of Linear layers and LayerNorms can be trained"
            )
        if is_packed(module):
            raise DataError(
                f"`{owner}` of the task head is kept in few bits, which cannot be trained; give "
                "llm_int8_skip_modules of a BitsAndBytesConfig its name"
            )
        yield owner, module
