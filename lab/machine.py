"""A kernel that runs one command on this host's files, bounded in time and never left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from lab.common import LabError
from lab.kernels import CHECKOUT, cache, kernel
from lab.qmp import Monitor
from lab.restrict import LINUX

# Directories of the host that are empty and writable in the guest. /root and /home also because
# what they hold is nobody's business there.
HIDDEN = ("/tmp", "/run", "/var/tmp", "/root", "/home")

# Where the guest sees the exchange directory.
EXCHANGE = "/run/lab"

# Some five seconds of work for two processors; but the host may be busy with other things.
BOOT_SECONDS = 300.0
POWER_OFF_SECONDS = 5.0

# The kernel and all its processes go when this process goes, however that happens: they live in
# a PID namespace whose first process dies with its parent. (User-Mode Linux's helpers would stay.)
_TIED = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child=KILL"]
if os.geteuid() != 0:
    _TIED += ["--user", "--map-root-user"]
_TIED += ["sh", "-c", '"$@"; exit', "sh"]

_CRYPTODEV: dict[str, Any] = {
    "driver": "virtio-crypto-pci",
    "id": "crypto0",
    "cryptodev": "cryptodev0",
}


@dataclass(frozen=True)
class Setting:
    """What a machine is: equal settings can share one boot."""

    kernel: str
    linux: str | None = None
    """Whose AF_ALG answers the command gets: None for the kernel's own, else one of LINUX."""
    uid: int = 0
    hardware: bool = False
    """QEMU only: a virtio-crypto device, which the guest can have pulled and plugged."""

    def __post_init__(self) -> None:
        if self.linux not in (None, *LINUX):
            raise LabError(f"no Linux {self.linux!r}; there are {', '.join(LINUX)}")
        if self.hardware and self.kernel == "uml":
            raise LabError("User-Mode Linux has no hardware; choose a qemu kernel")

    def __str__(self) -> str:
        parts = [self.kernel]
        if self.linux:
            parts.append(f"as-{self.linux}")
        if self.uid:
            parts.append(f"uid-{self.uid}")
        if self.hardware:
            parts.append("hardware")
        return ",".join(parts)


