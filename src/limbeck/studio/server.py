"""The server of the Studio: on this machine only, for pages that it served itself."""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nicegui import app, ui

from limbeck.studio.files import ROUTE
from limbeck.studio.jobs import Jobs
from limbeck.studio.new_run_panel import Draft
from limbeck.studio.options_form import OptionsForm
from limbeck.studio.page import StudioPage
from limbeck.studio.viewers import Viewers

HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")
_PORTS_TRIED = 50
_RECONNECT_SECONDS = 30  #: a machine that is busy with runs answers late, and loses no page for it
_CLOSING_SECONDS = 1  #: that open connections have when the Studio ends

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class LocalRequests:
    """Refuses requests that name another host, or come from a page of another site.

    A page on the internet can send requests to programs on the machine of its reader; the Studio
    starts processes, so it answers its own page only.

    Args:
        inner: the application behind it.
    """

    def __init__(self, inner: Callable[[Scope, Receive, Send], Awaitable[None]]):
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] in ("http", "websocket") and not is_local(dict(scope["headers"])):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"only for pages of this machine"})
            return
        await self.inner(scope, receive, send)


def is_local(headers: dict[bytes, bytes]) -> bool:
    """Whether a request was meant for this machine and comes from the Studio's page or no page.

    Args:
        headers: header lines by lower-case name.
    """
    host = headers.get(b"host", b"").decode("latin-1")
    origin = headers.get(b"origin", b"").decode("latin-1")
    if urlsplit(f"//{host}").hostname not in _NAMES:
        return False
    return not origin or origin == f"http://{host}"


def free_port(first: int) -> int:
    """The first free port from ``first`` on.

    Raises:
        ValueError: if none of the next ones is free.
    """
    for port in range(first, min(first + _PORTS_TRIED, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise ValueError(f"no port from {first} on is free: choose another with --port")


def page_of(root: Path, jobs: Jobs, viewers: Viewers) -> Callable[[], None]:
    """The function that makes the page for each browser window.

    Args:
        root: folder of the runs.
        jobs: processes started by the Studio.
        viewers: 3D viewers.
    """

    draft = Draft(OptionsForm())

    def page() -> None:
        request = ui.context.client.request
        StudioPage(root, jobs, viewers, draft, request.query_params.get("run", ""))

    return page


def serve_studio(root: Path, port: int, show: bool, workers: int = 1) -> None:
    """Serve the Studio until Ctrl-C; runs that it started are stopped then, with a checkpoint.

    Args:
        root: folder of the runs, which is created if it does not exist.
        port: port of the page.
        show: open the page in the browser.
        workers: runs that go on at the same time.
    """
    root.mkdir(parents=True, exist_ok=True)
    jobs, viewers = Jobs(workers=workers), Viewers()
    app.add_static_files(ROUTE, str(root), follow_symlink=True)  # a run folder may be a link
    app.add_middleware(LocalRequests)
    app.on_shutdown(viewers.close)
    try:
        ui.run(
            page_of(root, jobs, viewers),
            host=HOST,
            port=port,
            title="Limbeck Studio",
            reload=False,
            show=show,
            show_welcome_message=False,
            reconnect_timeout=_RECONNECT_SECONDS,
            timeout_graceful_shutdown=_CLOSING_SECONDS,
        )
    finally:
        _end_jobs(jobs)
        # the interpreter would look through all objects for cycles when it ends, for seconds
        gc.freeze()


def _end_jobs(jobs: Jobs) -> None:
    """Stop the runs that go on, and name those that wait and are dropped."""
    for run in jobs.waiting:
        print(f"limbeck: not started: {run.command}", file=sys.stderr, flush=True)
    if saving := jobs.saving:
        runs = f"{saving} run, which writes" if saving == 1 else f"{saving} runs, which write"
        message = f"limbeck: stopping {runs} a checkpoint; Ctrl-C again ends it at once"
        print(message, file=sys.stderr, flush=True)
    jobs.close()
