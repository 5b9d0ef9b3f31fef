"""Nothing that tokenises or exports outlives a command that was killed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from cluster.process_identity import stat_fields
from launcher.trainer_process import PARENT as SAID
from trainer.runtime.process import PARENT

CHILD = """import time
from trainer.runtime.process import end_with_whoever_waits
end_with_whoever_waits()
print("up", flush=True)
time.sleep(600)
"""
STARTER = f"""
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], env={{**os.environ, {PARENT!r}: str(os.getpid())}},
                         stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


def test_a_killed_command_takes_its_trainer_along() -> None:
    assert SAID == PARENT
    root = Path(__file__).parents[4]
    starter = subprocess.Popen([sys.executable, "-c", STARTER], cwd=root, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    child = int(starter.stdout.readline())
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    deadline = time.monotonic() + 10
    while (fields := stat_fields(child)) and fields[0] not in "ZX" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not fields or fields[0] in "ZX"
