"""The quickstart as pods get it: its files on a volume, its job file from elsewhere, nothing planned before."""

import json
import os
import subprocess
import sys
from pathlib import Path

from rundir.plan import read_plan

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"
PLACE = """
import sys
from launcher.cli import run
code = run(sys.argv[1:])
print([name for name in ("torch", "transformers", "numpy") if name in sys.modules])
sys.exit(code)
"""


def test_the_quickstart_is_placed_on_a_volume(tmp_path: Path) -> None:
    volume, mounted = tmp_path / "runs", tmp_path / "etc" / "job.yaml"
    mounted.parent.mkdir()
    mounted.write_bytes((QUICKSTART / "job.yaml").read_bytes())
    subprocess.run([sys.executable, QUICKSTART / "prepare.py", volume / "work"], check=True, capture_output=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TUNEYARD_NODES_COUNT": "2"}
    command = [sys.executable, "-c", PLACE, "place", volume / "quickstart", "--job", mounted]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]", "no torch is needed"
    plan = read_plan(volume / "quickstart").to_json()
    assert (plan["launch"]["nodes"], plan["trainer"]["execution"]["world_size"]) == (2, 4)
    assert plan["trainer"]["model"]["path"] == str(volume / "work" / "model")
    assert json.dumps(plan).count(str(mounted.parent)) == 0
