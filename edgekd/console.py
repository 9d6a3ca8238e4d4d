"""What a person or a script sees: progress, tables, JSON and errors. No logic of the product."""

from __future__ import annotations

import json
import shlex
import signal
import textwrap
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column, Table
from rich.text import Text

from edgekd.errors import EdgekdError, Interrupted, StoppedAtOnce
from edgekd.files import plain
from edgekd.progress import CHECKPOINT, EVENTS, Gauge, images_per_step

if TYPE_CHECKING:
    from edgekd.pipeline import Result
    from edgekd.types import Teacher

WORDS = 100  # columns that the words of a progress bar take
LINE_EVERY_S = 5.0  # without a terminal, a line of figures at most this often
LINE, INDENTED = "\n", "\n        "  # an error's further lines stand below its first
out, err = Console(), Console(stderr=True)


@contextmanager
def errors(*, debug: bool, as_json: bool) -> Iterator[None]:
    """Turns what went wrong inside into a few lines on stderr and the exit code that belongs to it."""
    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError):  # the last: nobody reads on
        raise
    except StoppedAtOnce as caught:
        error: EdgekdError = Interrupted("stopped at once; the last checkpoint stands", signal=caught.signal)
    except KeyboardInterrupt:
        error = Interrupted(
            "stopped; what was finished is saved", signal=signal.SIGINT, fix="run the same command again to go on"
        )
    except EdgekdError as caught:
        error = caught
    except OSError as caught:
        error = EdgekdError(
            f"the system refused: {caught.strerror or caught}",
            code="E0403",
            why=str(caught),
            fix="mend that (disk full? no permission?) and run the same command again: finished stages stay",
        )
        error.exit_code = 4
        error.__cause__ = caught
    except Exception as caught:
        error = EdgekdError(
            f"edgekd itself failed: {type(caught).__name__}: {caught}",
            code="E7000",
            why="this is our bug",
            fix="run again with --debug and send us the traceback",
        )
        error.__cause__ = caught
    else:
        return
    if debug:
        traceback.print_exception(error)
    if as_json:
        facts = {"code": error.code, "what": error.what, "why": error.why, "fix": error.fix, "exit": error.exit_code}
        print(json.dumps({"error": facts}, indent=2))
    text = f"[bold red]error\\[{error.code}][/] {escape(error.what)}"
    for label, line in (("why", error.why), ("fix", error.fix)):
        text += f"\n  [bold]{label}[/]   {escape(line).replace(LINE, INDENTED)}" if line else ""
    text += f"\n  [bold]see[/]   edgekd explain {error.code}  [dim](exit {error.exit_code})[/]"
    err.print(text, soft_wrap=True, highlight=False)
    raise typer.Exit(error.exit_code)


class Saved(ProgressColumn):
    """When the training was last saved; asked at every refresh, since a step may take long."""

    def __init__(self, gauge: Callable[[], Gauge]) -> None:
        super().__init__()
        self.gauge = gauge

    def render(self, task: Task) -> Text:
        return Text("" if task.finished else self.gauge().saved(), style="dim")


