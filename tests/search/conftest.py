"""A PostgreSQL server for tests of storages."""

import glob
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile

import pytest


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """A PostgreSQL server of its own on loopback, run by a user who isn't root: its address, and what stops and starts it."""
    pytest.importorskip("psycopg", reason="psycopg isn't installed: pip install 'ctkeras[postgres]'")
    found = [pathlib.Path(path).parent for path in glob.glob("/usr/lib/postgresql/*/bin/pg_ctl")]
    found += [pathlib.Path(path).resolve().parent for path in [shutil.which("pg_ctl")] if path]
    if not found:
        pytest.skip("no pg_ctl: apt-get install postgresql")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ctkeras-pg-"))
    user = pwd.getpwnam("postgres") if os.getuid() == 0 else None
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def server(*words):
        command = [str(found[0] / words[0]), *words[1:]]
        subprocess.run(
            command,
            user=user and user.pw_uid,
            group=user and user.pw_gid,
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    (folder / "password").write_text("s@cret{x")
    (folder / "password").chmod(0o644)
    where = str(folder / "data")
    server("initdb", "-D", where, "-U", "me", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"

    def start():
        server("pg_ctl", "-D", where, "-w", "-l", str(folder / "log"), "-o", options, "start")

    def stop():
        server("pg_ctl", "-D", where, "-m", "immediate", "stop")

    start()
    yield f"postgresql://me:s%40cret%7Bx@127.0.0.1:{port}/postgres", stop, start
    stop()
    shutil.rmtree(folder)
