"""Runs a program for as long as standard input stays open. A script: `python guard.py PROGRAM ARGUMENTS`.

Whoever starts the program holds the other end of standard input. When that one ends, in whatever way (kill -9
too), the system closes it, and the program is stopped: nothing is left behind, on Linux and on macOS.
"""

import subprocess
import sys
import threading

PATIENCE = 3  # seconds from the request to stop until it is enforced


def main() -> int:
    """Run the program; return its exit code."""
    program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)  # noqa: S603 # our own command
    threading.Thread(target=_stop_at_end_of_input, args=[program], daemon=True).start()
    return program.wait()


def _stop_at_end_of_input(program: "subprocess.Popen[bytes]") -> None:
    sys.stdin.read()
    program.terminate()
    try:
        program.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        program.kill()


if __name__ == "__main__":
    sys.exit(main())