class Display:
    """Progress of a command: a bar on a terminal, now and then a plain line elsewhere, nothing when quiet."""

    def __init__(self, quiet: bool, verbose: bool, no_progress: bool, as_json: bool) -> None:
        self.quiet, self.verbose, self.as_json = quiet, verbose, as_json
        self.bar = err.is_terminal and not (quiet or no_progress or as_json)
        self.gauge = Gauge(compact=self._narrow, everything=verbose)
        room = min(28, err.width - WORDS)  # columns that words leave for the bar
        texts = (
            "{task.completed:.0f}/{task.total:.0f}",
            "{task.fields[figures]}",
            "{task.fields[speed]}",
            "{task.fields[left]}",
        )
        self.progress = Progress(
            TextColumn("{task.description:<9}"),
            *((BarColumn(bar_width=room),) if room >= 6 else ()),
            *(TextColumn(text) for text in texts),
            Saved(lambda: self.gauge),
            console=err,
            disable=not self.bar,
            refresh_per_second=4,
        )
        self.printed = 0.0
        self.tasks: dict[str, Any] = {}

    @property
    def _narrow(self) -> bool:
        return self.bar and err.width < WORDS

    def training(self, folder: Path) -> None:
        """The output folder of what is going to be trained: its settings and checkpoints will lie there."""
        images = images_per_step(folder / "settings.json")
        self.gauge = Gauge(images, folder / CHECKPOINT, compact=self._narrow, everything=self.verbose)

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def say(self, line: str) -> None:
        """One line about a stage."""
        if not self.quiet:
            prose(line, indent=4, to=err, style="dim")

    def about(self, teacher: Teacher) -> None:
        """What was read, and in yellow what was assumed of it."""
        facts = teacher.images
        self.say(
            f"teacher: {teacher.architecture}, {len(teacher.classes)} classes, "
            f"images {facts.channels}x{facts.height}x{facts.width}"
        )
        for note in teacher.notes:
            self.say(f"  {note}")
        for warning in teacher.warnings:
            self.warn(warning)

    def warn(self, line: str) -> None:
        """A line that a person should read, in yellow."""
        if not self.quiet:
            warn([line])

    def log(self, phase: str, step: int, steps: int, **figures: float) -> None:
        """Figures of the training; satisfies edgekd.types.Log."""
        reading, now = self.gauge.read(phase, step, steps, figures), time.monotonic()
        if self.bar and phase not in EVENTS:
            fields: dict[str, Any] = {"figures": reading.figures, "speed": reading.speed, "left": reading.left}
            if phase not in self.tasks:
                self.tasks[phase] = self.progress.add_task(phase, total=steps, completed=step, **fields)
            self.progress.update(self.tasks[phase], completed=step, total=steps, **fields)
        elif not self.bar and (now - self.printed >= LINE_EVERY_S or step == steps):
            self.say(reading.line(phase, step, steps))
            self.printed = now

    def result(self, result: Result) -> None:
        """The table at the end of compress, or one JSON document."""
        self.progress.stop()
        if self.as_json:
            document = {
                "bundle": str(result.bundle.folder),
                "report": str(result.bundle.folder / "report.json"),
                "page": str(result.folder / "report.html"),
                "deployed": plain(result.deployed),
                "deployable": not result.broken,
                "broken_limits": result.broken,
                "seconds": round(result.seconds, 1),
                "sizing": plain(result.sizing),
                "fidelity": plain(result.bundle.manifest.fidelity),
                "measured": plain(result.report),
            }
            print(json.dumps(document, indent=2, ensure_ascii=False))
            return
        out.print(_result_table(result))
        sizing, folder = result.sizing, result.bundle.folder
        spec, profile = sizing.spec, result.profile
        from edgekd.deployed import told
        from edgekd.student import name_of

        out.print(f"student   {name_of(spec)}; next larger: {sizing.bound_by}", highlight=False)
        for precision, p in sizing.predicted.items():
            text = f"{p.latency_ms:.3g} ms, expected within {p.low_ms:.3g} to {p.high_ms:.3g}"
            out.print(f"predicted {profile.name} {precision}: {text}", highlight=False)
        _validity(result.report, compared=result.deployed.basis == "measured")
        prose(f"deploy    {told(result.deployed)}")
        verdict = "[green]every limit of the profile is met[/]" if not result.broken else ""
        verdict = verdict or f"[red]not deployable: {escape('; '.join(result.broken))}[/]"
        out.print(f"verdict   {verdict}  [dim]({result.seconds:.0f} s)[/]", highlight=False)
        files = {"bundle": folder, "report": folder / "report.json", "page": result.folder / "report.html"}
        for name, path in files.items():
            out.print(f"{name:<9} {escape(str(path))}", highlight=False, soft_wrap=True)
        out.print(
            f"next      copy the bundle to the device; there:  cd {folder.name} && python3 -m runner", highlight=False
        )

    def report(self, report: Mapping[str, Any], bundle: Path) -> None:
        """The table of bench, or the report as it is."""
        if self.as_json:
            print(json.dumps(plain(report), indent=2))
            return
        runtime, device = report["runtime"], report["device"]
        title = f"{device['name']}, {runtime['name']} {runtime['version']}, batch {report['batch']}"
        table = Table("graph", "MB", "p50 ms", "p90 ms", "p99 ms", "agreement", "top-1", title=title, title_style="")
        for name, graph in report["graphs"].items():
            t = graph["latency_ms"]
            table.add_row(
                name, f"{graph['mb']:.3f}", *(f"{t[q]:.3f}" for q in ("p50", "p90", "p99")),
                f"{graph['agreement']:.2%}", _percent(graph["accuracy"]),
            )  # fmt: skip
        out.print(table)
        _validity(report)
        if report.get("soak"):
            soak = report["soak"]
            prose(f"long run  {soak['graph']}: {soak['said']}")
        for warning in report.get("warnings", ()):
            prose(f"beware    {warning}")
        out.print(f"report    {escape(str(bundle / 'report.json'))}", highlight=False, soft_wrap=True)
        then(f"edgekd report {shlex.quote(str(bundle))}")


