"""torchrun, started with the garbage collector off: it has to look through all of torch otherwise, time and again.

`python -m cluster.agent.process.torchrun ...` takes torchrun's arguments, and a third less CPU
time to begin and to end.
"""

import gc
import importlib


def main() -> None:
    gc.disable()
    torchrun = importlib.import_module("torch.distributed.run")  # on a node, where torch is
    gc.freeze()
    gc.enable()
    torchrun.main()


if __name__ == "__main__":
    main()
