"""What the checks share: the program, a workspace (the current directory) and texts."""
import json
import pathlib
import subprocess
import sys

BINARY = sys.argv[1]
SOURCE = pathlib.Path(sys.argv[2])
GOLDEN = SOURCE / "tests" / "interop" / "golden"


def conclave(*words, ranks=1, code=0):
    """Runs the program; returns what it wrote to stdout, as bytes."""
    launcher = [] if ranks == 1 else [str(SOURCE / "launch" / "mpirun.sh"), str(ranks)]
    done = subprocess.run([*launcher, BINARY, *map(str, words)], capture_output=True, timeout=1800)
    if done.returncode != code:
        sys.stderr.write(done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace"))
        raise SystemExit(f"exit code {done.returncode}, expected {code}: conclave {' '.join(map(str, words))}")
    return done.stdout


def check(condition, what):
    if not condition:
        raise SystemExit(f"FAILED: {what}")
    print(f"passed: {what}")


def records(run, kind):
    lines = (pathlib.Path(run) / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["type"] == kind]


def own_text():
    """English and code: this repository's documents and some of its sources."""
    files = sorted(SOURCE.glob("docs/*.md")) + sorted(SOURCE.glob("layers/*/*.cc"))
    return b"\n".join(file.read_bytes() for file in files)
