"""An adapter: a trained genotype with its head, and what it has to be put on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import transformers
from pydantic import ValidationError
from torch import Tensor
from transformers import PreTrainedModel

from autopeft import checks
from autopeft.engines.ground import WRITES
from autopeft.errors import ConfigError
from autopeft.model.anatomy import Anatomy
from autopeft.model.attention import kernel_for
from autopeft.model.backbone import Backbone
from autopeft.model.checkpoint import CLASSES, Writes
from autopeft.model.computing import Scheme
from autopeft.model.head import head_modules
from autopeft.model.inject import Injection
from autopeft.space.genotype import Genotype
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.taps import Tap
from autopeft.tasks.spec import GenerationSpec, Kind

FORMAT_VERSION = 1

PROBLEMS: Mapping[Kind, str] = {
    "classification": "single_label_classification",
    "multi_label_classification": "multi_label_classification",
    "regression": "regression",
}
"""What transformers calls the tasks whose head reads a row."""


@dataclass(frozen=True)
class Outputs:
    """What the outputs of a model mean.

    Attributes:
        kind: the task.
        labels: names of the classes, or of the tags of words, in the order of the outputs.
        mean: an output times `std` plus `mean` is the label; 0 and 1 where the head does so itself.
        std: see `mean`.
        generation: how texts are written, where answers are texts.
        chat: what is answered are messages, which the tokenizer's chat template writes.
    """

    kind: Kind
    labels: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    generation: GenerationSpec | None = None
    chat: bool = False

    @property
    def n_outputs(self) -> int:
        """Outputs of the head."""
        return max(1, len(self.labels))

    @property
    def writes(self) -> Literal["seq2seq", "causal"] | None:
        """How the model writes, if it does."""
        return self.kind if self.kind == "seq2seq" or self.kind == "causal" else None  # noqa: PLR1714

    @property
    def loaded_as(self) -> Writes | None:
        """How its backbone is loaded; None for a model whose head reads a row."""
        return WRITES.get(self.kind)

    @property
    def auto(self) -> str:
        """The class of transformers that loads such a model."""
        return str(CLASSES[self.loaded_as].__name__)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        if self.generation is not None:
            return {
                "kind": self.kind,
                "generation": self.generation.model_dump(mode="json"),
                "chat": self.chat,
            }
        return {
            "kind": self.kind,
            "labels": list(self.labels),
            "mean": self.mean,
            "std": self.std,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str) -> Self:
        """The inverse of `to_dict`, for what has been checked.

        Raises:
            ConfigError: naming the source and what is wrong.
        """
        if "generation" in data:
            try:
                generation = GenerationSpec(**data["generation"])
                return cls(data["kind"], generation=generation, chat=data["chat"])
            except ValidationError as error:
                where, problem = checks.first_problem(error, "outputs.generation")
                raise ConfigError(f"{source}: {where}: {problem}") from None
        labels = tuple(data["labels"])
        if (data["kind"] == "regression") == bool(labels):
            raise ConfigError(f"{source}: outputs.labels: regression has none, classes have names")
        return cls(data["kind"], labels, data["mean"], data["std"])


@dataclass(frozen=True)
class Configuration:
    """What the configuration of a backbone said when an adapter was trained on it.

    Attributes:
        sha256: see `Backbone.configuration`.
        transformers: the version that read it; another one may tell more of the same.
    """

    sha256: str
    transformers: str

    @classmethod
    def of(cls, backbone: Backbone) -> Self:
        """What it says now."""
        return cls(backbone.configuration, transformers.__version__)

    def differs(self, other: Self) -> bool:
        """It says something else, as far as that can be told."""
        return self.transformers == other.transformers and self.sha256 != other.sha256


@dataclass(frozen=True)
class Description:
    """All of an adapter but its tensors.

    Attributes:
        backbone: Hub name or folder of the pretrained model.
        revision: its commit on the Hub, None for a folder.
        backbone_sha256: over its weights, as loaded.
        genotype: the ops, as they are stored.
        seed: of the trial, for what is random and not stored.
        outputs: what they mean.
        max_length: longest row in tokens that it was trained on.
        scheme: how the weight matrices of the backbone's layers are kept in few bits, if they are.
        configuration: of the backbone; None in exports of before.
    """

    backbone: str
    revision: str | None
    backbone_sha256: str
    genotype: Genotype
    seed: int
    outputs: Outputs
    max_length: int
    scheme: Scheme | None = None
    configuration: Configuration | None = None

    def to_dict(self, sha256: str, autopeft: str) -> dict[str, Any]:
        """What `autopeft_config.json` says.

        Args:
            sha256: of the tensor file.
            autopeft: version that writes it.
        """
        return {
            "version": FORMAT_VERSION,
            "autopeft": autopeft,
            "backbone": {
                "name": self.backbone,
                "revision": self.revision,
                "sha256": self.backbone_sha256,
                **({"quantize": self.scheme} if self.scheme else {}),
                **({"configuration": asdict(told)} if (told := self.configuration) else {}),
            },
            "genotype": self.genotype.to_dict(),
            "seed": self.seed,
            "outputs": self.outputs.to_dict(),
            "max_length": self.max_length,
            "tensors": {"sha256": sha256},
        }

    @classmethod
    def from_dict(cls, data: Any, source: str) -> tuple[Self, str]:
        """The inverse of `to_dict`, and the SHA-256 of the tensor file.

        Raises:
            ConfigError: naming the source and everything that is wrong.
        """
        checks.refuse_if_any(_check(data, ""), source)
        backbone = data["backbone"]
        told = backbone.get("configuration")
        description = cls(
            backbone=backbone["name"],
            revision=backbone["revision"],
            backbone_sha256=backbone["sha256"],
            genotype=genotype_from_dict(data["genotype"], source),
            seed=data["seed"],
            outputs=Outputs.from_dict(data["outputs"], source),
            max_length=data["max_length"],
            scheme=backbone.get("quantize"),
            configuration=told and Configuration(**told),
        )
        return description, data["tensors"]["sha256"]


def mount(
    model: PreTrainedModel, fresh: Sequence[str], description: Description
) -> tuple[Injection, dict[str, Tensor]]:
    """Put an adapter on a model, as it was before its training.

    Args:
        model: the backbone with a head of the right size.
        fresh: parameters that were not in its checkpoint.
        description: of the adapter.

    Returns:
        The ops, and views of the parameters of ops and head by name, to be filled.

    Raises:
        ConfigError: the genotype does not fit the model.
    """
    genotype = description.genotype
    kernel = kernel_for(genotype)
    injection = Injection(model, [genotype], [description.seed], kernel, fresh=fresh)
    name_outputs(model, description.outputs)
    return injection, injection.tensors(0) | head_tensors(model, fresh)


def head_tensors(model: PreTrainedModel, fresh: Sequence[str]) -> dict[str, Tensor]:
    """The parameters of a model's task head, by name, in the order of the forward pass."""
    return {
        f"{name}.{part}": parameter
        for name, module in head_modules(model, fresh)
        for part, parameter in module.named_parameters()
    }