def prose(text: str, *, indent: int = 10, to: Console | None = None, style: str = "") -> None:
    """Words for people: wrapped on a terminal, a path stays whole; elsewhere one line. indent: columns of a label."""
    to = to or out
    if to.is_terminal:
        text = textwrap.fill(
            text, to.width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
        )
    to.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def then(command: str) -> None:
    """The last line of what a command says to people: what to type next."""
    out.print(f"next      {command}", highlight=False, markup=False, soft_wrap=True)


def warn(lines: Iterable[str]) -> None:
    """Lines that a person should read, in yellow on stderr."""
    for line in lines:
        prose(f"warning: {line}", indent=4, to=err, style="yellow")


def _result_table(result: Result) -> Table:
    report, sizing = result.report, result.sizing
    table = Table(
        Column("", no_wrap=True), "top-1", "agree", "params", "MACs", "MB", "p50 ms", "p90 ms", caption_justify="left",
        caption="agree: with the teacher; params, MACs: millions; MB: of the graph; ms: one batch, on this machine",
    )  # fmt: skip
    costs = {"teacher": sizing.teacher, **dict.fromkeys(result.profile.precisions, sizing.student)}
    for name, of in costs.items():
        graph = report["graphs"].get(name)
        row = [f"student {name}" if name != "teacher" else name]
        if graph is None:
            table.add_row(*row, "-", "-", _millions(of.parameters), _millions(of.macs), "-", "-", "-")
            continue
        t, agreement = graph["latency_ms"], "-" if name == "teacher" else f"{graph['agreement']:.2%}"
        row += [_percent(graph["accuracy"]), agreement, _millions(of.parameters), _millions(of.macs)]
        table.add_row(*row, f"{graph['mb']:.3f}", f"{t['p50']:.3f}", f"{t['p90']:.3f}")
    return table


def _validity(report: Mapping[str, Any], *, compared: bool = False) -> None:
    """What was measured and whether it counts. compared: a line below says which graph is the faster one here."""
    if report["evaluated"]:
        note = f"top-1 on {report['evaluated']:,} images of the evaluation data"
    else:
        note = "no accuracy: none was asked for (--eval-data)"
    prose(f"measured  {note}; agreement with the teacher on {report['samples']:,} generated images")
    if report["runtime"].get("note"):
        prose(f"          {report['runtime']['note']}")
    p50 = {name: graph["latency_ms"]["p50"] for name, graph in report["graphs"].items()}
    if not compared and p50.get("int8", 0) > p50.get("fp32", float("inf")):
        out.print("          int8 is slower than fp32 on this machine", highlight=False)
    if not report["valid"]:
        prose(f"latency   not valid: {'; '.join(report['reasons'])}", style="yellow")


def _millions(count: int) -> str:
    return f"{count / 1e6:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
