"""How a command ended that was run in a pod, as the official client tells it."""

import pytest
from kubernetes.stream.ws_client import WSClient

from cluster.kubernetes.client.api import _exit_code

GONE = '{"status": "Failure", "details": {"causes": [{"message": "no running task found"}]}}'
FAILED = '{"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}}'


class Stream(WSClient):
    """The client's own end of a connection, closed, with the last words of the other end."""

    def __init__(self, words: str) -> None:
        self._returncode, self._words = None, words

    def is_open(self) -> bool:
        return False

    def read_channel(self, *_: object, **__: object) -> str:
        return self._words


@pytest.mark.parametrize(("words", "code"), [('{"status": "Success"}', 0), (FAILED, 3), (GONE, -1), ("", -1)])
def test_a_command_cut_off_with_its_container_has_no_exit_code(words: str, code: int) -> None:
    assert _exit_code(Stream(words)) == code