def name_outputs(model: PreTrainedModel, outputs: Outputs) -> None:
    """Let a model's configuration say what its outputs mean; words mean themselves."""
    if outputs.writes:
        return
    model.num_labels = model.config.num_labels = outputs.n_outputs
    if outputs.kind == "regression":
        model.config.problem_type = "regression"
        model.config.label_mean, model.config.label_std = outputs.mean, outputs.std
        return
    for name in ("label_mean", "label_std"):  # of an adapter that a bank used before
        vars(model.config).pop(name, None)
    if problem := PROBLEMS.get(outputs.kind):
        model.config.problem_type = problem
    model.config.id2label = dict(enumerate(outputs.labels))
    model.config.label2id = {label: i for i, label in enumerate(outputs.labels)}


def name_padding(backbone: Backbone, tokenizer: Any) -> None:
    """Let a model's configuration say what rows are padded with, if it does not, or has to know."""
    config = backbone.model.config
    if config.pad_token_id is None or backbone.finds_padding:
        config.pad_token_id = tokenizer.pad_token_id


def leave_room(tokenizer: Any, backbone: Backbone, genotype: Genotype) -> None:
    """Let a tokenizer cut rows so that a prompt, if there is one, has positions before them."""
    n_positions = Anatomy(backbone.model, backbone.fresh).n_positions
    if n_positions is not None:
        n_before = sum(max(op.sizes) for op in genotype.ops if op.write is Tap.EMBED)
        tokenizer.model_max_length = min(tokenizer.model_max_length, n_positions - n_before)


