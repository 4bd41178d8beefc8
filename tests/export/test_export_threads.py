"""Models that are loaded, and banks, in several threads at once."""

import copy
import gc
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_export_bank import some_rows
from tiny import HOULSBY, LORA, MAM, genotype, lora, op, same
from winners import make_winner, write

import autopeft
from autopeft.export.bank import AdapterBank
from autopeft.space.forms import Form
from autopeft.space.taps import Tap

N_THREADS = 3
ACROSS = lora(Tap.ATTN_OUT, 2)
PARALLEL = op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, 3, scale=4.0)
DEEP = (lora(Tap.Q, 3), lora(Tap.V, 2, scale=2.0), ACROSS, PARALLEL)
GATED = tuple(
    op(o.form, o.read, o.write, o.sizes, scale="gated") for o in (lora(Tap.V, 2), PARALLEL)
)
GATED_PREFIX = same(Form.PREFIX, Tap.HEAD, 3, scale="gated")
CROSSED = (
    *DEEP,
    lora(Tap.CROSS_Q, (0, 2, 3)),
    same(Form.PREFIX, Tap.CROSS_HEAD, (0, 3, 3)),
    same(Form.BOTTLENECK, Tap.CROSS_OUT, (0, 2, 2)),
)
CASES = {
    "bert": DEEP,
    "bert gated": (*GATED, GATED_PREFIX, lora(Tap.Q, 2)),
    "bert prompt": (op(Form.PROMPT, Tap.EMBED, Tap.EMBED, (4, 0, 0)), *DEEP),
    "deberta-v2": (lora(Tap.Q, 3), lora(Tap.K, 2), PARALLEL),
    "gpt2": DEEP,
    "llama gated": (*GATED, GATED_PREFIX),
    "t5": CROSSED,
    "bart": CROSSED,
}


class InStep:
    """Lets threads meet before and behind every module, so that each pass meets all others."""

    def __init__(self, model, n_threads=N_THREADS):
        self._barrier = threading.Barrier(n_threads, timeout=10)
        for module in list(model.modules()):
            module.register_forward_pre_hook(self._meet)
            module.register_forward_hook(self._meet)

    def _meet(self, *_):
        self._barrier.wait()

    def run(self, *acts):
        with ThreadPoolExecutor(len(acts)) as pool:
            return [future.result() for future in [pool.submit(self._do, act) for act in acts]]

    def _do(self, act):
        try:
            with torch.no_grad():
                return act()
        except BaseException:
            self._barrier.abort()
            raise


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("threads")


@pytest.fixture(scope="module")
def loaded(home):
    made = {}

    def load(case):
        if case not in made:
            winner = make_winner(home, case.split()[0], *CASES[case])
            made[case] = write(home / f"loaded-{case}", winner)
        return autopeft.load(made[case])[0]

    return load


@pytest.mark.parametrize("case", CASES)
def test_passes_in_several_threads_do_not_meet(loaded, case):
    model = loaded(case)
    batches = [some_rows(2 + i, seed=i) for i in range(N_THREADS)]
    batches[-1] = some_rows(2, seed=9)  # one of the shape of another thread's
    with torch.no_grad():
        alone = [model(**batch).logits for batch in batches]
    together = InStep(model).run(*(lambda b=b: model(**b).logits for b in batches))
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)


def test_copies_of_a_model_that_ran_are_as_it_is(loaded):
    model, rows = loaded("bert gated"), some_rows(3)
    with torch.no_grad():
        expected = model(**rows).logits
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            torch.testing.assert_close(other(**rows).logits, expected)


def test_a_thread_that_breaks_off_leaves_nothing(loaded):
    model, seen = loaded("bert"), []
    layer = model.autopeft_ops.layer1

    def break_off(*_):
        seen.extend(weakref.ref(blocks) for blocks in layer.now.seen.values())
        raise KeyboardInterrupt

    hook = model.bert.encoder.layer[1].intermediate.dense.register_forward_hook(break_off)

    def run():
        with pytest.raises(KeyboardInterrupt):
            model(**some_rows(2))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    hook.remove()
    gc.collect()
    assert seen
    assert [one() for one in seen] == [None] * len(seen)
    assert not layer.now.seen


ADAPTERS = {
    "bert": {"lora": LORA.ops, "mam": MAM.ops, "houlsby": HOULSBY.ops},
    "deberta-v2": {"k": (lora(Tap.K, 2),), "q": (lora(Tap.Q, 3), PARALLEL), "head": ()},
    "t5": {"across": CROSSED, "lora": LORA.ops, "head": ()},
}


@pytest.fixture(scope="module")
def folders(home):
    def of(family):
        out = {}
        for seed, (name, ops) in enumerate(ADAPTERS[family].items()):
            folder = home / f"bank-{family}-{name}"
            if not folder.exists():
                write(folder, make_winner(home, family, *genotype(*ops).ops, seed=seed))
            out[name] = folder
        return out

    return of


@pytest.mark.parametrize("family", ADAPTERS)
def test_a_bank_routes_the_rows_of_every_thread(folders, family):
    bank = AdapterBank(folders(family))
    one, two, three = bank.names
    asked = [[one, two, three, one], [three, two, two, one], [two, three, one]]
    batches = [some_rows(len(names), seed=i) for i, names in enumerate(asked)]
    alone = [bank.outputs(rows, names) for rows, names in zip(batches, asked, strict=True)]
    acts = [
        lambda r=rows, n=names: bank.outputs(r, n)
        for rows, names in zip(batches, asked, strict=True)
    ]
    for found, expected in zip(InStep(bank.model).run(*acts), alone, strict=True):
        for row, other in zip(found, expected, strict=True):
            torch.testing.assert_close(row, other)


@torch.no_grad()
def test_a_pass_of_a_bank_ends_with_the_adapter_it_began_with(folders):
    bank, rows = AdapterBank(folders("bert")), some_rows(3)
    first, second, _ = bank.names
    bank.use(second)
    other = bank.model(**rows).logits
    bank.use(first)
    expected = bank.model(**rows).logits
    layer = bank.model.bert.encoder.layer[1]

    def switch(*_):
        thread = threading.Thread(target=bank.use, args=(second,))
        thread.start()
        thread.join()

    handle = layer.register_forward_hook(switch)
    torch.testing.assert_close(bank.model(**rows).logits, expected)
    handle.remove()
    torch.testing.assert_close(bank.model(**rows).logits, other)


@torch.no_grad()
def test_a_pass_that_fails_says_nothing_of_the_next_one(folders):
    bank, rows = AdapterBank(folders("bert")), some_rows(3)
    expected = bank.model(**rows).logits
    with pytest.raises(IndexError):
        bank.outputs(rows | {"input_ids": rows["input_ids"] + 1000}, [bank.names[1]] * 3)
    torch.testing.assert_close(bank.model(**rows).logits, expected)