@dataclass
class Machine:
    """One boot, one command. A context manager: leaving it ends the kernel whatever it does."""

    setting: Setting
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    output: BinaryIO | None = None
    """Where the command's output goes while it runs; `transcript` has it in any case."""
    files: Mapping[str, str] = field(default_factory=dict)
    """What `results` holds from the start: text by name."""

    def __post_init__(self) -> None:
        self.transcript = bytearray()
        self._kernel = kernel(self.setting.kernel)
        self._process: subprocess.Popen[bytes] | None = None
        self._threads: list[threading.Thread] = []
        self._monitor: Monitor | None = None
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Boots; whoever calls this instead of entering calls close()."""
        memory = Path("/dev/shm")
        self._home = Path(
            tempfile.mkdtemp(
                prefix=f"cryptofd-lab-{os.getpid()}-", dir=memory if memory.is_dir() else None
            )
        )
        _sweep(self._home.parent)
        try:
            self._share = self._home / "exchange"
            self._share.mkdir()
            for directory in (self.results, self._share / "requests"):
                directory.mkdir()
                directory.chmod(0o1777)
            (self._share / "boot.env").write_text(self._boot_env())
            (self._share / "job.sh").write_text(self._job())
            self._started = time.monotonic()
            for name, text in self.files.items():
                (self.results / name).write_text(text)
            self._compile()
            self._launch()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def results(self) -> Path:
        """A directory that the command can write to: $LAB_RESULTS in the guest."""
        return self._share / "results"

    @property
    def booted(self) -> bool:
        """Whether the kernel came as far as the command."""
        return (self._share / "booted").exists()

    @property
    def ended(self) -> bool:
        """Whether the kernel is gone."""
        return self._process is None or self._process.poll() is not None

    def wait(self, timeout: float = 600.0) -> int:
        """The command's exit status. LabError with the console's end when there is none in time."""
        assert self._process is not None
        done = 0.0
        while not self.ended:
            if not done and (self._share / "status").exists():
                done = time.monotonic()
            if done and time.monotonic() - done > POWER_OFF_SECONDS:
                break  # a device that was pulled under load can hold the kernel up for ever
            passed = time.monotonic() - self._started
            if not self.booted and passed > BOOT_SECONDS:
                raise self.failure(f"did not boot in {BOOT_SECONDS:.0f} s")
            if passed > timeout:
                raise self.failure(f"did not end in {timeout:.0f} s")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)
        self._end()
        try:
            return int((self._share / "status").read_text())
        except FileNotFoundError:
            raise self.failure("died before the command ended") from None

    def failure(self, what: str) -> LabError:
        """An error that says what the machine did, with the end of its console."""
        said = self.console()[-3000:].strip() or "nothing"
        wrote = bytes(self.transcript[-1000:]).decode(errors="replace").strip() or "nothing"
        return LabError(
            f"{self.setting} {what}\n"
            f"-- the command's output ends with --\n{wrote}\n"
            f"-- the console ends with --\n{said}"
        )

    def console(self) -> str:
        """What the kernel and its machine said so far."""
        try:
            return (self._home / "console.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def close(self) -> None:
        """Ends the kernel and removes its files. Harmless when done already."""
        self._end()
        if self._monitor is not None:
            self._monitor.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def _end(self) -> None:
        self._ended.set()
        if self._process is not None:
            # The group also holds the processes in which User-Mode Linux runs its programs.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for thread in self._threads:
            thread.join(5)

    # What the guest is told.

    def _boot_env(self) -> str:
        keep = [str(path) for path in self._visible() if _is_hidden(path)]
        for path in keep:
            if path.split() != [path]:
                raise LabError(f"{path}: the lab cannot show a path with a space in it")
        level = (self.setting.linux or "").partition(":")[2]
        return (
            f"KEEP={shlex.quote(' '.join(keep))}\nHIDE={shlex.quote(' '.join(HIDDEN))}\n"
            f"MODULES={shlex.quote(str(self._kernel.modules))}\nSYSCTL={shlex.quote(level)}\n"
            f"HARDWARE={'virtio_crypto' if self.setting.hardware else ''}\n"
        )

    def _visible(self) -> list[Path]:
        """What the command needs, whatever directory of the host it lies in."""
        paths = [CHECKOUT, _python().resolve().parent.parent]
        for path in (cache(), CHECKOUT / ".venv"):
            if path.resolve().exists() and not path.resolve().is_relative_to(CHECKOUT):
                paths.append(path.resolve())
        return paths

    def _job(self) -> str:
        """The shell script that becomes the command."""
        setting = self.setting
        env = {
            "PATH": f"{_python().parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": "/tmp" if setting.uid else "/root",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
            "MODPROBE_OPTIONS": f"-d {self._kernel.modules}",
            "LAB_KERNEL": setting.kernel,
            "LAB_LINUX": setting.linux or "",
            "LAB_HARDWARE": "1" if setting.hardware else "",
            "LAB_EXCHANGE": EXCHANGE,
            "LAB_RESULTS": f"{EXCHANGE}/results",
            **self.env,
        }
        command = ["env", "-i", *(f"{name}={value}" for name, value in env.items())]
        if setting.linux:
            command += [str(_python()), "-m", "lab", "restrict", "--linux", setting.linux]
            command += ["--uid", str(setting.uid), "--"]
        elif setting.uid:
            ids = f"--reuid {setting.uid} --regid {setting.uid} --clear-groups"
            command += ["setpriv", *ids.split(), "--"]
        command += self.command
        return f"cd {shlex.quote(str(CHECKOUT))} && exec {shlex.join(command)}\n"

    # How it is started.

    def _compile(self) -> None:
        """Leaves bytecode for the guest, which cannot write its own and is slow at making it."""
        sources = [path for path in ("lab", "python") if (CHECKOUT / path).is_dir()]
        command = [str(_python()), "-m", "compileall", "-q", *sources]
        subprocess.run(command, cwd=CHECKOUT, check=False, capture_output=True)

    def _launch(self) -> None:
        read, write = os.pipe()
        in_qemu = self._kernel.in_qemu
        command = self._qemu() if in_qemu else self._user_mode_linux(write)
        environ = {**os.environ, "TMPDIR": str(self._home)}
        with (self._home / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                [*_TIED, *command],
                stdin=subprocess.DEVNULL,
                stdout=write if in_qemu else console,
                stderr=console,
                pass_fds=(write,),
                env=environ,
                start_new_session=True,
            )
        os.close(write)
        self._in_background(self._copy_output, read)
        if self.setting.hardware:
            self._in_background(self._serve_requests)

    def _in_background(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        thread.start()
        self._threads.append(thread)

    def _qemu(self) -> list[str]:
        parameters = "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off audit=0 nokaslr"
        command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=1024"]
        command += ["-smp", "2", "-cpu", "max", "-m", "1G", "-no-reboot"]
        command += ["-display", "none", "-nodefaults", "-no-user-config"]
        command += ["-kernel", str(self._kernel.image), "-initrd", str(self._kernel.initrd)]
        command += ["-append", parameters]
        command += ["-chardev", f"file,id=console,path={self._home}/console.log,append=on"]
        command += ["-chardev", "stdio,id=job,signal=off"]
        command += ["-serial", "chardev:console", "-serial", "chardev:job"]
        for tag, path, more in (
            ("root", Path("/"), ",readonly=on,multidevs=remap"),
            ("exchange", self._share, ""),
        ):
            command += ["-fsdev", f"local,id={tag},path={path},security_model=none{more}"]
            command += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
        command += ["-qmp", f"unix:{self._home}/monitor,server=on,wait=off"]
        if self.setting.hardware:
            command += ["-object", "cryptodev-backend-builtin,id=cryptodev0"]
            command += ["-device", ",".join(f"{k}={v}" for k, v in _CRYPTODEV.items())]
        return command

    def _user_mode_linux(self, job: int) -> list[str]:
        command = [str(self._kernel.image), "mem=1G", f"initrd={self._kernel.initrd}"]
        command += ["con=null", "con0=null,fd:1", "ssl=null", f"ssl0=null,fd:{job}"]
        command += [f"uml_dir={self._home}/", "umid=uml", "panic=-1", "quiet", "loglevel=4"]
        command += [f"lab_exchange={self._share}"]
        return command

    # What happens beside it.

    def _copy_output(self, read: int) -> None:
        with open(read, "rb", buffering=0) as job:
            while chunk := job.read(65536):
                self.transcript += chunk
                if self.output is not None:
                    self.output.write(chunk)
                    self.output.flush()

    def _serve_requests(self) -> None:
        """Does what `lab.guest` asks for through files in the exchange directory."""
        requests = self._share / "requests"
        while not self._ended.wait(0.02):
            for request in sorted(requests.glob("*.request")):
                try:
                    answer = self._request(json.loads(request.read_text()))
                except (LabError, OSError, ValueError, KeyError, TypeError) as error:
                    answer = {"error": str(error)}
                request.unlink()
                reply = request.with_suffix(".reply")
                reply.with_suffix(".new").write_text(json.dumps(answer))
                reply.with_suffix(".new").rename(reply)

    def _request(self, request: dict[str, object]) -> dict[str, object]:
        if self._monitor is None:
            self._monitor = Monitor(self._home / "monitor")
        started = time.monotonic()
        match request["do"]:
            case "unplug":
                self._monitor.command("device_del", id=_CRYPTODEV["id"])
                gone = self._monitor.wait_deleted(_CRYPTODEV["id"], float(str(request["seconds"])))
                return {"gone": gone, "seconds": time.monotonic() - started}
            case "plug":
                self._monitor.command("device_add", **_CRYPTODEV)
                return {}
            case other:
                return {"error": f"no request {other!r}"}


def run(
    setting: Setting,
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float = 600.0,
    output: BinaryIO | None = None,
) -> tuple[int, str]:
    """Boots, runs the command in the checkout, and returns its exit status and output."""
    with Machine(setting, command, env or {}, output) as machine:
        status = machine.wait(timeout)
        return status, bytes(machine.transcript).decode(errors="replace")


def _python() -> Path:
    """The interpreter that the guest uses: the checkout's own, so that it finds the package."""
    own = CHECKOUT / ".venv" / "bin" / "python"
    return own if own.exists() else Path(sys.executable)


def _sweep(directory: Path) -> None:
    """Removes what processes left behind that were killed and could not."""
    for home in directory.glob("cryptofd-lab-*-*"):
        owner = home.name.split("-")[2]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(home, ignore_errors=True)


def _is_hidden(path: Path) -> bool:
    return any(path.is_relative_to(hidden) for hidden in HIDDEN)
