"""The trainer's log: plain lines on standard output, and a full disk costs lines only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]
SAY = (
    "import logging, sys; from trainer.runtime.process import log_to_stdout; log_to_stdout(); log_to_stdout(); "
    "log = logging.getLogger('trainer.run.loop'); log.info('step 1 100% of %s'); log.debug('unseen'); "
    "log.warning('careful'); sys.stderr.write('end')"
)


def test_lines_stand_as_they_are_and_once() -> None:
    done = subprocess.run([sys.executable, "-c", SAY], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["step 1 100% of %s", "careful"]
    assert done.stderr == "end"


def test_a_full_disk_loses_lines_and_nothing_else() -> None:
    with Path("/dev/full").open("w") as full:
        line = [sys.executable, "-c", f"{SAY}; import os; os._exit(0)"]
        done = subprocess.run(line, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=True)
    assert done.stderr == "end"


def test_blocked_packages_look_absent_until_the_block_ends() -> None:
    code = (
        "import importlib.util\n"
        "from trainer.runtime.process import block_import, imports_blocked\n"
        "import json\n"
        "with imports_blocked('wave', 'json'):\n"
        "    try:\n        import wave\n    except ImportError:\n        print('absent')\n"
        "    import json\n"
        "import wave\n"
        "print(block_import('wave', 'chunk'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["absent", "['chunk']"]
