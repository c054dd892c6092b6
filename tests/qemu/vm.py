"""A QEMU with the plugin in it, and what QEMU itself says of its guest's memory.

No guest system runs: the firmware maps and unmaps as much as one, and `EJECTOR` is a
guest of 26 bytes that lets go of a DIMM when it is asked to.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile

import pytest
from daemon import BIN_DIR, scaled, wait_until
from harness import GUEST, READ, READ_WRITE

QEMU = shutil.which("qemu-system-x86_64")
PLUGIN = os.path.join(BIN_DIR, "libiovad-qemu-plugin.so")
OVMF = "/usr/share/OVMF"
MIB = 1 << 20

# In real mode, at 0x7c00: waits for the next tick of the timer, asks the memory hot-plug
# controller (ACPI; QEMU has it at I/O port 0xa00) whether the DIMM in slot 0 is to go, and
# if so, ejects it.
EJECTOR = bytes.fromhex(
    "fb"          # sti
    "f4"          # hlt             <-+
    "ba000a"      # mov dx, 0xa00     |  the selector of slots
    "6631c0"      # xor eax, eax      |
    "66ef"        # out dx, eax       |
    "ba140a"      # mov dx, 0xa14     |  the slot's state
    "ec"          # in al, dx         |
    "a804"        # test al, 4        |  whether it is to be removed
    "74ef"        # jz              --+
    "b004"        # mov al, 4         |  seen
    "ee"          # out dx, al        |
    "b008"        # mov al, 8         |  eject
    "ee"          # out dx, al        |
    "ebe7")       # jmp             --+


class Qmp:
    """A monitor."""

    def __init__(self, connected):
        self._socket = connected
        self._socket.settimeout(scaled(60))
        self._file = self._socket.makefile("rw")
        self.events = []
        self._read()
        self("qmp_capabilities")

    def close(self):
        self._file.close()
        self._socket.close()

    def _read(self):
        line = self._file.readline()
        assert line, "QEMU closed its monitor"
        return json.loads(line)

    def __call__(self, command, **arguments):
        """A command's return value. Names have - for _."""
        arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
        self._file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._file.flush()
        while True:
            message = self._read()
            if "event" in message:
                self.events.append(message["event"])
                continue
            assert "error" not in message, f"{command}: {message}"
            return message["return"]

    def human(self, command):
        """What people are shown."""
        return self("human-monitor-command", command_line=command)

    def wait_for(self, event):
        """Until QEMU has told of it."""
        def told():
            # Events come before answers.
            self("query-status")
            return event in self.events

        wait_until(told, f"QEMU tells of {event}", 60)
        self.events.remove(event)


