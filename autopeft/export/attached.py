"""What `autopeft.attach` gives: ops in anybody's model, to be trained, saved and taken out."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from transformers import PreTrainedModel

from autopeft import checks
from autopeft.errors import ConfigError, DataError
from autopeft.export.adapter import (
    PROBLEMS,
    Configuration,
    Description,
    Outputs,
    head_tensors,
    leave_room,
)
from autopeft.export.native import CONFIG, TENSORS, put_on, read_description, write_native
from autopeft.model.anatomy import tags_words
from autopeft.model.backbone import (
    OF_NO_STATE,
    Backbone,
    backbone_prefix,
    load_backbone,
    not_loaded,
)
from autopeft.model.checkpoint import CLASSES
from autopeft.model.computing import Kernel
from autopeft.model.head import head_modules
from autopeft.model.inject import Injection
from autopeft.model.positions import begin_at_zero
from autopeft.model.quantized import check_bits, scheme_of
from autopeft.space.genotype import Genotype
from autopeft.tasks.language import speak
from autopeft.tasks.spec import GenerationSpec, Kind

_MOST_NAMED = 3


class Attached(Injection):
    """Ops of one genotype in a model of the user's own, trainable as its head is.

    Args:
        model: a model of a known family.
        genotype: what to put in.
        seed: initialises the ops.
        kernel: how attention is computed; None for as it is, where no op acts inside of it.
    """

    def __init__(
        self, model: PreTrainedModel, genotype: Genotype, seed: int, kernel: Kernel | None
    ) -> None:
        self._seed, self._fresh = seed, not_loaded(model)
        head = [module for _, module in head_modules(model, self._fresh)]
        super().__init__(model, [genotype], [seed], kernel, fresh=self._fresh)
        self._handles += begin_at_zero(model)
        for module in head:
            module.requires_grad_(requires_grad=True)

    @torch.no_grad()
    def save(
        self,
        folder: str | Path,
        tokenizer: Any = None,
        *,
        backbone: str | Path | None = None,
        generation: Mapping[str, Any] | None = None,
        chat: bool = False,
    ) -> None:
        """Write ops and head, as they are now, into a folder that `autopeft.load` reads.

        The backbone is loaded once more for that, in fp32 on the CPU, and has to be that of the
        model: what could not be loaded again is refused. An adapter that is there is written over.
        Of models in few bits those are saved that bitsandbytes keeps in nf4 without double
        quantization.

        Args:
            folder: where to; made if it is not there.
            tokenizer: to go with it; None for that of the backbone.
            backbone: Hub name, with `@revision` if wanted, or folder of the pretrained weights;
                where the model says that it comes from if None.
            generation: the `generation` section of a study file, where the model writes texts.
            chat: what it answers are messages, as the tokenizer's chat template writes them.

        Raises:
            ConfigError: no adapter says what the outputs of this model are, as those of a model
                that fills masks, or how its weights are kept in few bits; `generation` is not
                valid; or there is no chat template.
            DataError: the backbone cannot be loaded or is another one, numbers are not finite, or
                the folder cannot be written.
        """
        outputs = _outputs_of(self.model, generation, chat=chat)
        _check_loadable(self.model, outputs)
        base = self._base(backbone, outputs)
        if chat and not (tokenizer or base.tokenizer).chat_template:
            raise ConfigError("chat=True, and the tokenizer has no chat template")
        genotype, tensors = self.stored(0)
        name, _, _ = base.name.partition("@")
        description = Description(
            backbone=name if base.revision else base.name,
            revision=base.revision,
            backbone_sha256=base.fingerprint,
            genotype=genotype,
            seed=self._seed,
            outputs=outputs,
            max_length=_longest_read(base, genotype, outputs),
            scheme=base.scheme,
            configuration=Configuration.of(base),
        )
        tensors |= head_tensors(self.model, self._fresh)
        place = Path(folder)
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=place) as beside:
                write_native(Path(beside), description, tensors)
                put_on(base, Path(beside), *read_description(Path(beside)))
                for file in (TENSORS, CONFIG):
                    (Path(beside) / file).replace(place / file)
            if tokenizer is not None:
                tokenizer.save_pretrained(place)
        except OSError as error:
            raise DataError(f"{folder} cannot be written: {error.strerror or error}") from error

    def _base(self, backbone: str | Path | None, outputs: Outputs) -> Backbone:
        """The backbone as `autopeft.load` will have it, if it is that of the model."""
        source = str(backbone or self.model.name_or_path)
        if not source:
            raise DataError("the model does not say where its backbone comes from: backbone=...")
        source = str(Path(source).resolve()) if Path(source).is_dir() else source
        scheme = scheme_of(self.model)
        base = load_backbone(source, outputs.n_outputs, writes=outputs.loaded_as, scheme=scheme)
        if outputs.generation is not None:
            speak(base.tokenizer, outputs.generation)
        if type(base.model) is not type(self.model):
            raise ConfigError(
                f"the model is a {type(self.model).__name__}, and `autopeft.load` would make a "
                f"{type(base.model).__name__} of {source}"
            )
        if scheme is not None:
            check_bits(self.model, base.model)
        if other := list(_differences(self.model, base)):
            more = f" and {len(other) - _MOST_NAMED} more" if other[_MOST_NAMED:] else ""
            raise DataError(
                f"the backbone of the model is not {source}, of which it would be loaded again: "
                f"{', '.join(other[:_MOST_NAMED])}{more}; give the one that it is as backbone=..."
            )
        return base


def _longest_read(base: Backbone, genotype: Genotype, outputs: Outputs) -> int:
    """Tokens of the longest row that is read, which in a decoder leaves room for an answer."""
    leave_room(base.tokenizer, base, genotype)
    longest: int = base.tokenizer.model_max_length
    if outputs.kind != "causal" or outputs.generation is None:
        return longest
    return max(1, longest - max(outputs.generation.max_target_length, outputs.generation.n_new))


def _differences(model: PreTrainedModel, base: Backbone) -> Iterator[str]:
    """What in a model is not as in its backbone, in the precision that the model has."""
    prefix = backbone_prefix(base.model)
    for name, its in base.model.named_parameters():
        if name.startswith(prefix) and name not in base.fresh:
            own = model.get_parameter(name).detach().cpu()
            if not torch.equal(own, its.to(own.dtype)):
                yield name
    yield from _others(model.config.to_dict(), base.model.config.to_dict(), "config.")


def _others(own: Mapping[str, Any], its: Mapping[str, Any], at: str) -> Iterator[str]:
    """Keys of a configuration that make its model compute something else."""
    for key in sorted((own.keys() | its.keys()) - OF_NO_STATE):
        # Tokens are named by the tokenizer, and what is loaded drops out nothing.
        if key.endswith("_token_id") or "drop" in key or key == "quantization_config":
            continue
        one, other = own.get(key), its.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _others(one, other, f"{at}{key}.")
        elif one != other:
            yield f"{at}{key}"


def _check_loadable(model: PreTrainedModel, outputs: Outputs) -> None:
    """Refuse a model for something else than `autopeft.load` makes models for.

    Raises:
        ConfigError: it is one, with the kinds that there are.
    """
    mapping = CLASSES[outputs.loaded_as]._model_mapping  # noqa: SLF001
    if type(model) is not mapping.get(type(model.config), None):
        *some, last = (auto.__name__ for auto in CLASSES.values())
        raise ConfigError(
            f"a {type(model).__name__} cannot be saved as an adapter: what can be classifies rows, "
            "puts out one number for each, tags words or writes texts, and is of a class that "
            f"{', '.join(some)} or {last} makes"
        )


def _outputs_of(
    model: PreTrainedModel, generation: Mapping[str, Any] | None, *, chat: bool
) -> Outputs:
    """What the outputs of a model mean, as its class and its configuration say."""
    config = model.config
    if model.get_output_embeddings() is not None:
        try:
            told = GenerationSpec(**(generation or {}))
        except ValidationError as error:
            where, problem = checks.first_problem(error, "generation")
            raise ConfigError(f"{where}: {problem}") from None
        writes: Kind = "seq2seq" if config.is_encoder_decoder else "causal"
        return Outputs(writes, generation=told, chat=chat)
    if chat:
        raise ConfigError(f"chat=True, and a {type(model).__name__} writes no texts")
    labels = tuple(str(config.id2label[i]) for i in range(config.num_labels))
    if tags_words(model):
        return Outputs("token_classification", labels)
    kind = config.problem_type or ("regression" if len(labels) == 1 else None)
    if kind == "regression" and labels[1:]:
        raise ConfigError(f"no adapter of autopeft says what {kind} of {len(labels)} labels is")
    if kind == "regression":
        return Outputs("regression")
    is_multi = kind == PROBLEMS["multi_label_classification"]
    return Outputs("multi_label_classification" if is_multi else "classification", labels)
