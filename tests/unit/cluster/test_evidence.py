"""What last words prove: lines as PyTorch, NCCL, Gloo and the driver write them, and lines that only look so."""

from pathlib import Path

import pytest

from cluster.agent.verdict.log_evidence import (
    Evidence,
    classify,
    in_logs,
    killed_for_memory,
    last_words,
    without_aftermath,
)

FRAMES = """Traceback (most recent call last):
  File "/code/trainer/loop.py", line 88, in step
    loss.backward()
    ^^^^^^^^^^^^^^^
"""
OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB. GPU 0 has a total capacity of 79.11 GiB of"
    " which 1.22 GiB is free. Including non-PyTorch memory, this process has 77.87 GiB memory in use."
)
WATCHDOG = "[rank0]:[E1121 12:00:00.123456789 ProcessGroupNCCL.cpp:1895] [PG ID 0 PG GUID 0(default_pg) Rank 0] "
HOST_OOM = (
    "RuntimeError: [enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory:"
    " you tried to allocate 68719476736 bytes. Error code 12 (Cannot allocate memory)"
)
BUS_ERROR = (
    "RuntimeError: DataLoader worker (pid 4242) is killed by signal: Bus error. It is possible that dataloader's"
    " workers are out of shared memory. Please try to raise your shared memory limit."
)
PORT = (
    "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address."
    " port: 29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use"
)
NCCL = (
    "torch.distributed.DistBackendError: NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77,"
    " remote process exited or there was a network error, NCCL version 2.27.5"
)
TIMEOUT = (
    WATCHDOG + "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=17, OpType=ALLREDUCE,"
    " NumelIn=1048576, NumelOut=1048576, Timeout(ms)=600000) ran for 600043 milliseconds before timing out."
)
GLOO = (
    "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"
    " [127.0.0.1]:35012"
)
XID = "[ 1234.567890] NVRM: Xid (PCI:0000:3b:00): {code}, pid=4242, name=python, some more words"

