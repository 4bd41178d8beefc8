"""What a study survives: another fingerprint, a full disk, a network below it, secrets in URLs."""

import contextlib
import errno
import json
import os
import shutil
import sqlite3
from types import SimpleNamespace

import pytest
from sqlalchemy.exc import OperationalError, ProgrammingError
from study_factory import ledger_states, results, tree, weights

from autopeft.errors import ConfigError, DataError, DiskFullError
from autopeft.space import yaml
from autopeft.study import ledger as ledger_module
from autopeft.study import prepared, search, storage
from autopeft.study.folder import Study
from autopeft.study.ledger import Ledger
from autopeft.study.manifest import read_manifest
from autopeft.study.search import run_search
from autopeft.study.spec import StudySpec

FIELDS = (
    *("space", "model", "revision", "data", "rows", "split", "task", "metric", "objectives"),
    *("max_params", "max_trained", "max_memory", "training", "methods", "sampler", "seed"),
    *("rungs", "reduction", "tunes_lora", "warm_start", "configuration_and_tokens"),
)


@pytest.fixture
def study(done, tmp_path):
    """A copy of a finished study whose database has a write-ahead log."""
    copy = Study(shutil.copytree(done.folder, tmp_path / "study"))
    copy.database.with_name("study.db-wal").write_bytes(b"not yet in the database")
    return copy


def test_fingerprint_is_of_these_fields(done):
    assert set(read_manifest(done.manifest_file).fingerprint) == set(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_other_fingerprint_is_refused_before_the_database_is_opened(
    study, spec_of, monkeypatch, field
):
    manifest = json.loads(study.manifest_file.read_text(encoding="utf-8"))
    manifest["fingerprint"][field] = "another"
    study.manifest_file.write_text(json.dumps(manifest), encoding="utf-8")
    before = tree(study.folder)
    monkeypatch.setattr(prepared, "Ledger", None)
    name = "selection.seeds above 0" if field == "tunes_lora" else field
    with pytest.raises(ConfigError, match=rf'\n  {name}: was "another", is now '):
        run_search(spec_of(trials=9), study.folder)
    assert tree(study.folder) == before


def test_control_opens_the_database(done, spec_of, tmp_path, monkeypatch):
    copy = shutil.copytree(done.folder, tmp_path / "study")
    monkeypatch.setattr(prepared, "Ledger", None)
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        run_search(spec_of(trials=9), copy)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("cohort", "many", "cohort is not valid"),
        ("settings", {"epochs": 1, "clip": []}, r"settings\.clip is not valid"),
        ("fingerprint", 3, "fingerprint is not valid"),
        ("version", 99, "version 99"),
    ],
)
def test_manifest_of_a_stranger_is_refused(study, spec_of, key, value, told):
    manifest = json.loads(study.manifest_file.read_text(encoding="utf-8"))
    study.manifest_file.write_text(json.dumps(manifest | {key: value}), encoding="utf-8")
    with pytest.raises(DataError, match=told):
        run_search(spec_of(trials=9), study.folder)


@pytest.mark.parametrize("at", [1, 2, 5, 9, 14, 20])
def test_full_disk_pauses_the_study(done, spec_of, tmp_path, monkeypatch, at):
    count, fsync = [0], os.fsync

    def full(descriptor):
        count[0] += 1
        if count[0] >= at:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    folder = tmp_path / "study"
    with monkeypatch.context() as context:
        context.setattr(os, "fsync", full)
        with pytest.raises(DiskFullError, match="No space left on device") as refusal:
            run_search(spec_of(), folder)
    paused = "The study is paused, and what was measured is safe; make room, then: autopeft resume"
    assert (paused in str(refusal.value)) == (folder / "manifest.json").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    study = run_search(spec_of(), folder)
    assert results(study) == results(done)
    assert weights(study) == weights(done)
    assert ledger_states(study) == ["COMPLETE"] * 5
    assert study.front() == done.front()


def test_full_database_pauses_the_study(done, spec_of, tmp_path, monkeypatch):
    with contextlib.closing(sqlite3.connect(done.database)) as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
    durable = ledger_module._durable

    def small(connection, more):
        durable(connection, more)
        connection.execute(f"PRAGMA max_page_count={pages - 1}")

    folder = tmp_path / "study"
    with monkeypatch.context() as context:
        context.setattr(ledger_module, "_durable", small)
        told = r"study\.db cannot be written: database or disk is full\. The study is paused"
        with pytest.raises(DiskFullError, match=told):
            run_search(spec_of(), folder)
    study = run_search(spec_of(), folder)
    assert results(study) == results(done)
    assert ledger_states(study) == ["COMPLETE"] * 5


def test_full_disk_below_the_database_is_told_apart(tmp_path):
    for told, kind in (("database or disk is full", DiskFullError), ("locked", DataError)):
        error = OperationalError("INSERT", {}, sqlite3.OperationalError(told))
        refusal = ledger_module._refusal(tmp_path / "study.db", error)
        assert type(refusal) is kind
        assert str(refusal).endswith(f"study.db cannot be written: {told}")