def keeps_keys(backbone: Backbone, genotype: Genotype) -> bool:
    """Whether a plain model can keep keys and values while it writes."""
    shape = backbone.shape
    # As many layers as transformers keeps them for, which counts T5's decoder in its encoder.
    n_kept = backbone.model.config.get_text_config(decoder=True).num_hidden_layers
    n_writing = shape.n_layers - shape.n_encoder_layers
    return n_writing <= n_kept and not genotype.needs_whole_rows


_HASH = checks.matching("[0-9a-f]{64}", "64 hexadecimal digits")
# A name is never made a path unless it is that of a folder; nothing leaves it by `..`. Those of
# folders are whole, and may have what no name of the Hub has.
_FOLDER = r"/(?!(.*/)?\.\.(/|$))[^\x00-\x1f]{0,4095}"
_NAME = checks.matching(rf"{_FOLDER}|(?!.*\.\.)[^\x00-\x1f@]{{1,4096}}", "a Hub name or a folder")
_OF_HEADS = checks.fields(
    {
        "kind": checks.one_of(*PROBLEMS, "token_classification"),
        "labels": checks.list_of(checks.TEXT),
        "mean": checks.NUMBER,
        "std": checks.NUMBER,
    }
)
_OF_WORDS = checks.fields(
    {
        "kind": checks.one_of("seq2seq", "causal"),
        "generation": checks.PLAIN_OBJECT,
        "chat": checks.one_of(False, True),
    }
)


_LONGEST = 2**63 - 1
"""Tokens of a row where nothing limits them; tokenizers take no larger number."""


def _is_length(value: object) -> bool:
    return type(value) is int and 1 <= value <= _LONGEST


def _check_outputs(value: Any, at: str) -> list[str]:
    of_words = isinstance(value, dict) and value.get("kind") in ("seq2seq", "causal")
    return (_OF_WORDS if of_words else _OF_HEADS)(value, at)


_OF_PLAIN: dict[str, checks.Check] = {
    "name": _NAME,
    "revision": checks.optional(checks.matching(r"[\w.-]{1,100}", "a revision")),
    "sha256": _HASH,
}
_OF_SOME: dict[str, checks.Check] = {
    "quantize": checks.one_of(*get_args(Scheme)),
    "configuration": checks.fields({"sha256": _HASH, "transformers": checks.TEXT}),
}


def _check_backbone(value: Any, at: str) -> list[str]:
    found = value if isinstance(value, dict) else {}
    more = {name: check for name, check in _OF_SOME.items() if name in found}
    return checks.fields(_OF_PLAIN | more)(value, at)


_check = checks.fields(
    {
        "version": checks.one_of(FORMAT_VERSION),
        "autopeft": checks.TEXT,
        "backbone": _check_backbone,
        "genotype": checks.PLAIN_OBJECT,
        "seed": checks.COUNT,
        "outputs": _check_outputs,
        "max_length": checks.leaf(f"1 to {_LONGEST:,}", _is_length),
        "tensors": checks.fields({"sha256": _HASH}),
    }
)