EXCEPTIONS = [
    ("out_of_memory", OOM),
    ("out_of_memory", "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB"),
    ("out_of_memory", "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ("out_of_memory", "torch.AcceleratorError: CUDA error: out of memory"),
    ("host_memory", HOST_OOM),
    ("host_memory", "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.45 GiB for an array"),
    ("host_memory", "MemoryError"),
    ("gpu_hardware", "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered"),
    ("gpu_hardware", "RuntimeError: CUDA error: uncorrectable NVLink error was detected during the execution"),
    ("storage", "OSError: [Errno 28] No space left on device: '/runs/a/checkpoints/.staging-8/rank-00000.safetensors'"),
    ("storage", "OSError: [Errno 122] Disk quota exceeded"),
    ("storage", "OSError: [Errno 5] Input/output error"),
    (
        "storage",
        "safetensors_rust.SafetensorError: Error while serializing: I/O error: No space left on device (os error 28)",
    ),
    ("shared_memory", BUS_ERROR),
    ("port_in_use", PORT),
    ("port_in_use", "OSError: [Errno 98] Address already in use"),
    ("connection", NCCL),
    ("connection", GLOO),
    ("connection", "torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 1/2 joined."),
]
PREFIXED = [
    ("gpu_hardware", XID.format(code=79)),
    ("gpu_hardware", XID.format(code=48).removeprefix("[ 1234.567890] ")),
    ("gpu_hardware", "NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus."),
    ("gpu_hardware", "Unable to determine the device handle for GPU0000:3B:00.0: Unknown Error"),
    (
        "gpu_hardware",
        WATCHDOG + "Process group watchdog thread terminated with exception: CUDA error: uncorrectable ECC error",
    ),
    ("out_of_memory", "  what():  CUDA error: out of memory"),
    ("connection", TIMEOUT),
    ("connection", "node-7:4242:4300 [0] misc/socket.cc:484 NCCL WARN socketPollConnect: Connect to 10.0.0.2 failed"),
]


def evidence(log: Path, text: str, **remedies: str) -> list[Evidence]:
    log.write_text(text)
    return in_logs([log], "node-7", remedies)


@pytest.mark.parametrize(("kind", "line"), EXCEPTIONS, ids=lambda value: value[:30])
@pytest.mark.parametrize("prefix", ["", "[rank3]: "], ids=["plain", "rank"])
def test_an_exception_is_recognised(tmp_path: Path, kind: str, line: str, prefix: str) -> None:
    text = "".join(f"{prefix}{words}\n" for words in [*FRAMES.splitlines(), line])
    (found,) = evidence(tmp_path / "log", f"step 12\n{text}\n[rank3]:[W1121 12:00:00.1 x.cpp:1] leaving\n")
    assert (found.kind, found.node, found.line) == (kind, "node-7", line[:300])


@pytest.mark.parametrize(("kind", "line"), PREFIXED, ids=lambda value: value[:30])
def test_a_line_of_the_driver_or_of_nccl_is_recognised(tmp_path: Path, kind: str, line: str) -> None:
    (found,) = evidence(tmp_path / "log", f"step 12\n{line}\nstep 13\n")
    assert found.kind == kind


INNOCENT = [
    "CUDA out of memory",
    OOM,  # no traceback: a generation that repeats what it was trained on
    '{"messages": [{"role": "user", "content": "Traceback (most recent call last): CUDA out of memory"}]}',
    "answer: OSError: [Errno 28] No space left on device",
    "answer: NVRM: Xid (PCI:0000:3b:00): 79, fell off the bus",
    FRAMES + "ValueError: rows.jsonl:7: 'torch.OutOfMemoryError: CUDA out of memory' is not JSON",
    FRAMES + f"KeyError: 'answer'\n{OOM}",  # only the exception's own line counts
    FRAMES + "torch.AcceleratorError: CUDA error: device-side assert triggered",
    XID.format(code=31),  # a page fault of the program's own
    XID.format(code=13),
    WATCHDOG.replace(":[E", ":[W") + "destroy_process_group() was not called before program exit",
]


@pytest.mark.parametrize("text", INNOCENT, ids=lambda text: text[-40:])
def test_what_only_looks_like_evidence_is_none(tmp_path: Path, text: str) -> None:
    assert evidence(tmp_path / "log", text + "\n") == []


def test_only_the_last_traceback_counts(tmp_path: Path) -> None:
    earlier = FRAMES + "OSError: [Errno 28] No space left on device\nthe save failed; training goes on\n"
    assert [found.kind for found in evidence(tmp_path / "log", earlier + FRAMES + "KeyError: 'x'\n")] == []
    assert last_words(FRAMES) == []


def test_who_is_to_blame_and_what_follows() -> None:
    known = {line: classify(line) for _, line in [*EXCEPTIONS, *PREFIXED]}
    blames = {rule.kind: (rule.outcome.value, rule.blames) for rule in known.values() if rule}
    assert blames == {
        "out_of_memory": ("fatal", "job"),
        "host_memory": ("fatal", "job"),
        "gpu_hardware": ("node_failure", "node"),
        "storage": ("crashed", "storage"),
        "shared_memory": ("crashed", "job"),
        "port_in_use": ("crashed", "job"),
        "connection": ("crashed", "suspect"),
    }


def test_the_planned_remedy_is_given(tmp_path: Path) -> None:
    (own,) = evidence(tmp_path / "log", f"{FRAMES}{OOM}\n")
    assert "max_length" in own.remedy
    (planned,) = evidence(tmp_path / "log", f"{FRAMES}{OOM}\n", out_of_memory="set resources.micro_batch to 2")
    assert planned.remedy == "set resources.micro_batch to 2"


def test_what_explains_the_others_comes_first_and_broken_connections_are_aftermath(tmp_path: Path) -> None:
    (tmp_path / "rank-00000.log").write_text(f"{FRAMES}{GLOO}\n")
    (tmp_path / "rank-00001.log").write_text(f"{FRAMES}{OOM}\n")
    logs = sorted(tmp_path.glob("rank-*.log"))
    found = in_logs([*logs, tmp_path / "absent.log"], "n", {})
    assert [item.kind for item in found] == ["out_of_memory", "connection"]
    assert [item.kind for item in without_aftermath(found, killed=False)] == ["out_of_memory"]
    alone = found[1:]
    assert without_aftermath(alone, killed=False) == alone
    assert without_aftermath(alone, killed=True) == []
    assert killed_for_memory("n", 2).line == "the kernel killed 2 processes of this job's memory cgroup"
