"""Gives every test here pods."""

import pytest
from agent_runs import Run
from pod_runs import Pods


@pytest.fixture
def pods(run: Run) -> Pods:
    return Pods(run)
