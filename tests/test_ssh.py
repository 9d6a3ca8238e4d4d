"""Boards over ssh: a real sshd on 127.0.0.1 with keys and a client configuration of its own."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from schemas import problems
from typer.testing import CliRunner

from edgekd import bundle as packing
from edgekd.__main__ import app
from edgekd.bundle import SCHEMA, write_bundle
from edgekd.device import Board, board_of, copying, link, remote, run_fleet, run_on, scripts
from edgekd.device.copying import deliver, freight
from edgekd.device.link import Link
from edgekd.errors import EdgekdError, IntegrityError, Interrupted, MeasurementError, UsageError
from edgekd.files import data_dir, sha256
from edgekd.types import Bundle, Images, Manifest

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None or os.geteuid() != 0,
    reason="needs OpenSSH's server and client, and root to start it",
)
NASTY = "a b'c\"d$(touch hacked)`touch hacked`;touch hacked;&*[x]\\é"
PYTHONS = Path.home() / ".pyenv" / "versions"
OFTEN_S, POLL_S = 0.25, remote.POLL_S


class Server:
    """An sshd of this test. Its boards are board0 ... board9, `stranger` (another key), `moved` (another host key)."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, folder / "client"
        self.process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        for name in ("host", "other_host", "key", "stranger"):
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(make, check=True, stdin=subprocess.DEVNULL)
        shutil.copy(folder / "key.pub", folder / "authorized")
        lines = [
            f"Port {self.port}", "ListenAddress 127.0.0.1", f"HostKey {folder}/host", f"PidFile {folder}/pid",
            f"AuthorizedKeysFile {folder}/authorized", "StrictModes no", "UsePAM no", "PasswordAuthentication no",
            "PermitRootLogin yes", "MaxStartups 100", "Subsystem sftp internal-sftp",
        ]  # fmt: skip
        (folder / "sshd").write_text("\n".join([*lines, "PerSourcePenalties no"]) + "\n", encoding="utf-8")
        Path("/run/sshd").mkdir(exist_ok=True)
        assert SSHD is not None
        if subprocess.run([SSHD, "-t", "-f", folder / "sshd"], capture_output=True, check=False).returncode:
            (folder / "sshd").write_text("\n".join(lines) + "\n", encoding="utf-8")  # OpenSSH before 9.8
        host, other = ((folder / f"{n}.pub").read_text(encoding="utf-8") for n in ("host", "other_host"))
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {host}", encoding="utf-8")
        (folder / "moved").write_text(f"[127.0.0.1]:{self.port} {other}", encoding="utf-8")
        (folder / "nobody").touch()
        common = f"HostName 127.0.0.1\nPort {self.port}\nUser root\nIdentitiesOnly yes\nStrictHostKeyChecking yes\n"
        common += "GlobalKnownHostsFile /dev/null\nIdentityAgent none\n"
        blocks = [("board*", "key", "known"), ("stranger", "stranger", "known"), ("moved", "key", "moved")]
        blocks.append(("unknown", "key", "nobody"))
        text = "".join(
            f"Host {h}\nIdentityFile {folder}/{k}\nUserKnownHostsFile {folder}/{w}\n{common}" for h, k, w in blocks
        )
        text += text.split("Host ")[1].replace("board*", "Host hop\nProxyJump board0", 1)
        self.config.write_text(text, encoding="utf-8")

    def start(self) -> None:
        assert SSHD is not None
        command = [SSHD, "-D", "-f", str(self.folder / "sshd"), "-E", str(self.folder / "log")]
        self.process = subprocess.Popen(command)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text(encoding="utf-8"))

    def cut(self) -> None:
        """Kills the server's side of every connection."""
        assert self.process is not None
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            if int(fields[1]) == self.process.pid:
                os.kill(int(path.parent.name), signal.SIGKILL)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)
            self.process.poll()

    def gone(self) -> None:
        """No server, no connection."""
        self.cut()
        self.stop()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("sshd"))
    server.start()
    yield server
    server.gone()