def test_network_file_system_is_refused(spec_of, tmp_path, monkeypatch):
    mounts = [SimpleNamespace(mountpoint="/", fstype="ext4")]
    mounts.append(SimpleNamespace(mountpoint=str(tmp_path / "share"), fstype="nfs4"))
    monkeypatch.setattr(storage.psutil, "disk_partitions", lambda **_: mounts)
    monkeypatch.setattr(search, "make_engine", None)
    told = r"study is on a network file system \(nfs4\), where SQLite loses data"
    with pytest.raises(DataError, match=told):
        run_search(spec_of(), tmp_path / "share" / "deep" / "study")
    assert storage.file_system(tmp_path / "here") == "ext4"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@host/db",
        "postgres://me:s3cret@host/db",
        "postgresql://me:s3/cret@host/db",
        "postgresql://me:s3?cret@host/db",
        "postgresql://me:s3#cret@host/db",
        "postgresql://host/db?user=me&password=s3cret",
        "postgresql://me@host/db?sslkey=key.pem&sslpassword=s3cret",
        "mysql://me:s3cret@host/db",
        "sqlite:///s3cret.db",
        "s3cret",
        "postgresql://[s3cret",
    ],
)
def test_secret_in_a_url_is_refused_and_not_repeated(spec_of, url):
    values = spec_of().model_dump(mode="json", exclude_none=True) | {"storage": url}
    with pytest.raises(ConfigError, match="storage") as refusal:
        yaml.validate(StudySpec, yaml.Document("study.yaml", values, {}))
    assert "cret" not in str(refusal.value).replace("secret", "")


def test_url_without_a_secret_is_accepted(spec_of):
    url = "postgresql://me@host:5432/db?sslmode=require"
    values = spec_of().model_dump(mode="json", exclude_none=True) | {"storage": url}
    assert yaml.validate(StudySpec, yaml.Document("study.yaml", values, {})).storage == url


def test_server_that_is_not_there_is_told():
    told = (
        r"the PostgreSQL server 127\.0\.0\.1, port 1, cannot be used: .*refused.* See that it runs"
    )
    with pytest.raises(DataError, match=told):
        Ledger("postgresql://me@127.0.0.1:1/db", "autopeft-x")


class Held:
    """A lock on a server that is not there."""

    def __init__(self, url, name):
        pass

    def hold(self):
        pass

    alone = staticmethod(contextlib.nullcontext)

    def close(self):
        pass


@pytest.mark.parametrize(
    ("error", "n_tries"),
    [
        (OperationalError("SELECT", {}, sqlite3.OperationalError("the server shuts down")), 3),
        (ProgrammingError("CREATE", {}, sqlite3.ProgrammingError("permission denied")), 1),
    ],
)
def test_server_that_restarts_while_a_study_is_opened_is_waited_for(
    tmp_path, monkeypatch, error, n_tries
):
    tries, storage_of = [], ledger_module._storage

    def opened(where):
        tries.append(where)
        if len(tries) < 3:
            raise error
        return storage_of(tmp_path / "study.db")

    monkeypatch.setattr(ledger_module, "Holder", Held)
    monkeypatch.setattr(ledger_module, "_storage", opened)
    monkeypatch.setattr(ledger_module, "RETRY_SECONDS", (0, 0, 0))
    refused = pytest.raises(DataError, match="permission denied") if n_tries == 1 else None
    with refused or contextlib.nullcontext():
        Ledger("postgresql://me@host/db", "autopeft-x").close()
    assert len(tries) == n_tries


def test_server_that_does_not_come_back_is_told_apart(monkeypatch):
    gone = OperationalError("SELECT", {}, sqlite3.OperationalError("connection refused\nand more"))

    def away(_):
        raise gone

    monkeypatch.setattr(ledger_module, "Holder", Held)
    monkeypatch.setattr(ledger_module, "_storage", away)
    monkeypatch.setattr(ledger_module, "RETRY_SECONDS", (0.01, 0.02))
    told = (
        r"^the PostgreSQL server host, port 5432, cannot be used, also after 0\.03 s of tries: "
        r"connection refused\. See that it runs.*`autopeft resume`.*folder$"
    )
    with pytest.raises(DataError, match=told):
        Ledger("postgresql://me@host/db", "autopeft-x")


def test_driver_whose_study_was_taken_stops_at_its_next_step(spec_of, tmp_path, monkeypatch):
    kept = []

    def keep(self):
        kept.append(self)
        if len(kept) == 2:
            raise DataError("another search has taken it")

    monkeypatch.setattr(Ledger, "keep", keep)
    with pytest.raises(DataError, match="another search has taken it"):
        run_search(spec_of(), tmp_path / "study")
    assert len(kept) == 2
    assert Study(tmp_path / "study").records() == []


def test_lock_of_a_server_is_looked_after_without_waiting_for_it(monkeypatch, tmp_path):
    looks, clock = [], [100.0]

    class Away(Held):
        def hold(self):
            looks.append(clock[0])
            if len(looks) > 1:
                raise OperationalError("SELECT", {}, sqlite3.OperationalError("gone"))

    storage_of = ledger_module._storage
    monkeypatch.setattr(ledger_module, "Holder", Away)
    monkeypatch.setattr(ledger_module, "_storage", lambda _: storage_of(tmp_path / "study.db"))
    monkeypatch.setattr(ledger_module.time, "monotonic", lambda: clock[0])
    one = Ledger("postgresql://me@host/db", "autopeft-x")
    for clock[0] in (104.0, 105.0, 109.0, 110.0):
        one.keep()
    one.close()
    assert looks == [100.0, 105.0, 110.0]
