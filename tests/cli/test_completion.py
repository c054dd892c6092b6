"""iovactl completion bash: what bash offers, with a server and without."""

import os
import re

from iovactl import Iovactl, ROOT


def candidates(ctl, line):
    """What bash completes `line` to, sorted."""
    script = f"""
source <(iovactl completion bash)
COMP_LINE={line!r}
COMP_POINT=${{#COMP_LINE}}
# As bash splits words: '=' and ':' are words of their own.
mapfile -t COMP_WORDS < <(python3 - "$COMP_LINE" <<'EOF'
import re, sys
line = sys.argv[1]
words = re.findall(r"[=:]|[^\\s=:]+", line)
if line[-1:].isspace():
    words.append("")
print("\\n".join(words))
EOF
)
COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
_iovactl
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    run = ctl.shell(script)
    assert run.returncode == 0, run.stderr
    return sorted(word for word in run.stdout.split("\n") if word)


def test_the_script_registers_itself(ctl):
    run = ctl.shell("source <(iovactl completion bash); complete -p iovactl")
    assert run.stdout == "complete -F _iovactl iovactl\n"


def test_commands(ctl):
    assert candidates(ctl, "iovactl sp") == ["space"]
    assert candidates(ctl, "iovactl space ") == ["create", "get", "label", "ls", "rm", "transfer"]
    assert "__complete" not in candidates(ctl, "iovactl ")


def test_every_command_and_flag_of_the_help_is_offered(ctl):
    """Whatever --help shows can be completed."""
    todo = [[]]
    while todo:
        path = todo.pop()
        text = ctl(*path, "--help").out
        offered = candidates(ctl, " ".join(["iovactl", *path, "--"]))
        flags = re.findall(r"^  (?:-\w,)?(--[\w-]+)", text, re.MULTILINE)
        assert "--help" in flags
        assert set(flags) <= set(offered), path
        if "Subcommands:" in text:
            block = text.split("Subcommands:\n")[1].split("\n\n")[0]
            names = [line.split()[0] for line in block.splitlines()]
            assert names
            assert sorted(names) == candidates(ctl, " ".join(["iovactl", *path, ""]))
            todo += [[*path, name] for name in names]


def test_names_come_from_the_server(ctl, space, device):
    assert space in candidates(ctl, "iovactl map ")
    assert candidates(ctl, f"iovactl space get {space}") == [space]
    assert device in candidates(ctl, "iovactl device close ")
    assert device in candidates(ctl, f"iovactl replay x --device {device[:3]}")
    assert candidates(ctl, f"iovactl device attach {device} {space}") == [space]


def test_the_servers_address_is_taken_from_the_line(server, space):
    elsewhere = Iovactl("/nonexistent/iovad.sock")
    assert candidates(elsewhere, f"iovactl --socket {server.socket_path} ls {space}") == [space]
    assert candidates(elsewhere, f"iovactl --socket={server.socket_path} ls {space}") == [space]


def test_words_of_options(ctl):
    assert candidates(ctl, "iovactl map vm --access ") == ["ro", "rw", "wo"]
    assert candidates(ctl, "iovactl map vm --access=w") == ["wo"]
    assert candidates(ctl, "iovactl --output j") == ["json"]
    assert candidates(ctl, "iovactl space create x --placement=") == ["congruent", "first-fit",
                                                                      "identity"]
    assert candidates(ctl, "iovactl space create x --lifetime ") == ["owner-process", "permanent"]
    assert candidates(ctl, "iovactl completion ") == ["bash"]


def test_files(ctl):
    run = ctl.shell("iovactl __complete -- replay tests/")
    assert run.stdout == ":files\n"
    assert os.path.isdir(os.path.join(ROOT, "tests"))


def test_without_a_server_there_are_no_names_and_no_noise():
    nobody = Iovactl("/nonexistent/iovad.sock")
    assert candidates(nobody, "iovactl map ") == []
    assert candidates(nobody, "iovactl map x --acc") == ["--access"]
    run = nobody.shell("iovactl __complete -- map ''")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
