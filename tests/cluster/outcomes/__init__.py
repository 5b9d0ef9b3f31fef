"""One suite of outcomes for every backend: what may happen to a run, and what the record then says.

A backend joins with a `Place` (place.py), which says how things are done where its runs live, and a test class:

    class TestOutcomesHere(Outcomes):
        @pytest.fixture
        def place(self) -> Place: ...

The runs are the stand-in trainer's (tests/process/cluster/standin): real agents, real torchrun, no torch in the ranks.
"""

import pytest

pytest.register_assert_rewrite("tests.cluster.outcomes.suite", "tests.cluster.outcomes.standin_run")
