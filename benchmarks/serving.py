"""What an exported adapter costs to serve: merged, native, and eight adapters in one batch.

    python benchmarks/serving.py

On the embedded MiniLM with random adapters and random tokens, so nothing is trained and nothing
read. All ways are measured in one process with one thread, in turn, many times; what counts is the
ratio of their medians of processor time. Each way is first checked to put out the same as others.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import Measured, print_table, summary, write_result
from torch import Tensor
from transformers import PreTrainedModel

from autopeft.demo.model import embedded_model
from autopeft.export.adapter import Description, Outputs, head_tensors, mount
from autopeft.export.bank import AdapterBank
from autopeft.export.merged import merge
from autopeft.export.native import load, write_native
from autopeft.model.backbone import Backbone, load_backbone
from autopeft.space.forms import Activation, Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.taps import Tap

N_ADAPTERS, N_LAYERS = 8, 6


def genotype(nth: int) -> Genotype:
    """LoRA on q and v, and from the second on an FFN adapter that merges, each of its own size."""
    rank, width = 4 + nth, 8 * nth
    ops = [Op(Form.LOWRANK, Tap.ATTN_IN, tap, (rank,) * N_LAYERS) for tap in (Tap.Q, Tap.V)]
    if width:
        place = (Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT)
        ops.append(Op(*place, (width,) * N_LAYERS, Activation.GELU))
    return Genotype(N_LAYERS, tuple(ops), learning_rate=1e-3)


def write_adapter(folder: Path, base: Backbone, nth: int) -> dict[str, Tensor]:
    """An adapter with random weights; its tensors."""
    description = Description(
        backbone=base.name,
        revision=None,
        backbone_sha256=base.fingerprint,
        genotype=genotype(nth),
        seed=nth,
        outputs=Outputs("classification", tuple(f"class {i}" for i in range(2 + nth))),
        max_length=128,
    )
    model = load_backbone(base.name, 2 + nth)
    _, own = mount(model.model, model.fresh, description)
    generator = torch.Generator().manual_seed(nth)
    with torch.no_grad():
        for tensor in own.values():
            tensor.add_(0.02 * torch.randn(tensor.shape, generator=generator))
    folder.mkdir()
    write_native(folder, description, own)
    base.tokenizer.save_pretrained(folder)
    return {name: tensor.clone() for name, tensor in own.items()}


def batch_of(n_rows: int, n_tokens: int) -> dict[str, Tensor]:
    """Rows of random tokens, all of one length."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20000, (n_rows, n_tokens), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def in_turn(ways: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Processor seconds of each way, A B C, A B C, ...; the first round warms up.

    Of the process and not of the clock, so that other work on the machine counts little.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with torch.no_grad():
        for repeat in range(repeats + 1):
            for name, way in ways.items():
                start = time.process_time()
                way()
                if repeat:
                    seconds[name].append(time.process_time() - start)
    return seconds


def merged_model(base: Backbone, tensors: Mapping[str, Tensor], nth: int) -> PreTrainedModel:
    """An adapter as a plain model."""
    source = load_backbone(base.name, 2 + nth)
    head = head_tensors(source.model, source.fresh)
    with torch.no_grad():
        for name, own in head.items():
            own.copy_(tensors[name])
    ops = {name: tensor for name, tensor in tensors.items() if name not in head}
    return merge(source.model, genotype(nth), nth, ops).eval()


def one_adapter(
    base: Backbone, folders: Sequence[Path], written: Sequence[Mapping[str, Tensor]], args: Any
) -> Measured:
    """The plain backbone; LoRA merged and native; LoRA and FFN adapters, likewise."""
    rows = batch_of(args.rows, args.tokens)
    ways: dict[str, Callable[[], Any]] = {"plain": partial(base.model, **rows)}
    for nth, what in ((0, "lora"), (N_ADAPTERS - 1, "lora+ffn")):
        native, _ = load(folders[nth])
        merged = merged_model(base, written[nth], nth)
        with torch.no_grad():
            found, expected = merged(**rows).logits, native(**rows).logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        ways[f"merged {what}"] = partial(merged, **rows)
        ways[f"native {what}"] = partial(native, **rows)
    return in_turn(ways, args.repeats)


def many_adapters(folders: Sequence[Path], args: Any) -> Measured:
    """Rows of eight adapters in one pass, and a pass for each adapter."""
    bank = AdapterBank({str(i): folder for i, folder in enumerate(folders)})
    rows = batch_of(args.rows, args.tokens)
    whose = torch.randint(N_ADAPTERS, (args.rows,), generator=torch.Generator().manual_seed(1))
    names = [str(int(i)) for i in whose]
    own = {name: [i for i, other in enumerate(names) if other == name] for name in set(names)}
    parts = {name: {k: t[some] for k, t in rows.items()} for name, some in own.items()}

    def passes() -> dict[int, Tensor]:
        found = {}
        for name, part in parts.items():
            bank.use(name)
            found |= dict(zip(own[name], bank.model(**part).logits, strict=True))
        return found

    with torch.no_grad():
        for row, alone in passes().items():
            torch.testing.assert_close(bank.outputs(rows, names)[row], alone, rtol=1e-4, atol=1e-4)
    ways = {"mixed": lambda: bank.outputs(rows, names), "passes": passes}
    return in_turn(ways, args.repeats)


def main() -> None:
    """Measure and write the result."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=16, help="of a batch")
    options.add_argument("--tokens", type=int, default=32, help="of a row")
    options.add_argument("--repeats", type=int, default=15, help="measurements of each way")
    out = Path(__file__).parent / "results" / "serving.json"
    options.add_argument("--out", type=Path, default=out)
    options.add_argument("--note", default="", help="about the machine, kept with the result")
    args = options.parse_args()
    base = load_backbone(str(embedded_model()), 2)
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / str(i) for i in range(N_ADAPTERS)]
        written = [write_adapter(folder, base, i) for i, folder in enumerate(folders)]
        found = one_adapter(base, folders, written, args) | many_adapters(folders, args)
    told = {name: summary(values) for name, values in found.items()}
    ratios = {
        f"{a}/{b}": told[a]["median"] / told[b]["median"]
        for a, b in (*((one, "plain") for one in told if " " in one), ("passes", "mixed"))
    }
    settings = {"rows": args.rows, "tokens": args.tokens, "adapters": N_ADAPTERS}
    result = {"benchmark": "serving", "settings": settings, "note": args.note}
    write_result(args.out, {**result, "measurements": found, "summary": told, "ratios": ratios})
    print_table(["way", "ms"], [[n, f"{1000 * s['median']:.1f}"] for n, s in told.items()])
    print_table(["ratio", ""], [[n, f"{ratio:.2f}"] for n, ratio in ratios.items()])


if __name__ == "__main__":
    main()
