"""What is on the disk while a training runs: two whole generations, banks and a log that go with them."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from test_methods import TINY, equal, run_method
from torch import nn

from edgekd import Images, checkpoint, training_log
from edgekd.bank import Bank
from edgekd.checkpoint import Checkpoint, mend, previous, stoppable
from edgekd.console import errors
from edgekd.divergence import Diverged
from edgekd.errors import IntegrityError
from edgekd.files import sweep
from edgekd.sealed import SEAL, intact, seal, unsealed
from edgekd.training_log import TrainingLog
from edgekd.types import Teacher

FACTS = Images(1, 2, 2, (0.5,), (0.25,))
KILLS = (3, 8, 12)  # lines of the log


class Killed(BaseException):
    """Stands for SIGKILL: nothing may be saved on the way out."""


def every_third_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves due by a count of steps in place of ten seconds."""
    calls = [0]

    def due(self: Checkpoint) -> bool:
        calls[0] += 1
        return calls[0] % 3 == 0

    monkeypatch.setattr(Checkpoint, "_due", due)


@pytest.mark.parametrize(("name", "generation"), [*((n, "newest") for n in TINY), ("rdskd_plus none", "previous")])
def test_killed_between_two_saves_gives_the_same_student_and_log(
    name: str, generation: str, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills three times; what was done since the save, in banks too, must not matter."""
    every_third_step(monkeypatch)
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    folder.mkdir()
    expected, images = run_method(name, teacher, whole, log=TrainingLog(whole))
    count, log = [0], TrainingLog(folder)

    def dies(phase: str, step: int, steps: int, **figures: float) -> None:
        log(phase, step, steps, **figures)
        count[0] += 1
        if count[0] in KILLS:
            raise Killed

    for _ in range(1 + len(KILLS)):
        try:
            found, again = run_method(name, teacher, folder, log=dies)
            break
        except Killed:
            if generation == "previous" and count[0] == KILLS[1]:
                checkpoint.step_back(folder / checkpoint.NAME)
    assert count[0] >= KILLS[0] or len(lines(whole)) < KILLS[0]
    assert equal(expected, found) and torch.equal(images, again)
    assert lines(folder) == lines(whole)


def lines(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name != "time_s"} for line in found]


def three_saves(folder: Path) -> Checkpoint:
    kept = Checkpoint(folder / "x.ckpt", part=nn.Linear(2, 2))
    for step in (1, 2, 3):
        kept._save({"step": step})
    return kept


def test_two_generations_are_kept(tmp_path: Path) -> None:
    kept = three_saves(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"x.ckpt", "x.prev.ckpt"}
    assert [unsealed(p)["counters"]["step"] for p in (kept.path, previous(kept.path))] == [3, 2]


@pytest.mark.parametrize("harm", ["cut off", "changed", "empty", "lost"])
def test_a_damaged_newest_gives_way_to_the_one_before(harm: str, tmp_path: Path) -> None:
    kept, warned = three_saves(tmp_path), list[str]()
    damage(kept.path, harm)
    if harm != "lost":
        with pytest.raises(IntegrityError, match="damaged"):
            kept.restore({})
    mend(kept.path, warned.append)
    assert kept.restore({})["step"] == 2 and len(warned) == 1 and "x.ckpt" in warned[0]
    mend(kept.path, warned.append)
    assert len(warned) == 1  # whole now


def damage(path: Path, harm: str) -> None:
    content = path.read_bytes()
    if harm == "lost":
        path.unlink()
    elif harm == "changed":
        path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    else:
        path.write_bytes(content[: len(content) - 100] if harm == "cut off" else b"")


def test_both_damaged_says_what_to_delete(tmp_path: Path) -> None:
    kept = three_saves(tmp_path)
    for path in (kept.path, previous(kept.path)):
        damage(path, "changed")
    with pytest.raises(IntegrityError) as refused:
        mend(kept.path, print)
    assert refused.value.code == "E0711"
    assert str(kept.path) in refused.value.fix and str(previous(kept.path)) in refused.value.fix


def test_nothing_to_mend_at_the_start(tmp_path: Path) -> None:
    mend(tmp_path / "x.ckpt", pytest.fail)


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    kept = three_saves(tmp_path)
    assert [unsealed(p)["counters"]["step"] for p in (kept.path, previous(kept.path))] == [3, 2]


def test_the_seal_is_the_digest_of_what_torch_wrote(tmp_path: Path) -> None:
    value = {"x": torch.arange(5.0), "n": [1, 2.5, "a"]}
    seal(value, tmp_path / "sealed")
    seal(value, tmp_path / "plain", sealed=False)
    sealed = (tmp_path / "sealed").read_bytes()
    assert sealed[:-SEAL] == (tmp_path / "plain").read_bytes() and intact(tmp_path / "sealed")
    assert not intact(tmp_path / "plain")
    assert torch.equal(unsealed(tmp_path / "sealed")["x"], value["x"])  # type: ignore[arg-type]


def test_a_state_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    part = nn.Linear(2, 2)
    kept = Checkpoint(tmp_path / "x.ckpt", part=part)
    kept._save({"step": 1})
    part.weight.data[0, 0] = float("nan")
    with pytest.raises(Diverged, match="part"):
        kept._save({"step": 2})
    assert kept.restore({})["step"] == 1 and part.weight.isfinite().all()


def grown(path: Path) -> Bank:
    return Bank(path, FACTS, capacity=8, classes=2, spare=16)


def test_a_bank_that_overflows_keeps_what_two_checkpoints_count_on(tmp_path: Path) -> None:
    """Sampled after going back to either of the last two saves: what was sampled at that save."""
    bank, drawn, kept, saves = grown(tmp_path / "b.u8"), list[torch.Tensor](), list[Any](), 0
    pixels = torch.arange(4).view(1, 1, 2, 2)

    def sample(of: Bank) -> torch.Tensor:
        rng = torch.Generator().manual_seed(0)
        return torch.cat([of.sample(20, rng)[0], of.sample(20, rng, balanced=True)[0]])

    for index in range(60):
        label = torch.eye(2)[index % 2][None].expand(2, 2)
        bank.add_pixels((pixels + 2 * index + torch.arange(2).view(2, 1, 1, 1)).to(torch.uint8), label)
        if bank.presses() or index == 2:
            kept, drawn, saves = [*kept[-1:], bank.state_dict()], [*drawn[-1:], sample(bank)], saves + 1
            bank.saved()
        for state, expected in zip(kept, drawn, strict=True):
            again = grown(tmp_path / "b.u8")
            again.load_state_dict(state)
            assert torch.equal(sample(again), expected)
    assert 8 < saves < 30 and bank.added > 4 * bank.slots


def test_a_bank_holds_the_newest_images_only(tmp_path: Path) -> None:
    bank = grown(tmp_path / "b.u8")
    for index in range(50):
        bank.add_pixels(torch.full((1, 1, 2, 2), index, dtype=torch.uint8), torch.eye(2)[index % 2][None])
    rng = torch.Generator().manual_seed(0)
    for balanced in (False, True):
        seen = ((bank.sample(500, rng, balanced=balanced)[0] * 0.25 + 0.5) * 255).round().unique().tolist()
        assert seen == [float(index) for index in range(42, 50)]


def test_a_checkpoint_whose_images_are_gone_is_refused(tmp_path: Path) -> None:
    bank = grown(tmp_path / "b.u8")
    bank.add_pixels(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.zeros(1, 2))
    state = bank.state_dict()
    (tmp_path / "b.u8").unlink()
    with pytest.raises(IntegrityError, match="not in") as refused:
        grown(tmp_path / "b.u8").load_state_dict(state)
    assert refused.value.code == "E0712"


def test_the_log_goes_back_with_the_checkpoint_but_for_events(tmp_path: Path) -> None:
    log, kept = TrainingLog(tmp_path), Checkpoint(tmp_path / "x.ckpt")
    log("student", 1, 9, loss=2.0)
    kept.keep({"step": 1})
    kept._save({"step": 1})
    log("student", 2, 9, loss=1.0)
    log("rate", 1, 3, pace=0.3)
    with open(tmp_path / "log.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"time_s": 3, "pha')  # cut off by a crash
    kept.restore({})
    assert [(line["phase"], line["step"]) for line in lines(tmp_path)] == [("student", 1), ("rate", 1)]


def test_times_of_the_log_go_on(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"time_s": 100.0, "phase": "x", "step": 1}\n', encoding="utf-8")
    TrainingLog(tmp_path)("x", 2, 9)
    assert 100 <= training_log.last_time_s(tmp_path / "log.jsonl") < 110


def test_what_killed_processes_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / ".bundle.77.tmp").mkdir()
    for name in (".x.ckpt.12.tmp", "notes.tmp", ".x.tmp", "log.jsonl"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.tmp", ".x.tmp", "log.jsonl"}


def test_a_second_signal_is_nothing_that_a_library_wraps() -> None:
    with stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            pytest.fail("torch's compiler would have made an error of its own of it")
        except KeyboardInterrupt as stopped:
            with pytest.raises(typer.Exit) as left, errors(debug=False, as_json=False):
                raise stopped
    assert left.value.exit_code == 128 + signal.SIGTERM