@pytest.fixture
def server(running: Server) -> Server:
    if running.process is None or running.process.poll() is not None:
        running.start()
    return running


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boards are looked at several times a second."""
    monkeypatch.setattr(remote, "POLL_S", OFTEN_S)


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle's runner takes its time, several looks long, though conftest.hasty shortens it elsewhere."""
    monkeypatch.setattr(packing, "data_dir", data_dir)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle that is whole, of a network with one layer."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(64, 4)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["pixels"], ["flat"]), helper.make_node("MatMul", ["flat", "weight"], ["logits"])],
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(weight, "weight")],
    )
    path = tmp_path / "student.fp32.onnx"
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]), path)
    pixels = rng.integers(0, 256, (32, 1, 8, 8), dtype=np.uint8)
    logits = pixels.reshape(32, -1).astype(np.float32) @ weight
    manifest = Manifest(
        SCHEMA, "onnxrt", 1, 1, Images(1, 8, 8, (0.5,), (0.25,)), ("a", "b", "c", "d"), {}, {}, {}, {}, {}, {},
        {"summary": "a test"}, "no data",
    )  # fmt: skip
    samples = {"pixels": pixels, "teacher_logits": logits, "fp32_logits": logits}
    return write_bundle(tmp_path / "out" / "bundle", manifest, {"fp32": path}, samples)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The folder of the board that --on names."""
    folder = tmp_path / "board"
    folder.mkdir()
    return folder


@pytest.fixture
def measure(server: Server, bundle: Bundle, there: Path) -> Callable[..., tuple[dict[str, Any], list[str]]]:
    """run_on with what these tests share; gives the report and the lines that were said."""

    def run(host: str = "board0", *, say: Callable[[str], None] = lambda line: None, **options: Any) -> Any:
        lines: list[str] = []

        def both(line: str) -> None:
            lines.append(line)
            say(line)

        board = Board(host, folder=str(options.pop("folder", there)))
        settings: dict[str, Any] = {"quick": True, "python": sys.executable, "ssh_config": server.config} | options
        return run_on(bundle, board, say=both, **settings), lines

    return run


@pytest.mark.usefixtures("unhurried")
def test_bench_in_a_folder_that_a_shell_would_obey(
    server: Server, bundle: Bundle, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote, "POLL_S", POLL_S)
    nasty, looks, look = there / NASTY, list[float](), scripts.look
    nasty.mkdir()

    def noted(folder: str, offset: int) -> str:
        looks.append(time.monotonic())
        return look(folder, offset)

    monkeypatch.setattr(scripts, "look", noted)
    url = f"ssh://root@board1:{server.port}{quote(str(nasty))}"
    command = ["bench", str(bundle.folder), "--quick", "--json", "--keep", "--python", sys.executable, "--on", url]
    environment = {"EDGEKD_SSH_CONFIG": str(server.config)}
    done = CliRunner().invoke(app, command, env=environment)
    assert done.exit_code in (0, 5), done.stderr  # 5: this machine was busy
    (found,) = json.loads(done.stdout)["boards"]
    assert not problems("boards", json.loads(done.stdout))
    assert found["ok"] and found["valid"] is (done.exit_code == 0)
    assert found["report"]["graphs"]["fp32"]["agreement"] == 1
    home = bundle.folder.parent / "boards" / f"root@board1_{server.port}" / "report.json"
    assert json.loads(home.read_text(encoding="utf-8")) == found["report"] and Path(found["path"]) == home.resolve()
    raw = home.with_name("raw_latency.npz")
    assert sha256(raw) == found["report"]["raw"]["sha256"] and set(home.parent.iterdir()) == {home, raw}
    (kept,) = nasty.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o700 and (kept / "bundle" / "manifest.json").is_file()
    assert not list(tmp_path.rglob("hacked")) and not Path("~/hacked").expanduser().exists()
    assert len(looks) >= 2 and min(b - a for a, b in itertools.pairwise(looks)) >= remote.POLL_S >= 2
    assert remote.SLOWEST_POLL_S <= 10


def test_exit_codes_of_the_command_line(server: Server, bundle: Bundle, there: Path) -> None:
    command = ["bench", str(bundle.folder), "--json", "--on", f"ssh://stranger{there}"]
    environment = {"EDGEKD_SSH_CONFIG": str(server.config)}
    done = CliRunner().invoke(app, command, env=environment)
    assert done.exit_code == 5 and json.loads(done.stdout)["error"]["code"] == "E0511"
    done = CliRunner().invoke(app, [*command, "--on", f"ssh://moved{there}"], env=environment)
    assert done.exit_code == 5
    assert [board["error"]["code"] for board in json.loads(done.stdout)["boards"]] == ["E0511", "E0513"]
    page = bundle.folder.parent / "boards" / "fleet.html"
    assert "0 of 2 boards have a valid measurement, 2 failed" in page.read_text(encoding="utf-8")
    lines = [word for word in [*command, "--on", f"ssh://moved{there}", "--json-lines"] if word != "--json"]
    done = CliRunner().invoke(app, lines, env=environment)
    told = [json.loads(line) for line in done.stdout.splitlines()]  # a line per board, as they end
    assert not [problem for line in told for problem in problems("board", line)]
    assert done.exit_code == 5 and {board["error"]["code"] for board in told} == {"E0511", "E0513"}
    done = CliRunner().invoke(app, [*command, "--on", "ssh://-oProxyCommand=id"], env=environment)
    assert done.exit_code == 2 and json.loads(done.stdout)["error"]["code"] == "E0240"
    done = CliRunner().invoke(app, [*command[:3], "--keep"], env=environment)
    assert done.exit_code == 2 and json.loads(done.stdout)["error"]["code"] == "E0245"


def test_fleet_goes_on_beside_a_board_that_fails(server: Server, bundle: Bundle, there: Path) -> None:
    boards = [board_of(f"ssh://{name}{there}") for name in ("board1", "board2", "board3", "stranger", "board4")]
    lines: list[str] = []
    found = run_fleet(
        bundle, boards, jobs=2, quick=True, python=sys.executable, ssh_config=server.config, say=lines.append
    )
    assert [o.board for o in found] == boards and [o.report is None for o in found] == [False] * 3 + [True, False]
    assert found[3].error is not None and found[3].error.code == "E0511" and not found[3].valid
    assert all(o.report == json.loads(o.path.read_text(encoding="utf-8")) for o in found if o.report)
    assert len({o.path for o in found}) == 5 and list(there.iterdir()) == []
    first = [line.split("  ")[0] for line in lines]
    started = [first.index(name) for name in ("board1", "board2", "board3", "board4")]
    assert min(started[2:]) > max(started[:2]) and "stranger" not in first  # two at a time
    with pytest.raises(UsageError, match="twice"):
        run_fleet(bundle, [boards[0], boards[0]])


@pytest.mark.parametrize("rsync", [False, True])
def test_copy_brings_what_differs_only(rsync: bool, server: Server, bundle: Bundle, there: Path) -> None:
    if rsync and not copying.has_rsync():
        pytest.skip("no rsync 3 here")
    nasty = there / NASTY
    (nasty / "bundle" / "runner").mkdir(parents=True)
    wanted, lines = freight(bundle, {}), list[str]()

    def bring() -> None:
        deliver(net, wanted, str(nasty), python=sys.executable, rsync=rsync, say=lines.append)

    with Link(Board("board0"), config=server.config, stop=threading.Event()) as net:
        bring()
        assert lines.pop().startswith(f"copying {len(wanted)} files")
        bring()
        assert not lines
        for name, damage in (("samples.npz", lambda old: old[:99]), ("README.txt", lambda old: b"x" * len(old))):
            path = nasty / "bundle" / name
            before = path.stat()
            path.write_bytes(damage(path.read_bytes()))  # cut short; changed
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as bits that rot: no time tells it
        (nasty / "bundle" / "runner" / "harness.py").write_bytes(b"longer " * 9999)
        bring()
        assert lines.pop(0).startswith("copying 3 files")
        for name, f in wanted.items():
            assert (nasty / name).read_bytes() == f.path.read_bytes()
        wanted["bundle/README.txt"] = replace(wanted["bundle/README.txt"], sha256="0" * 64)  # as of a bad card
        with pytest.raises(IntegrityError, match="README"):
            bring()


def test_link_cut_while_copying(server: Server, bundle: Bundle, measure: Any, there: Path) -> None:
    cuts = iter([True])

    def say(line: str) -> None:
        if line.startswith("copying") and next(cuts, False):
            server.cut()
        if line.startswith("warming"):
            raise KeyboardInterrupt  # the rest is not this test's; also: Ctrl-C clears the board

    with pytest.raises(KeyboardInterrupt):
        measure(say=say)
    assert next(cuts, None) is None and list(there.iterdir()) == []
    assert not (bundle.folder.parent / "boards" / "board0" / "unfinished.json").exists()


def test_link_cut_while_measuring_and_restarted(server: Server, measure: Any, there: Path) -> None:
    def say(line: str) -> None:
        if line.startswith("measuring"):
            server.gone()
            threading.Timer(1.5, server.start).start()

    report, lines = measure(say=say)
    assert report["graphs"]["fp32"]["latency_ms"]["rounds"] >= 200
    assert sum(line.startswith("copying") for line in lines) == sum(line.startswith("measuring") for line in lines) == 1
    assert "connected again" in lines and list(there.iterdir()) == []


def test_link_cut_for_good_is_gone_on_with_later(
    server: Server, measure: Any, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "PAUSES_S", (0.1, 0.1))
    with pytest.raises(remote.Unfinished) as caught:
        measure(say=lambda line: server.gone() if line.startswith("measuring") else None)
    error = caught.value
    assert (error.code, error.exit_code) == ("E0514", 5) and "goes on" in error.fix and "refused" in error.why
    (folder,) = there.iterdir()
    assert str(folder) in error.what and (folder / "pid").is_file()
    for _ in range(300):
        if (folder / "rc").exists():  # the runner went on by itself
            break
        time.sleep(0.1)
    made = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    server.start()
    report, lines = measure()
    assert report == made and lines[0] == f"going on with {folder}" and not any("copying" in line for line in lines)
    assert list(there.iterdir()) == []


@pytest.mark.parametrize(("host", "code"), [("stranger", "E0511"), ("unknown", "E0512"), ("moved", "E0513")])
def test_board_that_does_not_let_us_in(host: str, code: str, measure: Any) -> None:
    with pytest.raises(MeasurementError) as caught:
        measure(host)
    assert (caught.value.code, caught.value.exit_code) == (code, 5) and caught.value.why and caught.value.fix


def test_board_that_is_off(server: Server, measure: Any) -> None:
    server.gone()
    with pytest.raises(MeasurementError) as caught:
        measure()
    assert (caught.value.code, caught.value.exit_code) == ("E0510", 5) and "refused" in caught.value.why


def test_jump_host(server: Server) -> None:
    with Link(Board("hop"), config=server.config, stop=threading.Event()) as net:
        assert net.sh("echo $((6 * 7))").out == b"42\n"
        private = net.private
    assert not private.exists()


def test_terminated_the_boards_are_cleared(server: Server, bundle: Bundle, there: Path) -> None:
    running: list[int] = []

    def say(line: str) -> None:
        if "warming up" in line and not running:
            running.append(len(list(there.glob("*/pid"))))
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted) as caught:
        run_fleet(
            bundle, [Board("board0", folder=str(there)), Board("board1", folder=str(there))], jobs=1,
            python=sys.executable, ssh_config=server.config, say=say,
        )  # fmt: skip
    assert caught.value.exit_code == 143 and list(there.iterdir()) == []
    assert running and not at_work(there)


def at_work(folder: Path) -> list[str]:
    """The processes that have their working folder in it, a while after they were ended."""
    for _ in range(100):
        found = []
        for path in Path("/proc").glob("[0-9]*/cwd"):
            try:
                found += [str(path)] if str(path.readlink()).startswith(str(folder)) else []
            except OSError:  # it ended meanwhile
                continue
        if not found:
            break
        time.sleep(0.05)
    return found


def test_runner_starts_once_and_is_cleared(server: Server, there: Path, tmp_path: Path) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\necho begun >&2\nexec sleep 60\n", encoding="utf-8")
    slow.chmod(0o755)
    folder = str(there / "edgekd-0")
    with Link(Board("board0"), config=server.config, stop=threading.Event()) as net:
        assert net.sh(scripts.make(folder)).code == 0 and net.sh(scripts.make(folder)).code == 0
        assert net.sh(scripts.started(folder)).code != 0
        pids = []
        for _ in range(2):
            assert net.sh(scripts.start(folder, str(slow), [])).code == 0
            time.sleep(0.3)
            pids.append(Path(folder, "pid").read_text(encoding="utf-8"))
        assert pids[0] == pids[1] and net.sh(scripts.started(folder)).code == 0
        assert net.sh(scripts.look(folder, 2)).out == b"running\ngun\n"
        assert net.sh(scripts.clear(folder)).code == 0 and not Path(folder).exists()
        assert net.sh(scripts.look(folder, 0)).code == 66
    assert not at_work(there)


@pytest.mark.usefixtures("unhurried")
def test_runner_that_is_killed(measure: Any, there: Path) -> None:
    def say(line: str) -> None:
        if line.startswith("warming up"):
            (pid,) = there.glob("*/pid")
            os.killpg(int(pid.read_text(encoding="utf-8").split()[0]), signal.SIGKILL)

    with pytest.raises(MeasurementError) as caught:
        measure(say=say)
    assert caught.value.code == "E0532" and "last line: " in caught.value.why and list(there.iterdir()) == []


def test_report_must_arrive_unchanged_and_be_one(server: Server, there: Path, tmp_path: Path) -> None:
    (there / "report.json").write_text('{"graphs": {}}', encoding="utf-8")
    liar = tmp_path / "python"
    liar.write_text("#!/bin/sh\necho 0000\n", encoding="utf-8")
    liar.chmod(0o755)
    with Link(Board("board0"), config=server.config, stop=threading.Event()) as net:
        for python, code, exit_code in ((liar, "E0526", 7), (sys.executable, "E0527", 5)):
            visit = remote.Visit(net, tmp_path / "unfinished.json", str(python), lambda line: None)
            with pytest.raises(EdgekdError) as caught:
                visit.fetch(str(there))
            assert (caught.value.code, caught.value.exit_code) == (code, exit_code)


@pytest.mark.parametrize(
    ("version", "code"), [("2.7", "E0521"), ("3.6", "E0522"), ("3.8", "E0522"), ("3.13", "E0522"), ("none", "E0520")]
)
def test_pythons_of_boards(version: str, code: str, measure: Any, there: Path) -> None:
    found = sorted(PYTHONS.glob(f"{version}.*/bin/python"))
    if not found and version != "none":
        pytest.skip(f"no Python {version} under ~/.pyenv")
    python = found[0] if found else there / "no python here"
    if found and code == "E0522":
        has = subprocess.run([python, "-c", "import numpy, onnxruntime"], capture_output=True, check=False)
        if not has.returncode:
            pytest.skip(f"Python {version} has all that the runner needs")
    with pytest.raises(EdgekdError) as caught:
        measure(python=str(python))
    assert (caught.value.code, caught.value.exit_code) == (code, 4)
    assert list(there.iterdir()) == []


@pytest.mark.parametrize("limit", ["size=64k", "nr_inodes=4", "nr_inodes=3"])  # seen before copying; met in it; earlier
def test_disk_full_there(limit: str, measure: Any, there: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", limit, "tmpfs", there], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        with pytest.raises(EdgekdError) as caught:
            measure()
        assert (caught.value.code, caught.value.exit_code) == ("E0523", 4)
        assert list(there.iterdir()) == []
    finally:
        subprocess.run(["umount", there], check=True)


def test_folder_that_is_not_there(measure: Any, there: Path) -> None:
    with pytest.raises(EdgekdError) as caught:
        measure(folder=there / "missing")
    assert (caught.value.code, caught.value.exit_code) == ("E0524", 4)


def test_runner_that_fails_says_why(measure: Any, bundle: Bundle, there: Path) -> None:
    with pytest.raises(EdgekdError) as caught:
        measure(eval_data=bundle.folder / "samples.npz")  # no images in it
    assert (caught.value.code, caught.value.exit_code) == ("E0530", 3) and "images" in caught.value.why
    assert list(there.iterdir()) == []
