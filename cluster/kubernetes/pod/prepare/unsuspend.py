"""`python -m cluster.kubernetes.pod.prepare.unsuspend KIND NAMESPACE NAME [QUEUE]`: lets a run's Job or JobSet begin.

The last container of the pod that tokenises, and the only one with a token of the API server. Where the run waits in a
queue of Kueue, the Job is given to the queue, which lets it begin; else its suspension ends. Standard library only: the
image need not have the official client.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PATHS = {
    "job": "apis/batch/v1/namespaces/{}/jobs/{}",
    "jobset": "apis/jobset.x-k8s.io/v1alpha2/namespaces/{}/jobsets/{}",
}
_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_ANSWER_SECONDS = 30.0
_TRY_SECONDS = 600.0
"""For so long an API server may be away; then the pod fails, and another one tries again."""
_REFUSED_SECONDS = 20.0
"""A right that was granted a moment ago may not be known to every API server yet."""
_PAUSE_SECONDS = 3.0


def main(arguments: list[str]) -> int:
    """The container's exit code: 0 the run may begin; 2 the API server has refused that; 1 it was away for too long."""
    kind, namespace, name, *queue = arguments
    change = {"metadata": {"labels": {_QUEUE_LABEL: queue[0]}}} if queue else {"spec": {"suspend": False}}
    request = urllib.request.Request(
        f"{_server()}/{_PATHS[kind].format(namespace, name)}",
        data=json.dumps(change).encode(),
        method="PATCH",
        headers={"Content-Type": "application/merge-patch+json"},
    )
    began = time.monotonic()
    while trouble := _refusal(request):
        if time.monotonic() - began > (_REFUSED_SECONDS if trouble.startswith("refused") else _TRY_SECONDS):
            break
        print(f"unsuspend: {trouble}; trying again", file=sys.stderr, flush=True)
        time.sleep(_PAUSE_SECONDS)
    print(f"unsuspend: {kind} {name}: {trouble or 'may begin'}", file=sys.stderr, flush=True)
    return (2 if trouble.startswith("refused") else 1) if trouble else 0


def _refusal(request: urllib.request.Request) -> str:
    """Why the API server did not take the change; "" when it did. The token is read anew, as it is renewed on disk."""
    request.add_header("Authorization", f"Bearer {(ACCOUNT / 'token').read_text(encoding='ascii').strip()}")
    trusted = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS, context=trusted):
            return ""
    except urllib.error.HTTPError as error:
        kind = "refused" if error.code in (400, 403, 404, 422) else "not answered"
        return f"{kind}: status {error.code}: {_message(error.read())}"
    except OSError as error:
        return f"not answered: {error}"


def _message(body: bytes) -> str:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    return str(found.get("message", "")) if isinstance(found, dict) else body[:300].decode(errors="replace")


def _server() -> str:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
