"""The `iovactl` program as a user meets it."""

import json
import os
import pty
import shutil
import subprocess

from daemon import BIN_DIR, scaled

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
IOVACTL = os.path.join(BIN_DIR, "iovactl") if BIN_DIR else shutil.which("iovactl")

# Exit codes.
DONE, REFUSED, USAGE = 0, 1, 2


def environment(socket=None, **more):
    """What programs run in: iovactl and iovad on the PATH, nothing of the caller's that
    changes how they behave."""
    env = {key: value for key, value in os.environ.items()
           if key not in ("IOVAD_SOCKET", "NO_COLOR", "TERM")}
    env["PATH"] = os.path.dirname(IOVACTL) + os.pathsep + env.get("PATH", "")
    env["LC_ALL"] = "C.UTF-8"
    if socket is not None:
        env["IOVAD_SOCKET"] = socket
    env.update(more)
    return env


def read_terminal(master):
    """What is shown until the other side is closed."""
    shown = b""
    while True:
        try:
            data = os.read(master, 4096)
        except OSError:  # Linux: it was closed
            return shown.decode()
        if not data:
            return shown.decode()
        shown += data


def on_a_terminal(ctl, *arguments, **env):
    """Runs iovactl with both outputs on a terminal and returns what it shows."""
    master, slave = pty.openpty()
    settings = environment(ctl.socket, **{"TERM": "xterm", **env})
    with subprocess.Popen([IOVACTL, *map(str, arguments)], stdout=slave, stderr=slave,
                          env=settings, cwd=ROOT) as process:
        os.close(slave)
        shown = read_terminal(master)
        process.wait(scaled(30))
    os.close(master)
    return shown


class Result:
    """How a run ended."""

    def __init__(self, arguments, run):
        self.arguments = arguments
        self.code, self.out, self.err = run.returncode, run.stdout, run.stderr

    @property
    def json(self):
        """Standard output as JSON."""
        return json.loads(self.out)

    @property
    def error(self):
        """The error object on standard error: with --output json it is all there is."""
        document = json.loads(self.err)
        assert list(document) == ["error"], document
        return document["error"]

    def rows(self):
        """The table on standard output, as dicts by title. Cells must hold no two
        blanks in a row, and only the last columns may be empty."""
        lines = self.out.splitlines()
        start = next(i for i, line in enumerate(lines) if line.split()[0].isupper())
        return table_rows(lines[start:])

    def __repr__(self):
        return (f"iovactl {' '.join(self.arguments)} -> {self.code}\n--- out\n{self.out}"
                f"--- err\n{self.err}---")


def table_rows(lines):
    """Rows of an aligned table as dicts, by where the titles stand."""
    title_line = lines[0]
    columns = []
    position = 0
    for title in [part for part in title_line.split("  ") if part.strip()]:
        title = title.strip()
        begin = title_line.index(title, position)
        position = begin + len(title)
        columns.append((title, begin, position))
    rows = []
    for line in lines[1:]:
        if not line.strip() or line.startswith(("…", "(")):
            break
        # A cell is the text without double blanks that meets the title's columns.
        cells = []
        at = 0
        for part in line.split("  "):
            if part.strip():
                begin = line.index(part, at) + len(part) - len(part.lstrip())
                cells.append((part.strip(), begin, begin + len(part.strip())))
            at += len(part) + 2
        row = {}
        for title, begin, end in columns:
            row[title] = next((text for text, left, right in cells
                               if left < end and right > begin), "")
        rows.append(row)
    return rows


class Iovactl:
    """Runs iovactl against one server."""

    def __init__(self, socket):
        self.socket = socket

    def __call__(self, *arguments, code=DONE, stdin=None, **env):
        """Runs it and checks the exit code."""
        arguments = [str(argument) for argument in arguments]
        run = subprocess.run([IOVACTL, *arguments], capture_output=True, text=True, input=stdin,
                             env=environment(self.socket, **env), cwd=ROOT, timeout=scaled(60),
                             check=False)
        result = Result(arguments, run)
        assert result.code == code, result
        if code == DONE:
            assert result.err == "", result
        return result

    def json(self, *arguments, code=DONE):
        """Runs it with --output json and returns what it answered."""
        return self(*arguments, "--output", "json", code=code).json

    def refused(self, *arguments):
        """Runs it with --output json, expects a refusal, and returns the error object."""
        result = self(*arguments, "--output", "json", code=REFUSED)
        assert result.out == "", result
        return result.error

    def reason(self, *arguments):
        """Why it is refused."""
        return self.refused(*arguments)["reason"]

    def shell(self, script):
        """Runs a bash script with this server in its environment."""
        return subprocess.run(["bash", "-c", script], capture_output=True, text=True,
                              env=environment(self.socket), cwd=ROOT, timeout=scaled(60),
                              check=False)

    def start(self, *arguments, **options):
        """Starts it and returns the Popen."""
        return subprocess.Popen([IOVACTL, *arguments], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True,
                                env=environment(self.socket), cwd=ROOT, **options)
