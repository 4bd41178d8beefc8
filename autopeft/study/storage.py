"""Where the ledger of a study lies: a SQLite file in its folder, or a PostgreSQL server."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from autopeft.errors import DataError

_NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ncpfs", "ceph", "fuse.ceph", "glusterfs"),
    *("fuse.glusterfs", "lustre", "beegfs", "gpfs", "fuse.sshfs", "davfs", "fuse.davfs2"),
    *("fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.mountpoint-s3", "webdav", "afpfs"),
}
_SERVER = re.compile(r"postgres(ql)?://")
_SECRETS = {
    *("password", "sslpassword", "oauth_client_secret"),
    *("scram_client_key", "scram_server_key"),
}
"""Parameters of libpq that hold one."""


def check_url(url: str) -> str:
    """A URL of a PostgreSQL server that holds no secret.

    Whatever holds a password will be copied: command lines are seen by all users of a machine, and
    study files go along with a study. The client library takes it from where it is safe.

    Raises:
        ValueError: it is none; the message does not repeat it.
    """
    from sqlalchemy import make_url  # noqa: PLC0415 - most studies have no server
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

    if not _SERVER.match(url):
        raise ValueError("has to be like postgresql://user@host/database")
    try:
        urlsplit(url)
        # As it is read where it is used: `/`, `?` and `#` may stand in a password there.
        parts = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError("is not a URL") from None
    if parts.password is not None or _SECRETS & parts.query.keys():
        raise ValueError(
            "holds a password, which does not belong on a command line or in a study file; leave "
            "it out of the URL and set PGPASSWORD, or write it to ~/.pgpass"
        )
    return url


def check_client() -> None:
    """Refuse a server where nothing can speak to it.

    Raises:
        DataError: the client library is not installed, or lacks what it is built upon.
    """
    try:
        import psycopg as _  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise DataError(
            f"storage needs psycopg ({str(error).splitlines()[0]}): "
            "pip install 'autopeft[postgresql]'"
        ) from error


def check_local(folder: Path) -> None:
    """Refuse a SQLite database on a network file system, whose locks and shared memory fail it.

    Raises:
        DataError: the folder is on one.
    """
    kind = file_system(folder)
    if kind in _NETWORK:
        raise DataError(
            f"{folder} is on a network file system ({kind}), where SQLite loses data; use a folder "
            "on a local disk, or --storage postgresql://user@host/database"
        )


def file_system(path: Path) -> str:
    """The kind of file system of a path, or of where it would be made."""
    absolute = path.resolve()
    mounts = {Path(m.mountpoint): m.fstype for m in psutil.disk_partitions(all=True)}
    found = next((parent for parent in (absolute, *absolute.parents) if parent in mounts), None)
    return mounts[found] if found is not None else ""
