"""The model card: what was exported, how good it is, and where it comes from."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from autopeft.export.adapter import Outputs
from autopeft.export.loading import loading_code
from autopeft.export.proof import Proof
from autopeft.export.winner import Winner
from autopeft.records import SELECTION
from autopeft.selection import which_rows
from autopeft.space.forms import Form
from autopeft.space.words import FROZEN, HEAD, describe
from autopeft.tasks.spec import GenerationSpec, metric_range

_Z = 1.96
"""Standard errors to either side of a 95 % interval."""
_PACKAGES = ("autopeft", "torch", "transformers", "peft", "safetensors")

_TAGS = {
    "classification": "text-classification",
    "multi_label_classification": "text-classification",
    "regression": "text-regression",
    "token_classification": "token-classification",
    "seq2seq": "text2text-generation",
    "causal": "text-generation",
}

USE = {
    "native": """\
import autopeft

model, tokenizer = autopeft.load({folder!r})""",
    "merged": """\
from transformers import AutoTokenizer, {auto}

model = {auto}.from_pretrained({folder!r})
tokenizer = AutoTokenizer.from_pretrained({folder!r})""",
    "peft": """\
from peft import PeftModel
from transformers import AutoTokenizer, {classes}

{before}base = {auto}.from_pretrained({backbone!r}, revision={revision!r}{arguments})
{writes}model = PeftModel.from_pretrained(base, {folder!r}).eval()
tokenizer = AutoTokenizer.from_pretrained({folder!r}){padding}""",
}

USE_NF4 = """\
from peft import PeftModel
from transformers import AutoTokenizer, BitsAndBytesConfig, {classes}

nf4 = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules={in_full!r}
)
{before}base = {auto}.from_pretrained(
    {backbone!r}, revision={revision!r}{arguments}, quantization_config=nf4
)
{writes}model = PeftModel.from_pretrained(base, {folder!r}).eval()
tokenizer = AutoTokenizer.from_pretrained({folder!r}){padding}"""
"""Of peft, on a backbone in few bits."""
_PADDING = """
base.config.pad_token_id = tokenizer.pad_token_id  # by which its head finds the end of a row"""
"""Of peft, where a head has to know; what is exported as a model says so itself."""
_WRITES = """\
base.generation_config = GenerationConfig(  # or it would write as its own checkpoint says
{settings}
)
"""
"""Of peft, where answers are texts; what is exported as a model says so itself."""
_ON_NF4 = (
    "It was compared in fp32; on CPUs with AVX512-BF16 bitsandbytes computes answers in bf16 "
    "unless `support_avx512bf16_for_cpu` of its layers is set to False."
)
_VERA = (
    "It needs peft 0.21 or newer: older versions say nothing, and draw VeRA's frozen matrices anew "
    "instead of reading those that are here."
)


