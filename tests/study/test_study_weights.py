"""Weights of a study's folder that somebody else has written: refused, whatever they hold."""

import io
import json
import pickle
import shutil
from dataclasses import replace
from hashlib import sha256

import pytest
import torch
from safetensors.torch import load, save
from study_factory import tree

from autopeft.errors import DataError
from autopeft.record_files import write_record
from autopeft.study.folder import Study
from autopeft.study.search import run_search
from autopeft.study.unseen import open_test
from autopeft.training.tensors import read_kinds, tensors_of


@pytest.fixture(scope="module")
def good(done):
    """The bytes of the weights of a trial with ops."""
    recommended = done.front().recommended
    return (done.folder / f"weights/{recommended:06d}-0-0.safetensors").read_bytes()


def with_header(change, data):
    """The same tensors below another header, written by hand."""
    length = int.from_bytes(data[:8], "little")
    header = change(data[8 : 8 + length].decode())
    raw = header.encode()
    return len(raw).to_bytes(8, "little") + raw + data[8 + length :]


def twice(header):
    """A key that stands there twice."""
    (name, item), *_ = json.loads(header).items()
    return header.rstrip().removesuffix("}") + f",{json.dumps(name)}:{json.dumps(item)}}}"


def pickled():
    file = io.BytesIO()
    torch.save({"x": torch.zeros(1)}, file)
    return file.getvalue()


TENSOR = {
    "missing": lambda all_, name: {k: v for k, v in all_.items() if k != name},
    "renamed": lambda all_, name: {f"../{k}" if k == name else k: v for k, v in all_.items()},
    "absolute": lambda all_, name: {f"/etc/{k}" if k == name else k: v for k, v in all_.items()},
    "longer": lambda all_, name: all_ | {name: torch.cat([all_[name], all_[name]])},
    "flat": lambda all_, name: all_ | {name: all_[name].flatten()[None, None]},
    "float64": lambda all_, name: all_ | {name: all_[name].double()},
    "float16": lambda all_, name: all_ | {name: all_[name].half()},
    "int64": lambda all_, name: all_ | {name: all_[name].long()},
    "nan": lambda all_, name: all_ | {name: all_[name].clone().fill_(float("nan"))},
    "inf": lambda all_, name: all_ | {name: all_[name].clone().fill_(float("inf"))},
}
FILE = {
    "extra": lambda data: save(load(data) | {"more": torch.zeros(2)}),
    "empty file": lambda _: b"",
    "no tensors": lambda _: save({}),
    "short": lambda data: data[:-1],
    "half": lambda data: data[: len(data) // 2],
    "header alone": lambda data: data[:8],
    "pickle": lambda _: pickle.dumps({"x": 1}),
    "torch file": lambda _: pickled(),
    "zeros": lambda _: b"\0" * 99,
    "long header": lambda data: (2**62).to_bytes(8, "little") + data[8:],
    "twice": lambda data: with_header(twice, data),
    "list": lambda data: with_header(lambda h: f"[{h}]", data),
    "not json": lambda data: with_header(lambda h: h.replace(":", ";", 1), data),
    "longer than said": lambda data: data + b"\0" * 8,
}


CASES = [*((way, index) for way in TENSOR for index in (0, 1, -1)), *((way, None) for way in FILE)]


@pytest.mark.parametrize(("way", "index"), CASES)
def test_tampered_weights_are_refused(good, tmp_path, way, index):
    tensors = load(good)
    path = tmp_path / "weights.safetensors"
    if index is None:
        path.write_bytes(FILE[way](good))
    else:
        path.write_bytes(save(TENSOR[way](tensors, sorted(tensors)[index])))
    before = tree(tmp_path)
    with pytest.raises(DataError, match=r"weights\.safetensors"):
        tensors_of(*read_kinds(path, None), tensors, path)
    assert tree(tmp_path) == before


def test_control_is_read(good, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(good)
    expected = load(good)
    found = tensors_of(*read_kinds(path, None), expected, path)
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in found)


@pytest.mark.parametrize("honest", [False, True])
def test_other_weights_than_those_of_the_record_are_refused(done, good, tmp_path, honest):
    """Also where the record has been changed along with them."""
    study = Study(shutil.copytree(done.folder, tmp_path / "study"))
    recommended = study.front().recommended
    path = study.folder / f"weights/{recommended:06d}-0-0.safetensors"
    tensors = load(good)
    name = min(tensors)
    path.write_bytes(save(tensors | {name: tensors[name] * float("nan")}))
    if honest:
        record = next(r for r in study.records() if r.trial == recommended)
        (study.folder / f"records/{recommended:06d}-0-0.json").unlink()
        changed = sha256(path.read_bytes()).hexdigest()
        write_record(study.folder, replace(record, weights_sha256=changed))
    told = "has values that are not finite" if honest else "sha256 is"
    with pytest.raises(DataError, match=told):
        open_test(study)
    assert not study.test_file.exists()


def test_record_does_not_say_what_is_deleted(done, spec_of, tmp_path):
    study = Study(shutil.copytree(done.folder, tmp_path / "study"))
    kept = {path.stem for path in (study.folder / "weights").iterdir()}
    record = next(r for r in study.records() if f"{r.trial:06d}-0-0" not in kept)
    (study.folder / "notes.txt").write_text("mine", encoding="utf-8")
    (study.folder / f"records/{record.trial:06d}-0-0.json").unlink()
    write_record(study.folder, replace(record, weights="notes.txt"))
    run_search(spec_of(), study.folder)
    assert (study.folder / "notes.txt").is_file()
