"""benchmarks/gpu.py and its teachers on a CPU: data, crops, parts on disk, stops, and the whole way with stand-ins."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgekd.errors import Interrupted

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def coded(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB (N, H, W, 3) as CIFAR-10 is stored."""
    r, g, b = rgb.transpose(3, 0, 1, 2)
    planes = np.stack([r - g, g, b - g])
    return np.diff(np.diff(planes, axis=2, prepend=np.uint8(0)), axis=3, prepend=np.uint8(0))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with CIFAR-10's files, in them noise whose brightness is the class."""
    folder, rng = tmp_path / "data", np.random.default_rng(0)
    folder.mkdir()
    for name in ("cifar10_train_1of2", "cifar10_train_2of2", "cifar10_test"):
        labels = rng.integers(0, 10, 64).astype(np.uint8)
        rgb = (25 * labels[:, None, None, None] + rng.integers(0, 25, (64, 32, 32, 3))).astype(np.uint8)
        np.savez(folder / f"{name}.npz", images_delta=coded(rgb), labels=labels)
    return folder


def test_both_halves_are_read_in_order(data: Path) -> None:
    from teachers import facts_of, labelled

    images, labels = labelled(data, "cifar10", "train")
    assert images.shape == (128, 32, 32, 3) and labels.shape == (128,)
    assert np.array_equal(images.mean(axis=(1, 2, 3)).astype(int) // 25, labels)
    facts = facts_of(images)
    assert facts.mean[0] == pytest.approx(images[..., 0].mean() / 255, abs=1e-4)
    assert facts.std[2] == pytest.approx(images[..., 2].std() / 255, abs=1e-4)


def test_crops_are_windows_of_the_padded_images() -> None:
    from teachers import cropped

    padded = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8).to(torch.uint8)
    chosen, mirrored = torch.tensor([1, 0] * 40), 0
    found = cropped(padded, chosen, 6, torch.Generator().manual_seed(0), mirror=True)
    assert found.shape == (80, 3, 6, 6) and found.dtype == torch.uint8
    seen = set()
    for image, index in zip(found, chosen.tolist(), strict=True):
        windows = {(d, r): padded[index, :, d : d + 6, r : r + 6] for d in range(3) for r in range(3)}
        plain = [place for place, window in windows.items() if torch.equal(image, window)]
        turned = [place for place, window in windows.items() if torch.equal(image, window.flip(2))]
        assert len(plain + turned) == 1
        mirrored += len(turned)
        seen.update(plain + turned)
    assert len(seen) == 9 and 20 < mirrored < 60
    still = cropped(padded, chosen, 8, torch.Generator().manual_seed(0), mirror=False)
    assert torch.equal(still, padded[chosen])


def test_weights_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import teachers

    monkeypatch.setattr(teachers, "PART_BYTES", 1_000)
    state = {f"w{k}": torch.randn(10, 20) for k in range(5)} | {"bias": torch.randn(3), "count": torch.tensor(7)}
    paths = teachers.keep("some", teachers.halved(state), {"arch": "none"}, tmp_path)
    assert [path.name for path in paths[-2:]] == ["teacher-some.part3.pt", "teacher-some.json"]
    found, facts = teachers.joined("some", tmp_path)
    assert facts["arch"] == "none" and found.keys() == state.keys()
    for name, tensor in state.items():
        wanted = tensor.half().float() if name.startswith("w") else tensor
        assert torch.equal(found[name], wanted) and found[name].dtype == wanted.dtype
    paths[1].write_bytes(paths[0].read_bytes())
    with pytest.raises(ValueError, match="part2"):
        teachers.joined("some", tmp_path)


def test_the_teachers_fit_files_below_16_mb(tmp_path: Path) -> None:
    from teachers import COURSES, facts_of, halved, keep

    from edgekd.student import build_student, named

    facts = facts_of(np.zeros((1, 32, 32, 3), np.uint8))
    for name in COURSES:
        spec = named(COURSES[name].arch, facts, tuple("0123456789"))
        assert spec
        with torch.device("meta"):
            shapes = build_student(spec).state_dict()
        state = halved({n: torch.zeros(t.shape, dtype=t.dtype) for n, t in shapes.items()})
        keep(name, state, {}, tmp_path)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert max(sizes) < 16_000_000 and sum(sizes) < 64_000_000 and len(sizes) == 3 + 3 + 1 + 1  # and gpu.jsonl


def test_training_that_was_stopped_ends_as_if_it_had_not_been(data: Path, tmp_path: Path) -> None:
    from teachers import course, facts_of, labelled, train

    how, given = replace(course("wrn40-2", tiny=True), epochs=4), labelled(data, "cifar10", "train")
    facts = facts_of(given[0])

    def stop(number: int, frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    whole, _ = train(how, given, facts, tmp_path / "whole.ckpt")
    before = signal.signal(signal.SIGVTALRM, stop)
    calls = 1
    try:
        while True:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.15)  # less than it takes
            try:
                gone_on, seconds = train(how, given, facts, tmp_path / "stopped.ckpt")
                break
            except Interrupted:
                calls += 1
            if calls == 3:  # enough; to the end now
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
                gone_on, seconds = train(how, given, facts, tmp_path / "stopped.ckpt")
                break
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert calls > 1 and seconds > 0
    assert all(torch.equal(value, gone_on.state_dict()[name]) for name, value in whole.state_dict().items())


def test_without_a_gpu(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import gpu

    if torch.cuda.is_available():
        pytest.skip("there is one")
    asked = ["--data", str(data), "--out", str(tmp_path / "gpu")]
    assert gpu.main(asked) == 4 and "no CUDA device" in capsys.readouterr().out
    assert gpu.main([*asked, "--plan"]) == 0
    left_out, *plan = capsys.readouterr().out.splitlines()
    assert "svhn.npz is not there" in left_out and all(line.startswith("to do ") for line in plan)
    assert [line.split()[2:4] for line in plan][::2][:2] == [["teacher", "resnet34"], ["teacher", "wrn40-2"]]
    assert not (tmp_path / "gpu").exists()


def test_the_whole_way_with_stand_ins(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import gpu
    from record import lines

    out = tmp_path / "gpu"
    asked = ["--tiny", "--data", str(data), "--out", str(out), "--pairs", "cifar10-wrn16-1"]
    assert gpu.main([*asked, "--seconds", "5"]) == 0  # nothing is begun so near the end
    assert "left, the same command goes on: teacher wrn40-2 (to do)" in capsys.readouterr().out
    assert gpu.main([*asked, "--seconds", "500"]) == 0
    assert "all done" in capsys.readouterr().out
    facts = json.loads((out / "teacher-wrn40-2.json").read_text(encoding="utf-8"))
    assert (
        facts["arch"] == "wrn10-1" and 0 <= facts["top1"] <= 1 and list(facts["parts"]) == ["teacher-wrn40-2.part1.pt"]
    )
    (line,) = lines(out / "gpu.jsonl")
    assert line["pair"] == "cifar10-wrn16-1" and line["evaluated"] == 64 and line["prior"] == "procedural"
    assert line["top1"]["teacher"] == pytest.approx(facts["top1"], abs=0.04)  # of other arithmetic
    assert gpu.main([*asked, "--seconds", "500"]) == 0  # nothing left
    assert "all done" in capsys.readouterr().out and len(lines(out / "gpu.jsonl")) == 1
    assert not list((out / "work").glob("run-*"))
