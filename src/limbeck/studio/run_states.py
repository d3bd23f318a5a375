"""The state of a run: by its files, by the process that the Studio has started, or in line."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import dropwhile, takewhile
from pathlib import Path

from limbeck.runs.find_runs import FoundRun
from limbeck.runs.folder_state import OUTPUT_FILE
from limbeck.runs.reopen import stage_folders
from limbeck.studio.jobs import Jobs
from limbeck.studio.run_output import RunOutput, is_failure
from limbeck.system.folder_lock import LOCK_FILE

_ADDED = ("--out", "--image-every")  #: options with a value that the Studio adds to a command


def run_state(folder: Path, jobs: Jobs) -> str:
    """``waiting``, ``starting``, ``running``, ``finished``, ``stopped`` or ``failed``.

    Args:
        folder: run folder, or the parent of the stages of a preset.
        jobs: processes started by the Studio.
    """
    if jobs.place(folder):
        return "waiting"
    stages, job = [FoundRun(stage) for stage in stage_folders(folder)], jobs.find("run", folder)
    run = stages[-1]
    has_started = (run.folder / "run.yaml").is_file()
    if job is not None and job.is_running:
        return "running" if has_started else "starting"
    if job is not None and job.has_failed:
        return "failed"
    state = run.state if has_started else "stopped"
    if state == "finished" and any(stage.state == "failed" for stage in stages):
        return "failed"
    if state in ("finished", "failed") or (state == "running" and job is None):
        return state
    return "failed" if job is None and _has_failed_before(folder, run) else "stopped"


def _has_failed_before(folder: Path, run: FoundRun) -> bool:
    """Whether an earlier Studio has seen a run fail that has not gone on since then."""
    output = RunOutput(folder / OUTPUT_FILE)
    code = output.exit_code
    if code is None or not is_failure(code):
        return False
    has_started = (run.folder / "run.yaml").is_file()
    return not has_started or output.path.stat().st_mtime >= run.changed_at


def is_unstarted(folder: Path) -> bool:
    """Whether a folder holds nothing but the output of a run that ended before it wrote more."""
    if not (folder / OUTPUT_FILE).is_file():
        return False
    return {path.name for path in folder.iterdir()} <= {OUTPUT_FILE, LOCK_FILE}


def remove_unstarted(folder: Path) -> None:
    """Remove the folder of a run that ended before it wrote more than its output."""
    if is_unstarted(folder):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def unstarted_runs(root: Path) -> list[Path]:
    """Folders below the root of runs that ended before they wrote more, the newest first."""
    found = [path for path in root.glob(f"*/{OUTPUT_FILE}") if is_unstarted(path.parent)]
    newest = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent for path in newest]


def setting_of(words: Sequence[str]) -> str:
    """The options of a command of the Studio, without those that the Studio adds.

    Args:
        words: what stands behind ``limbeck run``.
    """
    options = iter(takewhile(lambda word: word != "--", words))
    kept = []
    for word in dropwhile(lambda word: not word.startswith("--"), options):
        if word in _ADDED:
            next(options, None)
        else:
            kept.append(word)
    return " ".join(kept)


def title_of(words: Sequence[str]) -> str:
    """The prompts of a command of the Studio, quoted; nothing is read or imported for it.

    Args:
        words: what stands behind ``limbeck run``.
    """
    if "--" in words:
        prompts = list(words)[list(words).index("--") + 1 :]
    else:
        prompts = list(takewhile(lambda word: not word.startswith("-"), words))
    more = f" and {len(prompts) - 3} more" if len(prompts) > 3 else ""
    return ", ".join(f"“{prompt}”" for prompt in prompts[:3]) + more
