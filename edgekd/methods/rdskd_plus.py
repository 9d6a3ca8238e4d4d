"""RDSKD+: the three aims of RDSKD under its exponential rule, on images from a prior, a generator or both, in rounds.

RDSKD (Han et al., ICASSP 2021) trains one generator, then the student. Here images are made in rounds between which the
student learns: a fresh generator per round where there is no prior, else images of the prior that are refined pixel by
pixel (DeepInversion, CVPR 2020). A generator that makes its images batch by batch (Fast-DFKD, AAAI 2022) makes them all
first. All stay in a bank and are replayed; what is warped or mixed the teacher labels anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd import collapse, losses, ranks
from edgekd.augment import mixed_up, moved, warped
from edgekd.bank import Bank, normalised
from edgekd.checkpoint import Checkpoint
from edgekd.compute import adam, answers_of, descend, log_student, logits_of, one_cycle, student_optimizer
from edgekd.early_stop import agreement, rounds_left
from edgekd.generator import Pixels, images_from, new_generator
from edgekd.grid import write_grid
from edgekd.history import no_history, remember
from edgekd.observe import Observed, common_maps
from edgekd.prior import open_prior
from edgekd.rdskd_plus_settings import BUDGETS, DISTANT, SCALES, Config, derived
from edgekd.room import capacities, numbers, parts, per_drawing, per_pass
from edgekd.types import Run, Sampler, Teacher

__all__ = ["BUDGETS", "Config", "derived", "distill"]

UNSEEN = 10_000  # between the seeds of a training and of its images held out


def distill(teacher: Teacher, student: nn.Module, config: Config, run: Run) -> Sampler:
    """Trains `student` in place on images that no customer made; gives a sampler of further such images.

    The student's last state counts; nothing here can open a data set. Same run.seed, same result, on one device type.
    """
    config, facts, classes = derived(config, teacher), teacher.images, len(teacher.classes)
    rounds, image_rounds, iterations = config.rounds or 1, config.image_rounds(), config.batch_iterations or 1
    lasting = iterations > 1  # one generator, which makes all images before the student learns
    image_steps = (config.image_steps or 0) // image_rounds
    image_steps -= image_steps % iterations if image_steps > iterations else 0  # whole batches
    young = image_steps // (8 if lasting else 2)  # steps of a generator whose images are not kept yet
    drawn, replayed = config.drawings(), round(config.batch * (config.made_share or 0.0))
    rng, pens = (torch.Generator(run.device).manual_seed(run.seed) for _ in range(2))  # pens: of the prior
    source = open_prior(config.prior or "none", facts)
    scales = SCALES | ({"batch_norm": DISTANT} if lasting else {})
    rules = {"batch_norm": losses.bounded_ratio} if config.generated else {}  # generators start far from it
    hard_from = max(1, rounds // 3)  # round from which images are made to be hard for the student: it has learnt before
    since = 0 if source or not config.adversarial else hard_from  # generators': of a prior all held out are alike
    student_steps = config.student_steps // rounds
    given, made, lessons = (
        Bank(run.folder / f"{name}.u8", facts, capacity=most, classes=classes, spare=more, device=run.device)
        for name, (most, more) in capacities(config, facts).items()
    )
    maker = _maker(config, teacher, run, round_=0)
    z = nn.Parameter(torch.zeros(config.image_batch, config.latent, device=run.device), requires_grad=lasting)
    history = no_history(teacher)
    groups: list[dict[str, Any]] = [{"params": maker.parameters()}, {"params": [z], "lr": config.latent_lr}]
    maker_lr = config.generator_lr or 0.0 if config.generated else config.image_lr
    optim_m = adam(groups[: 1 + lasting], maker_lr, (0.5, 0.999))
    optim_s = student_optimizer(student, config.optimizer, config.student_lr)
    student_lr = optim_s.param_groups[0]["lr"]
    checkpoint = Checkpoint(
        run.folder / "distillation.ckpt",
        rng=rng, pens=pens, given=given, made=made, lessons=lessons,
        maker=maker, latents=nn.ParameterList([z]), history=history, optim_m=optim_m, student=student, optim_s=optim_s,
    )  # fmt: skip
    start = {"image": 0, "lesson": 0, "student": 0, "renewals": 0}  # of a round
    at = checkpoint.restore(
        {"drawn": 0, "round": 0, "batches": 0, "rounds": rounds, "references": {}, "agreements": [], **start}
    )

    def sample(n: int) -> Tensor:
        with torch.no_grad():
            if source:
                return normalised(source(n, pens), facts)
            return images_from(maker, torch.randn(n, config.latent, generator=rng, device=run.device))

    def held_out() -> Iterator[Tensor]:
        """Of a prior the same each time: what changes is the student."""
        eyes = torch.Generator(run.device).manual_seed(run.seed + UNSEEN)
        for n in parts(config.held_out or 1, per_pass(numbers(facts))):
            yield normalised(source(n, eyes), facts) if source else sample(n)

    while source and at["drawn"] < drawn and len(given) < given.capacity:
        pixels = source(min(per_drawing(numbers(facts)), drawn - at["drawn"]), pens)
        logits = answers_of(teacher.model, normalised(pixels, facts))
        at["drawn"] += len(pixels)
        if drawn > given.capacity:  # enough to choose from: classes that are common in it fill up first
            kept = given.lacking(logits)
            pixels, logits = pixels[kept], logits[kept]
        given.add_pixels(pixels, logits)
        run.log("prior", at["drawn"], drawn)
        checkpoint.keep(at)

    weight = 1.0 if config.features is None else config.features
    alike = common_maps(teacher, student) if weight > 0 and config.hints != 0 else None
    hints = 0 if alike is None else rounds * student_steps if config.hints is None else config.hints
    of_each_round = (config.lesson_steps or 0) // rounds

    def lessons_until(round_: int) -> int:
        """Made before it; none for steps that are held to feature maps, as those are not kept."""
        return of_each_round * max(0, round_ * student_steps - hints) // max(1, student_steps)

    def lesson(step: int) -> tuple[Tensor, Tensor | None]:
        fresh = config.batch - (replayed if len(made) else 0)
        if source or not fresh:
            first = (given if source else made).sample(max(1, fresh), rng, balanced=True)
            return _lesson(config, step, first, made, rng)
        x = sample(fresh)
        known = None if config.warp or config.mixed or of_each_round else answers_of(teacher.model, x)  # labelled later
        return _lesson(config, step, (x, known), made, rng)

    def shown(step: int) -> tuple[Tensor, Tensor | None]:
        """A batch of step `step` of this round, with the logits where they are known."""
        learnt = len(lessons) and at["round"] * student_steps + step >= hints
        return lessons.sample(config.batch, rng) if learnt else lesson(step)

    student.train()
    while (round_ := at["round"]) < at["rounds"]:
        for step in range(at["image"], image_steps if round_ < image_rounds else 0):
            if step == 0:  # a fresh generator, or fresh images to refine
                maker.load_state_dict(_maker(config, teacher, run, round_, at["renewals"]).state_dict())
                if isinstance(maker, Pixels):
                    maker.images.data.copy_(given.sample(config.image_batch, rng, balanced=True)[0])
                optim_m.state.clear()
            if step % iterations == 0:
                z.data.normal_(generator=rng)
                optim_m.state.pop(z, None)
            x = images_from(maker, z)
            view = moved(x, facts, rng, shift=config.shift or 0, mirror=bool(config.shift))
            logits = logits_of(teacher.model, view, observed := Observed())
            momentum = min(config.batch_norm_momentum or 0.0, at["batches"] / (at["batches"] + 1))
            terms = _terms(config, x, logits)
            if config.batch_norm:
                nearness = losses.batch_norm_distance if lasting else losses.batch_norm
                terms["batch_norm"] = nearness(observed.batch_norms, list(history), momentum=momentum)
            if config.adversarial and round_ >= hard_from:
                student.eval()
                terms["adversarial"] = losses.masked_adversarial(student=logits_of(student, view), teacher=logits)
                student.train()
            batch, place = divmod(step, iterations)
            epoch = max(1, config.epoch // iterations)
            if batch % epoch == 1 % epoch or batch == 0:  # as published: an epoch's second step
                at["references"][str(place)] = {name: term.item() for name, term in terms.items()}
            references = at["references"][str(place)]  # of the same step of an earlier batch
            loss_m = torch.stack([
                getattr(config, name) * rules.get(name, losses.bounded_increment)(
                    term, x.new_tensor(references[name]) if config.increments else term, scale=scales[name]
                )
                for name, term in terms.items()
            ]).sum()  # fmt: skip
            descend(loss_m, optim_m)
            if config.generated and collapse.half_way(step, 2 * young, logits, at["renewals"]):
                at |= {"image": 0, "renewals": at["renewals"] + 1, "batches": 0}
                for statistic in history:  # of images that are not wanted
                    statistic.zero_()
                run.log("collapse", at["renewals"], collapse.RENEWALS, spread=collapse.spread(logits))
                break
            last = step == image_steps - 1
            if last or (step + 1) % iterations == 0:
                if config.batch_norm_momentum:
                    remember(history, observed.batch_norms, momentum=momentum)
                    at["batches"] += 1
                if last or (config.generated and step >= young):
                    made.add(x, lambda kept: answers_of(teacher.model, kept))
            if step % 20 == 0 or last:
                figures = {name: term.item() for name, term in terms.items()}
                run.log("images", round_ * image_steps + step + 1, image_rounds * image_steps, **figures)
            at["image"] = step + 1
            checkpoint.keep(at)
        if at["image"] < image_steps and round_ < image_rounds:
            continue
        if len(at["agreements"]) == round_:  # on images of a generator, or strokes, that the student has not seen
            at["agreements"].append(agreement(teacher.model, student, held_out()))
            at["rounds"] = rounds_left(config.patience, at["agreements"], rounds, at["rounds"], since=since)
            run.log("held out", round_ + 1, at["rounds"], agreement=at["agreements"][-1])
            if ranks.first():
                write_grid(*(made if len(made) else given).latest(512), run.folder / "images.png")
        before, behind = lessons_until(round_), lessons_until(round_ + 1)
        for step in range(at["lesson"], behind - before):
            x, _ = lesson(step)
            lessons.add(x, lambda kept: answers_of(teacher.model, kept))
            if step % 20 == 0 or step == behind - before - 1:
                run.log("lessons", before + step + 1, lessons_until(at["rounds"]))
            at["lesson"] = step + 1
            checkpoint.keep(at)
        of = at["rounds"] * student_steps
        for step in range(at["student"], student_steps):
            now = round_ * student_steps + step
            optim_s.param_groups[0]["lr"] = student_lr * one_cycle(now / of)
            x, known = shown(step)
            maps = alike if now < hints else None
            seen, wanted = (Observed(maps.student), Observed(maps.teacher)) if maps else (None, None)
            with torch.no_grad():
                target = logits_of(teacher.model, x, wanted) if known is None or wanted else known
            guess = logits_of(student, x, seen)
            loss = losses.distillation(student=guess, teacher=target, temperature=config.temperature)
            if seen and wanted:
                loss = loss + weight * losses.feature_distance(student=seen.maps, teacher=wanted.maps)
            descend(loss, optim_s)
            log_student(run, now, of, loss=loss, guess=guess, target=target)
            at["student"] = step + 1
            checkpoint.keep(at)
        at |= {"round": round_ + 1, **start}
    student.eval()
    maker.eval()
    return sample


def _maker(config: Config, teacher: Teacher, run: Run, round_: int, renewals: int = 0) -> nn.Module:
    """What makes images: a generator, of a round or of the first one for all, or the pixels themselves."""
    facts = teacher.images
    if not config.generated:
        return Pixels(torch.zeros(config.image_batch, facts.channels, facts.height, facts.width, device=run.device))
    seed = 1_000 * run.seed + round_ + 1_000_000 * renewals  # one per round: what one of them cannot show, another may
    latent, width, tones = config.latent, config.generator_width, bool(config.tones)
    return new_generator(facts, latent=latent, width=width, seed=seed, device=run.device, tones=tones).train()


def _terms(config: Config, x: Tensor, logits: Tensor) -> dict[str, Tensor]:
    """The losses of images (N, C, H, W) by what the teacher says of them, by their names in Config."""
    if not config.generated:  # balanced by the classes that are asked for
        wanted = torch.arange(len(x), device=x.device) % logits.shape[1]
        return {"authenticity": F.cross_entropy(logits.float(), wanted)}
    return {
        "authenticity": losses.one_hot(logits),
        "balance": losses.information_entropy(logits),
        "diversity": losses.pair_diversity(x, logits),
    }


def _lesson(
    config: Config, step: int, first: tuple[Tensor, Tensor | None], made: Bank, rng: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """A student's batch (N, C, H, W), and the teacher's logits (N, K) where they are still true.

    first: images of the prior with their logits, or fresh ones of the generator.
    """
    x, known = first
    if len(x) < config.batch:
        replayed, logits = made.sample(config.batch - len(x), rng, balanced=True)
        x, known = torch.cat([x, replayed]), None if known is None else torch.cat([known, logits])
    if config.warp:
        x = warped(x, rng, strength=config.warp, mirror=x.shape[1] == 3)
    share = config.mixed or 0.0
    if mix := (step + 1) * share % 1 < share:  # evenly spread over the steps
        x = mixed_up(x, rng)
    return x, None if config.warp or mix else known
