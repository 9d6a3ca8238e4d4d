"""Class by class: agreement with the teacher, accuracy, and what is taken for what."""

from typing import Any, Dict, List

import numpy as np

MANY, WORST = 100, 20  # of more classes only the worst are kept, and no matrix
TOP = 5


def agreement(logits: Any, teacher_logits: Any) -> Dict[str, Any]:
    """How often two sets of logits (N, K) name the same class, by the class that the teacher names.

    "share" is None for a class that the teacher never names.
    """
    return _by_class(logits.argmax(1), teacher_logits.argmax(1), logits.shape[1])


def evaluation(logits: Any, labels: Any) -> Dict[str, Any]:
    """Against labels 0..K-1 (N,): top-1 and top-5 in [0, 1], accuracy by class, and the confusion.

    "top5" is None with five classes or fewer. "confusion"[label][answer] counts images; None above 100 classes.
    """
    classes, labels = logits.shape[1], labels.astype(np.int64)
    answers = logits.argmax(1)
    top5 = None
    if classes > TOP:
        five = np.argpartition(-logits, TOP - 1, axis=1)[:, :TOP]
        top5 = float((five == labels[:, None]).any(1).mean())
    confusion = None
    if classes <= MANY:
        counts = np.bincount(labels * classes + answers, minlength=classes * classes)
        confusion = counts.reshape(classes, classes).tolist()
    return {
        "top1": float((answers == labels).mean()),
        "top5": top5,
        "by_class": _by_class(answers, labels, classes),
        "confusion": confusion,
    }


def _by_class(answers: Any, wanted: Any, classes: int) -> Dict[str, Any]:
    """Three lists: "class" (index), "images" (how many are of it) and "share" (of those, how many answers are it)."""
    images = np.bincount(wanted, minlength=classes)
    hits = np.bincount(wanted[answers == wanted], minlength=classes)
    shares: List[Any] = [float(hits[c]) / float(images[c]) if images[c] else None for c in range(classes)]
    kept = list(range(classes))
    if classes > MANY:
        occurring = [c for c in kept if images[c]]
        kept = sorted(occurring, key=lambda c: (shares[c], c))[:WORST]
    return {
        "class": kept,
        "images": [int(images[c]) for c in kept],
        "share": [shares[c] for c in kept],
        "note": "" if classes <= MANY else "the %d worst of %d classes" % (len(kept), classes),
    }