def model_card(
    winner: Winner, target: str, name: str, command: str, proof: Proof | None, notes: Sequence[str]
) -> str:
    """README.md of an export, in Markdown with the metadata that the Hub reads.

    Args:
        winner: that was exported.
        target: format.
        name: of the folder.
        command: that exported it.
        proof: that it is equal, where its format can be loaded.
        notes: what else the user has to know.
    """
    blocks = [
        _front_matter(winner, target),
        f"# {name}",
        _what(winner),
        _use(winner, target, name),
        "## How good",
        _quality(winner),
        _proof(proof),
        *(f"Note: {note}" for note in notes),
        "## The front it was chosen from",
        _front(winner),
        "## Where it comes from",
        _origin(winner, command),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _front_matter(winner: Winner, target: str) -> str:
    kind = _TAGS[winner.outputs.kind]
    lines = ["library_name: " + {"peft": "peft", "merged": "transformers"}.get(target, "autopeft")]
    if winner.description.revision:
        lines.append(f"base_model: {winner.description.backbone}")
    tags = "".join(f"\n- {tag}" for tag in ("autopeft", kind))
    return "\n".join(["---", *lines, f"tags:{tags}", "---"])


def _what(winner: Winner) -> str:
    what = describe(winner.genotype, FROZEN if winner.outputs.writes else HEAD)
    return (
        f"{what} on `{winner.backbone.name}`, found by autopeft: trial "
        f"{winner.record.trial} of `{winner.study.folder.name}`, {winner.choice.reason}."
    )


def _use(winner: Winner, target: str, name: str) -> str:
    if target not in USE:
        return ""
    outputs, in_nf4 = winner.outputs, target == "peft" and winner.in_full is not None
    backbone, revision = winner.description.backbone, winner.description.revision or "main"
    loading = loading_code(outputs, winner.backbone.part, repr(backbone), repr(revision))
    if outputs.writes:
        loading["classes"] += ", GenerationConfig"
    code = (USE_NF4 if in_nf4 else USE[target]).format(
        folder=name,
        backbone=backbone,
        revision=revision,
        **loading,
        in_full=winner.in_full,
        writes=_settings(winner.writes),
        padding=_PADDING if winner.backbone.finds_padding else "",
    )
    lines = [f"```python\n{code}\n```"]
    if in_nf4:
        lines.append(_ON_NF4)
    if target == "peft" and any(op.form is Form.VERA for op in winner.genotype.ops):
        lines.append(_VERA)
    if outputs.kind == "regression" and (outputs.mean, outputs.std) != (0.0, 1.0):
        lines.append(f"The label is {outputs.std!r} times the output plus {outputs.mean!r}.")
    if outputs.kind == "token_classification":
        told = "Words are joined by spaces, and each is tagged by its first token"
        lines.append(f"{told}: {', '.join(outputs.labels)}.")
    elif outputs.kind == "multi_label_classification":
        told = "Labels, each there where its output is above 0 (its sigmoid above 1/2)"
        lines.append(f"{told}: {', '.join(outputs.labels)}.")
    elif outputs.labels:
        lines.append(f"Classes: {', '.join(outputs.labels)}.")
    if outputs.generation is not None:
        lines.append(_written(outputs, outputs.generation))
    return "\n\n".join(lines)


def _settings(writes: Mapping[str, Any] | None) -> str:
    """Code that lets a backbone write as was scored, if it writes."""
    if writes is None:
        return ""
    return _WRITES.format(settings="\n".join(f"    {k}={v!r}," for k, v in writes.items()))


def _written(outputs: Outputs, generation: GenerationSpec) -> str:
    """How it was asked and how it wrote when it was scored."""
    beams = "greedily" if generation.beams == 1 else f"by {generation.beams} beams"
    told = f"Texts were written {beams}, {generation.n_new} tokens at most."
    if outputs.chat:
        told += " What is asked are messages, as the tokenizer's chat template writes them."
    elif outputs.kind == "causal":
        told += f" Between what is asked and what is written stands {generation.separator!r}."
    return told


def _quality(winner: Winner) -> str:
    """Metrics with intervals, and what they are worth."""
    record = winner.record
    rows = ["| metric | value | 95 % interval |", "| --- | --- | --- |"]
    for name, metric in record.metrics.items():
        (least, largest), margin = metric_range(name), _Z * metric.stderr
        low, high = max(least, metric.value - margin), min(largest, metric.value + margin)
        rows.append(f"| {name} | {metric.value:.4f} | {low:.4f} to {high:.4f} |")
    n_rows, selection = winner.manifest.data["rows"][record.split], winner.study.selection()
    which = f"the {n_rows:,} rows of `{record.split}`, on which the search selected, so they "
    which += "flatter it"
    if record.split == SELECTION:
        which = which_rows(n_rows, f"rows of `{SELECTION}`", selection.seen if selection else 0)
    said = f"On {which}. {_read(winner)} Precision while training: {record.precision}."
    return "\n".join([*rows, "", said, *_selected(winner)])


def _read(winner: Winner) -> str:
    """How long rows were when they were trained on and scored."""
    longest = winner.description.max_length
    if winner.outputs.kind != "causal":
        return f"What is longer than {longest:,} tokens was cut there, in training and scoring."
    return f"Of what is asked, the last {longest:,} tokens were read, in training and scoring."


def _selected(winner: Winner) -> list[str]:
    """What the final selection says of the trial, if it took part in one."""
    selection = winner.study.selection()
    trial = winner.record.trial
    if selection is None or all(one.trial != trial for one in selection.contenders):
        return []
    one = selection.contender(trial)
    told = (
        f"In the final selection, on {selection.which_rows}: "
        f"{selection.metric} {one.quality:.4f} in the mean of {one.seeds} fresh seeds, 95 % "
        f"interval {one.low:.4f} to {one.high:.4f} over new seeds and new rows. {selection.verdict}"
    )
    return ["", told]


def _proof(proof: Proof | None) -> str:
    if proof is None:
        return ""
    return f"This folder was loaded again in a fresh process: {proof.told}."


def _front(winner: Winner) -> str:
    front = winner.front
    rows = [f"| trial | {front.metric} | parameters | what it is |", "| --- | --- | --- | --- |"]
    for point in front.points:
        mark = " (this)" if point.trial == winner.record.trial else ""
        rows.append(
            f"| {point.trial}{mark} | {point.quality:.4f} ± {point.stderr:.4f} | "
            f"{point.trainable_params:,} | {point.summary} |"
        )
    return "\n".join(rows)


def _origin(winner: Winner, command: str) -> str:
    record, manifest, data = winner.record, winner.manifest, winner.manifest.data
    seconds = sum(r.seconds for r in winner.records)
    rows = " + ".join(f"{count:,} {split}" for split, count in data["rows"].items())
    trained = [
        r
        for r in winner.records
        if (r.trial, r.rung, r.split) == (record.trial, record.rung, record.split)
        and r.state == "complete"
    ]
    backbone = winner.description
    revision = f" at revision {backbone.revision}" if backbone.revision else ""
    facts = {
        "backbone": f"`{backbone.backbone}`{revision}, weights sha256 {backbone.backbone_sha256}",
        "parameters": f"{record.trainable_params:,} in the ops ({100 * record.fraction:.3g} % of "
        f"the backbone), {record.head_params:,} in the head",
        "trained for": f"{record.steps:,} of {manifest.rung_steps[-1]:,} optimizer steps",
        "seeds": f"study {winner.ground.work.seed}, training {record.seed}, the one with the "
        f"median score of {len(trained)}",
        "search": f"{len({r.trial for r in winner.records})} trials, {seconds:,.0f} s of training",
        "data": f"{rows} rows, sha256 {data['sha256']}",
        "exported by": f"`{command}`",
        "searched with": _versions(manifest.versions),
        "exported with": _versions(_installed()),
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in facts.items())])


def _installed() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
