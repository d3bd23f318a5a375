"""Processes that compute the parts of a leaderboard, each with the model loaded once."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch

from limbeck.diffusion.prior import Prior
from limbeck.priors.loading import load


def _start_worker() -> None:
    """One thread, and an end as soon as the leaderboard has ended, however it was killed."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes of one thread each; what is not begun is dropped at an error."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker)
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()  # a cell takes minutes, and an unfinished one has no file
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


@cache
def load_prior(precision: str) -> Prior:
    """The embedded model, loaded once per process."""
    return load("world", "cpu", precision)  # type: ignore[arg-type]
