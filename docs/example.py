"""edgekd from Python, step by step:  python docs/example.py TEACHER OUT [EVAL_DATA.npz] [--fast]

--fast: a few steps of the method rdskd on the smallest student, to see every call work. It learns little.
"""

# %% What is read. A file of edgekd.save_teacher says everything; for bare weights see docs/teachers.md.
import sys
from pathlib import Path

import edgekd

fast = "--fast" in sys.argv
teacher_file, out, *rest = [Path(word) for word in sys.argv[1:] if word != "--fast"]
teacher = edgekd.load_teacher(teacher_file)
profile = edgekd.load_profile("cpu")
print(f"{teacher.architecture}, {len(teacher.classes)} classes, for {profile.summary}")


# %% Progress: a function of a phase, a step of how many, and figures. Anything may stand here: a bar, a log, a GUI.
def progress(phase: str, step: int, steps: int, **figures: float) -> None:
    shown = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
    print(f"  {phase} {step}/{steps}  {shown}")


# %% How the student is trained. Without these: the method rdskd_plus, the budget fast, the student that fits best.
how = {"method": "rdskd", "family": "cnn:4"} if fast else {}
few = {"batch": 32, "latent": 8, "generator_width": 8, "generator_steps": 5, "student_steps": 5} if fast else {}

# %% A student alone. Ctrl-C saves; the same call on the same folder goes on.
found = edgekd.distill(teacher, profile, out / "run", settings=few, log=progress, **how)
print(f"{found.sizing.student.parameters:,} parameters; the teacher has {found.sizing.teacher.parameters:,}")

# %% Its graphs: pixels 0..255 in, logits out, each held against torch.
for precision, path in edgekd.export_student(found, profile, out / "graphs", warn=print).items():
    print(f"{precision}: {path}, {path.stat().st_size / 1e6:.3f} MB")

# %% Or the whole way. Here it goes on behind the student of above, since folder and settings are the same.
eval_data = edgekd.load_eval_data(rest[0], teacher.images, teacher.classes) if rest else None
result = edgekd.compress(teacher, profile, out / "run", settings=few, eval_data=eval_data, say=print, **how)
print(f"deploy {result.deployed.precision}: {'; '.join(result.broken) or 'every limit is met'}")

# %% Measured again, on this machine. edgekd.bench_on takes boards: docs/boards.md.
report = edgekd.bench(result.bundle.folder, quick=True)
for name, graph in report["graphs"].items():
    print(f"{name}: p50 {graph['latency_ms']['p50']:.3f} ms, agreement {graph['agreement']:.1%}")
print("valid" if report["valid"] else f"not valid: {'; '.join(report['reasons'])}")
