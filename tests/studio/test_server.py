"""The Studio answers its own page on this machine, and nobody else."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Studio

pytest.importorskip("nicegui")

from limbeck.studio.server import HOST, free_port, is_local


@pytest.mark.parametrize(
    ("host", "origin", "expected"),
    [
        ("127.0.0.1:8090", "", True),
        ("localhost:8090", "http://localhost:8090", True),
        ("127.0.0.1:8090", "http://127.0.0.1:8090", True),
        ("evil.org:8090", "", False),  # a name that its owner let point to this machine
        ("127.0.0.1:8090", "http://evil.org", False),
        ("127.0.0.1:8090", "http://127.0.0.1:9000", False),
        ("127.0.0.1:8090", "null", False),
        ("", "", False),
    ],
)
def test_foreign_requests_are_known(host: str, origin: str, expected: bool) -> None:
    headers = {b"host": host.encode()} | ({b"origin": origin.encode()} if origin else {})
    assert is_local(headers) is expected


def test_a_taken_port_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port(port) < port + 50


def status(address: str, **headers: str) -> int:
    try:
        return int(urllib.request.urlopen(urllib.request.Request(address, headers=headers)).status)
    except urllib.error.HTTPError as error:
        return error.code


def test_its_own_page_is_served_and_pages_of_other_sites_are_refused(
    studio_process: Studio,
) -> None:
    address = studio_process.address
    assert status(address) == 200
    assert status(address, Host="evil.org") == 403
    assert status(address, Origin="http://evil.org") == 403


def test_files_are_those_of_the_runs_only(studio_process: Studio) -> None:
    address, folder = studio_process
    (folder / "secret.txt").write_text("secret")
    (folder / "runs" / "page.html").write_text("hello")
    assert status(f"{address}/files/page.html") == 200
    for path in ("%2e%2e/secret.txt", "..%2fsecret.txt", "../secret.txt"):
        try:
            body = urllib.request.urlopen(f"{address}/files/{path}").read()
        except urllib.error.HTTPError as error:
            body = error.read()
        assert b"secret" not in body


def test_a_run_folder_that_is_a_link_is_served(studio_process: Studio) -> None:
    address, folder = studio_process
    (folder / "disk").mkdir()
    (folder / "disk" / "page.html").write_text("hello")
    (folder / "secret-2.txt").write_text("secret")
    (folder / "runs" / "linked").symlink_to(folder / "disk")
    assert status(f"{address}/files/linked/page.html") == 200
    assert status(f"{address}/files/linked/..%2f..%2fsecret-2.txt") == 404