class Vm:
    """One QEMU process. `plugins` are dicts of arguments; socket and qmp are added."""

    def __init__(self, iovad, *arguments, machine="q35", firmware="seabios", memory=128,
                 share=True, slots=False, plugins=({"space": "vm"},), boot=None, accel="tcg"):
        self.folder = tempfile.mkdtemp(prefix="iovad-vm-")
        self._stderr = os.path.join(self.folder, "stderr")
        size = f"{memory}M" + (",slots=4,maxmem=4G" if slots else "")
        self.command = [
            QEMU, "-accel", accel, "-display", "none", "-nodefaults", "-no-user-config",
            "-m", size, "-machine", machine + (",memory-backend=ram0" if share else ""),
            "-qmp", f"unix:{self.path('test.qmp')},server=on,wait=off", *arguments]
        if share:
            self.command += ["-object",
                             f"memory-backend-memfd,id=ram0,size={memory}M,share=on"]
        if firmware == "ovmf":
            shutil.copy(os.path.join(OVMF, "OVMF_VARS_4M.fd"), self.path("vars.fd"))
            for unit, flags in enumerate((f",readonly=on,file={OVMF}/OVMF_CODE_4M.fd",
                                          f",file={self.path('vars.fd')}")):
                self.command += ["-drive", f"if=pflash,unit={unit},format=raw{flags}"]
        if boot is not None:
            with open(self.path("boot.img"), "wb") as image:
                image.write((boot.ljust(510, b"\0") + b"\x55\xaa").ljust(1 << 20, b"\0"))
            self.command += ["-drive", f"if=ide,format=raw,file={self.path('boot.img')}"]
        for number, plugin in enumerate(plugins):
            qmp = self.path(f"plugin{number}.qmp")
            # QEMU takes what has one path for one plugin.
            library = PLUGIN
            if number > 0:
                library = self.path(f"plugin{number}.so")
                os.symlink(PLUGIN, library)
            options = {"socket": iovad, "qmp": qmp, **plugin}
            self.command += ["-qmp", f"unix:{qmp},server=on,wait=off", "-plugin", ",".join(
                [library, *(f"{key}={value}" for key, value in options.items())])]
        self.process = self.qmp = None

    def path(self, name):
        return os.path.join(self.folder, name)

    def begin(self):
        """Starts it, and does not wait for anything."""
        with open(self._stderr, "w", encoding="utf-8") as stderr:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stderr=stderr)

    def start(self):
        """Starts it; its monitor answers when this returns."""
        if self.process is None:
            self.begin()

        monitor = socket.socket(socket.AF_UNIX)
        self.connect(monitor, "test.qmp")
        self.qmp = Qmp(monitor)
        return self

    def connect(self, client, name):
        """Connects a socket to one of its sockets, once that is there."""
        def connects():
            assert self.process.poll() is None, f"QEMU ended at once:\n{self.said()}"
            return client.connect_ex(self.path(name)) == 0

        wait_until(connects, "QEMU listens", 60)

    def run(self):
        """Runs it to its end; for QEMUs that refuse to start. The exit status."""
        with open(self._stderr, "w", encoding="utf-8") as stderr:
            return subprocess.run(self.command, stdin=subprocess.DEVNULL, stderr=stderr,
                                  timeout=scaled(60), check=False).returncode

    def said(self):
        """What is on its standard error."""
        with open(self._stderr, encoding="utf-8", errors="replace") as file:
            return file.read()

    def plugin_said(self):
        """The plugin's lines of that."""
        prefix = "iovad-qemu-plugin: "
        return [line[len(prefix):] for line in self.said().splitlines() if line.startswith(prefix)]

    def quit(self):
        """Ends it in order."""
        self.qmp("quit")
        assert self.process.wait(scaled(30)) == 0, self.said()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def memory(self):
        """The guest's memory as QEMU tells it: {gpa: (size, hva, access)}, of one moment."""
        while True:
            sections = self._sections()
            answers = [re.search(r" is 0x([0-9a-f]+)\s*$", self.qmp.human(f"gpa2hva {first:#x}"))
                       for first, _, _ in sections]
            if all(answers) and self._sections() == sections:
                break
        memory = {}
        for (first, last, kind), answer in zip(sections, answers):
            assert first % 4096 == 0 and (last + 1) % 4096 == 0
            memory[first] = (last + 1 - first, int(answer.group(1), 16),
                             READ_WRITE if kind == "ram" else READ)
        return memory

    def _sections(self):
        for view in self.qmp.human("info mtree -f").replace("\r", "").split("\n\n"):
            if '\n AS "memory", ' in view:
                found = re.findall(
                    r"^  ([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (ram|rom|romd)\): ",
                    view, re.MULTILINE)
                return [(int(first, 16), int(last, 16), kind) for first, last, kind in found]
        raise AssertionError("no address space \"memory\"")

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, value, trace):
        try:
            if kind is None and self.process.poll() is None:
                self.quit()
        finally:
            if kind is not None:
                print(self.said())
            if self.process.poll() is None:
                self.kill()
            if self.qmp is not None:
                self.qmp.close()
            shutil.rmtree(self.folder, ignore_errors=True)


def space_of(client, space="vm"):
    """What iovad has of the guest's memory, in the form of Vm.memory."""
    return {m.gpa: (m.size, m.hva, m.access) for m in client.mappings(space, kind=GUEST)}


def exists(client, space="vm"):
    """Whether there is such a space."""
    return space in [s.name for s in client.ListSpaces().spaces]


def wait_until_followed(vm, client, space="vm", seconds=60, having=lambda memory: True):
    """Until the space is what QEMU says, of memory that is `having`. Returns that."""
    def equal():
        if not exists(client, space):
            return None
        memory = vm.memory()
        return memory if having(memory) and space_of(client, space) == memory else None

    return wait_until(equal, "the space is the guest's memory", seconds)


def has_kvm():
    """Whether this machine can run guests by itself."""
    try:
        with open("/dev/kvm", "rb+", buffering=0) as kvm:
            return fcntl.ioctl(kvm, 0xae00) == 12  # KVM_GET_API_VERSION
    except OSError:
        return False


needs_qemu = pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed "
                                "(deploy/setup.sh installs it on Debian)")
