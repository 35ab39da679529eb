"""An accuracy beside that of always saying one class, in words."""

LEAST_P = 0.05  # from which two classifiers may be equally good; the usual one
_SHOWN_P = 1e-6  # below it nobody asks how small


def against_baseline(top1: float, *, baseline_top1: float, baseline_class: str, baseline_p: float) -> str:
    """Return the accuracy of always saying the largest class, and whether ``top1`` is better.

    Args:
        top1: Accuracy, 0-1.
        baseline_top1: Share of the largest class, 0-1.
        baseline_class: Its name.
        baseline_p: Of McNemar's exact test of the two, 0-1.
    """
    share = f"{baseline_top1:.2%}"
    if baseline_top1 == 1:
        return f"{share}   all images are of class {baseline_class!r}"
    p = f"p = {baseline_p:.2g}" if baseline_p >= _SHOWN_P else f"p < {_SHOWN_P:g}"
    test = f"({p}, McNemar's exact test)"
    if is_better(top1, baseline_top1=baseline_top1, baseline_p=baseline_p):
        return f"{share}   always saying {baseline_class!r}; the model is better {test}"
    verdict = "not shown to be better" if top1 > baseline_top1 else "not better"
    return f"{share}   the model is {verdict} than always saying {baseline_class!r} {test}"


def is_better(top1: float, *, baseline_top1: float, baseline_p: float) -> bool:
    """Return whether an accuracy is above that of always saying one class by more than chance makes likely."""
    return top1 > baseline_top1 and baseline_p < LEAST_P
