"""The node agent against real processes: real signals, real torchrun, ranks that do and do not behave."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from agent_runs import NEVER, Run, lives, until

EVERYTHING = ["prepare", "train", "export", "evaluate"]


def test_a_run_from_first_word_to_finished(run: Run) -> None:
    run.plan(EVERYTHING)
    (run.dir / "stop").touch()  # a stale one, from an earlier life
    assert run.carry() == 0
    record = run.record()
    assert (record["attempt"], record["outcome"], record["cause"]) == (0, "finished", "")
    assert (record["first_step"], record["last_step"], record["last_checkpoint_step"]) == (0, 3, 3)
    assert list(record["seconds"]) == EVERYTHING
    assert record["exit_codes"] == dict.fromkeys(EVERYTHING, 0)
    assert record["ended"] > record["started"]
    assert [run.log(f"rank-0000{rank}.log").strip() for rank in (0, 1)] == ["train speaks", "train speaks"]
    assert run.log("prepare.log").strip() == "prepare speaks"
    assert "train: exit code 0" in run.log("agent.log")
    assert (run.dir / "failure.json").read_bytes() == b"", "nothing failed; a rank of another node would have found it"


def test_what_fails_after_training_is_noted_and_takes_nothing_back(run: Run) -> None:
    run.plan(EVERYTHING, ranks=1, evaluation_exit=9, export_exit=1)
    assert run.carry() == 0, "no other attempt would do better, nor need all machines"
    record = run.record()
    assert (record["outcome"], record["decision"]["action"]) == ("finished", "stop")
    assert record["cause"].startswith("trained and saved, but export: exit code 1")
    assert list(record["exit_codes"]) == ["prepare", "train", "export"]
    noted = json.loads((run.dir / "finishing.json").read_text())
    assert {part: entry["ok"] for part, entry in noted.items()} == dict.fromkeys(
        ("held_out", "export", "evaluate"), False
    )
    assert "exit code 1" in noted["export"]["message"] and "export went wrong" in noted["export"]["message"]
    assert noted["evaluate"]["message"] == "not tried, as export failed"


def test_the_record_tells_where_the_time_went(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEYARD_SUBMITTED", str(time.time() - 100))
    run.plan(["prepare", "train"], ranks=1, steps=20)
    assert run.carry() == 0
    record = run.record()
    spent = record["phase_seconds"]
    assert 100 <= spent["queue"] < 130
    assert sum(spent.values()) == pytest.approx(spent["queue"] + record["ended"] - record["started"], abs=0.01)
    assert 0.4 <= spent["training"] < record["seconds"]["train"]
    assert spent["launch"] > 0.1
    assert spent["prepare"] == record["seconds"]["prepare"]
    assert (record["lost_steps"], record["lost_seconds"]) == (0, 0.0)
    assert [check["name"] for check in record["health"] if not check["ok"]] == []


def test_a_prestop_hook_has_the_run_saved_and_waits_for_it(run: Run) -> None:
    run.plan(["train"], steps=10**6)
    agent = run.start()
    run.rank_pids()
    hook = subprocess.run([sys.executable, "-m", "cluster.agent.prestop", str(run.dir)], timeout=60, check=False)
    assert hook.returncode == 0
    assert agent.wait(5) == 75
    assert (run.record()["outcome"], run.record()["cause"]) == ("preempted", "preStop")
    again = subprocess.run([sys.executable, "-m", "cluster.agent.prestop", str(run.dir)], timeout=10, check=False)
    assert again.returncode == 0


def test_ranks_get_the_environment_that_the_plan_asks_for(run: Run) -> None:
    run.plan(["train"])
    assert run.carry() == 0
    seen = json.loads((run.dir / "rank1.env").read_text())
    assert seen["OMP_NUM_THREADS"] == "1"
    assert seen["TUNEYARD_ATTEMPT"] == "0"
    assert seen["TUNEYARD_MTBF_SECONDS"] == str(6 * 3600)
    assert float(seen["TUNEYARD_PHASE_STARTED"]) < float(seen["TUNEYARD_RANK_STARTED"]) < run.record()["ended"]
    assert seen["WORLD_SIZE"] == "2"
    assert seen["DS_ACCELERATOR"] == "cpu"
    assert seen["CUDA_VISIBLE_DEVICES"] == ""
    assert seen["TORCHELASTIC_RUN_ID"] == "support-1a2b-000"


def test_sigterm_becomes_a_stop_file_and_the_next_attempt_goes_on(run: Run) -> None:
    run.plan(["train"], steps=10**6)
    agent = run.start()
    run.rank_pids()
    agent.send_signal(signal.SIGTERM)
    until(lambda: (run.dir / "stop").exists(), "the stop file")  # of two that wait, the kernel delivers USR1 first
    agent.send_signal(signal.SIGUSR1)  # a second signal changes nothing
    assert agent.wait(30) == 75
    first = run.record()
    assert (first["outcome"], first["cause"]) == ("preempted", "SIGTERM")
    assert first["last_checkpoint_step"] == first["last_step"]
    run.plan(["train"], steps=first["last_step"] + 2)
    assert run.carry() == 0
    second = run.record()
    assert (second["attempt"], second["outcome"]) == (1, "finished")
    assert second["first_step"] == first["last_step"]


def test_ranks_that_do_not_leave_are_killed_with_their_orphans(run: Run) -> None:
    run.plan(["train"], grace_seconds=1, steps=10**6, deaf=True, leave_orphan=True)
    agent = run.start()
    pids = [*run.rank_pids(), run.pid_in("orphan0.pid"), run.pid_in("orphan1.pid")]
    asked = time.monotonic()
    agent.send_signal(signal.SIGUSR1)
    assert agent.wait(30) == 75
    assert 1 <= time.monotonic() - asked < 1 + 5 + 24, "grace, SIGTERM to SIGKILL, and slack for a busy machine"
    assert not [pid for pid in pids if lives(pid)]
    record = run.record()
    assert record["outcome"] == "walltime"
    assert record["cause"] == "SIGUSR1; training did not leave in time and was killed unsaved"


def test_a_killed_rank_is_a_crash_that_names_the_rank(run: Run) -> None:
    run.plan(["train", "export"], grace_seconds=1, steps=10**6).launch(restart=NEVER)
    agent = run.start()
    os.kill(run.rank_pids()[1], signal.SIGKILL)
    assert agent.wait(30) == 3
    record = run.record()
    assert (record["outcome"], record["cause"]) == ("crashed", "train: rank 1 killed by SIGKILL")
    assert "export" not in record["exit_codes"]


def test_nothing_survives_an_agent_that_is_killed_and_the_next_one_closes_its_record(run: Run) -> None:
    run.plan(["train"], steps=10**6)
    agent = run.start()
    pids = run.rank_pids()
    until(lambda: (run.dir / "progress.json").exists(), "progress")
    agent.kill()
    until(lambda: not [pid for pid in pids if lives(pid)], "the ranks to die", seconds=5)
    agent.wait()
    assert run.record()["outcome"] is None
    run.plan(["prepare"])
    assert run.carry() == 0
    closed, last = run.record(0), run.record(1)
    assert (closed["outcome"], closed["cause"]) == ("crashed", "the agent was killed")
    assert closed["last_step"] is not None
    assert (last["attempt"], last["outcome"]) == (1, "finished")


def test_what_the_trainer_calls_fatal_is_fatal_though_torchrun_loses_the_code(run: Run) -> None:
    run.plan(["train"], ranks=1, fatal_at=2)
    assert run.carry() == 2
    record = run.record()
    assert (record["outcome"], record["cause"]) == ("fatal", "out of memory")
    assert record["exit_codes"]["train"] == 1


def test_what_one_rank_calls_fatal_is_not_taken_back_by_another_that_is_still_there(run: Run) -> None:
    """The first rank goes on writing, and leaves politely when torchrun signals it: nobody wished for that."""
    run.plan(["train"], ranks=2, fatal_at=1, fatal_ranks=[1], steps=10**6, polite=True)
    assert run.carry() == 2
    assert json.loads((run.dir / "progress.json").read_text())["state"] == "stopped"
    assert (run.record()["outcome"], run.record()["cause"]) == ("fatal", "out of memory")


def test_wrong_data_in_prepare_is_fatal_and_nothing_else_is_started(run: Run) -> None:
    run.plan(EVERYTHING, prepare_exit=2)
    assert run.carry() == 2
    record = run.record()
    assert (record["outcome"], record["cause"]) == ("fatal", "prepare: exit code 2; prepare went wrong")
    assert record["exit_codes"] == {"prepare": 2}


def test_a_failed_export_is_a_crash_that_names_the_phase(run: Run) -> None:
    run.plan(["export"], export_exit=1).launch(restart=NEVER)
    assert run.carry() == 3
    assert run.record()["cause"] == "export: exit code 1; export went wrong"


@pytest.mark.parametrize(
    ("number", "outcome"),
    [(signal.SIGTERM, "preempted"), (signal.SIGUSR1, "walltime"), (signal.SIGINT, "stopped")],
)
def test_preparing_is_ended_at_once(run: Run, number: signal.Signals, outcome: str) -> None:
    run.plan(EVERYTHING, prepare_seconds=600)
    agent = run.start()
    prepare = run.pid_in("prepare.pid")
    agent.send_signal(number)
    assert agent.wait(5) == 75
    assert not lives(prepare)
    assert (run.record()["outcome"], run.record()["cause"]) == (outcome, f"{number.name} during prepare")


def test_a_stop_file_ends_preparing_too(run: Run) -> None:
    run.plan(EVERYTHING, prepare_seconds=600)
    agent = run.start()
    run.pid_in("prepare.pid")
    (run.dir / "stop").touch()
    assert agent.wait(5) == 75
    assert run.record()["outcome"] == "stopped"


def test_two_agents_on_one_run_are_impossible(run: Run) -> None:
    run.plan(["prepare"], prepare_seconds=600)
    run.start()
    run.pid_in("prepare.pid")
    assert run.start().wait(30) == 1
    assert "support-1a2b is already running (process " in (run.dir / "spoken").read_text()
    assert run.record()["attempt"] == 0


@pytest.mark.parametrize("plan", ["", "{}", '{"launch": {"nodes": 1}}'])
def test_a_broken_plan_is_fatal_and_says_what_is_wrong(run: Run, plan: str) -> None:
    run.dir.mkdir()
    (run.dir / "plan.json").write_text(plan)
    assert run.carry() == 2
    assert run.record()["outcome"] == "fatal"
    assert "plan.json" in run.record()["cause"]
    assert "Traceback" not in (run.dir / "spoken").read_text()
