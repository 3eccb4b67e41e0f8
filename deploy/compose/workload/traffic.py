"""Judges what `mtls_client.py` has printed, read from standard input.

    traffic.py --answered        0 if a call was answered
    traffic.py --rotations N     0 if every call was answered, with at least N changes of identity
"""

import argparse
import itertools
import json
import re
import sys

# Some releases of Docker's command line clear the line before each line of a log, whatever it is told.
ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answered", action="store_true", help="only ask whether there was an answer")
    parser.add_argument("--rotations", type=int, default=0, help="how many changes of identity there must have been")
    arguments = parser.parse_args()

    answers, failures = [], []
    for line in sys.stdin:
        try:
            answers.append(json.loads(ESCAPES.sub("", line)))
        except ValueError:
            failures.append(line.rstrip())
    if arguments.answered:
        if answers:
            print(answers[-1]["answer"])
        return 0 if answers else 1
    serials = [serial for serial, _ in itertools.groupby(answer["serial"] for answer in answers)]
    rotations = max(len(serials) - 1, 0)
    for failure in failures:
        print(failure, file=sys.stderr)
    print(f"{len(answers)} calls answered, {len(failures)} lines of failure, {rotations} rotations")
    return 0 if answers and not failures and rotations >= arguments.rotations else 1


if __name__ == "__main__":
    sys.exit(main())
