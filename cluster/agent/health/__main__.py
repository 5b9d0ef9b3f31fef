"""`python -m cluster.agent.health RUN_DIR`: the health gate's answers as a table; exit code 1 when it is closed."""

import sys

from cluster.agent.health.checks import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
