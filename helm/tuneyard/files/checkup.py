"""What `helm test` runs, in a pod of its own: RUN_DIR HEAD PORT SECONDS. Exit code 1 if something is bad."""

import json
import socket
import sys
import time
from pathlib import Path


def claim(runs: Path) -> str:
    probe = runs / f".tuneyard-test-{socket.gethostname()}"
    probe.write_bytes(b"x" * 4096)
    whole = probe.read_bytes() == b"x" * 4096
    probe.unlink()
    if not whole:
        raise OSError("what was written cannot be read back")
    return f"{runs} can be written and read"


def library() -> str:
    import torch

    return f"torch {torch.__version__}, built for {'CUDA ' + torch.version.cuda if torch.version.cuda else 'CPU'}"


def head(run_dir: Path, host: str, port: int, seconds: float) -> str:
    """Pod 0 has a name and an address. A refused connection has reached it: the port is open while ranks gather."""
    if finished(run_dir):
        return "the run is finished: there is no pod 0 to reach"
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return f"{host} answers at port {port}"
        except ConnectionRefusedError:
            return f"{host} can be reached; nobody listens at port {port} now"
        except socket.gaierror as error:
            remedy = f"{host} has no address: is pod 0 pending? ({error})"
        except OSError as error:
            remedy = f"{host} cannot be reached at port {port}: is a NetworkPolicy in the way? ({error})"
        if time.monotonic() > deadline:
            raise OSError(remedy)
        time.sleep(1)


def finished(run_dir: Path) -> bool:
    try:
        return json.loads((run_dir / "progress.json").read_bytes()).get("state") == "finished"
    except (OSError, ValueError):
        return False


def main(run_dir: str, host: str, port: str, seconds: str) -> int:
    checks = {
        "claim": lambda: claim(Path(run_dir).parent),
        "torch": library,
        "pod 0": lambda: head(Path(run_dir), host, int(port), float(seconds)),
    }
    bad = 0
    for name, check in checks.items():
        try:
            print(f"ok    {name}: {check()}")
        except (OSError, ImportError) as error:
            print(f"BAD   {name}: {error}")
            bad = 1
    return bad


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
