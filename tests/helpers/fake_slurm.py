"""Commands of Slurm for one machine without it: a job is a process, and states are files."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "srun", "squeue", "sacct", "scancel", "sinfo")
SCRIPT = r"""#!{python}
import os, signal, subprocess, sys
from pathlib import Path

root = Path({root!r})
name, args = Path(sys.argv[0]).name, sys.argv[1:]


def state(job):
    return (root / f"{{job}}.state").read_text()


def put(job, text):
    part = root / f"{{job}}.{{os.getpid()}}"
    part.write_text(text)
    part.replace(root / f"{{job}}.state")


def jobs():
    return sorted(path.stem for path in root.glob("*.state"))


if name == "sbatch" and args[0] == "--execute":
    job = os.environ["SLURM_JOB_ID"]
    put(job, "RUNNING")
    code = subprocess.call(["bash", args[1]], stdout=subprocess.DEVNULL)
    if state(job) == "RUNNING":
        put(job, "COMPLETED" if code == 0 else "FAILED")
elif name == "sbatch":
    if (root / "refuses").exists():
        sys.exit("sbatch: error: invalid partition specified")
    job = str(len(jobs()) + 1)
    text = Path(args[0]).read_text()
    (root / f"{{job}}.sh").write_text(text)
    put(job, "PENDING")
    if not (root / "hold").exists():
        env = dict(os.environ, SLURM_JOB_ID=job)
        out = subprocess.DEVNULL
        command = [sys.executable, sys.argv[0], "--execute", str(root / f"{{job}}.sh")]
        subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)
    print("Submitted batch job", job)
elif name == "srun":
    job, words = os.environ["SLURM_JOB_ID"], list(args)
    while words[0].startswith("--"):
        word = words.pop(0)
        if word in ("--output", "--error"):
            path = words.pop(0).replace("%j", job).replace("%t", "0")
            file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(file, 1 if word == "--output" else 2)
    (root / f"{{job}}.pid").write_text(str(os.getpid()))
    os.environ["SLURM_PROCID"] = "0"
    os.execvp(words[0], words)
elif name == "scancel":
    for job in args:
        if state(job) == "RUNNING":
            os.kill(int((root / f"{{job}}.pid").read_text()), signal.SIGTERM)
        elif state(job) == "PENDING":
            put(job, "CANCELLED by 0")
elif name == "sacct":
    print("JobID|State|NodeList")
    for job in jobs():
        print(f"{{job}}|{{state(job)}}|here")
elif name == "sinfo":
    print("(null)")
elif name == "squeue":
    for job in jobs():
        if state(job) in ("PENDING", "RUNNING"):
            lines = (root / f"{{job}}.sh").read_text().splitlines()
            (comment,) = [l.partition("=")[2] for l in lines if "SBATCH --comment" in l]
            print(job, comment)
"""


class FakeSlurm:
    """The commands in a folder, which goes to the front of PATH.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path):
        self.bin, self.jobs = folder / "bin", folder / "jobs"
        self.bin.mkdir(parents=True)
        self.jobs.mkdir()
        text = SCRIPT.format(python=sys.executable, root=str(self.jobs))
        for name in COMMANDS:
            path = self.bin / name
            path.write_text(text, encoding="utf-8")
            path.chmod(0o755)
        self.path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"

    def submission(self, job: int) -> str:
        """The text of a job."""
        return (self.jobs / f"{job}.sh").read_text(encoding="utf-8")

    def job_of(self, name: str) -> int:
        """Number of the job of a run."""
        texts = {int(path.stem): path.read_text("utf-8") for path in self.jobs.glob("*.sh")}
        (found,) = [job for job, text in texts.items() if f"--job-name={name}\n" in text]
        return found

    def job_is(self, job: str, name: str) -> bool:
        """Whether a job is of a run."""
        return f"--job-name={name}\n" in self.submission(int(job))

    def kill(self, job: int, state: str) -> None:
        """Kill a job, which then has this state."""
        (self.jobs / f"{job}.state").write_text(state, encoding="utf-8")
        self.send(job, signal.SIGKILL)

    def send(self, job: int, number: int) -> None:
        """Send a signal to the process of a job."""
        os.kill(int((self.jobs / f"{job}.pid").read_text(encoding="utf-8")), number)

    def wait(self) -> None:
        """Wait until no job is in progress."""
        end = time.monotonic() + 120
        while time.monotonic() < end and any(
            path.read_text(encoding="utf-8") == "RUNNING" for path in self.jobs.glob("*.state")
        ):
            time.sleep(0.1)
