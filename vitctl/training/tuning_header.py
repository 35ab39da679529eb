"""What the header says of the weights that are trained: how many, by which mode, at which rates."""

from vitctl.conversation import Setting
from vitctl.models.describe import num_parameters
from vitctl.primitives.formatting import format_count
from vitctl.recipes.sections import Tuning
from vitctl.training.frozen import num_all_parameters
from vitctl.training.job import Job
from vitctl.training.optimizer import describe_groups
from vitctl.training.prepared_run import PreparedRun
from vitctl.training.tuning import parse_mode

_MOST_RATES = 4  # more of them are told as a range


def trained_settings(run: PreparedRun) -> list[Setting]:
    """Return the rows: what is trained, and the rates, where they differ."""
    job = run.job
    number, of = num_parameters(job.model), num_all_parameters(job.model)
    value = f"all {format_count(of)} parameters"
    if number < of:
        value = f"{format_count(number)} of {format_count(of)} parameters ({100 * number / of:.2g} %)"
    parts = (run.plan.tuning.reason if number < of else "", _words(job.recipe.tuning, is_all=number == of))
    return [Setting("trained", value, ": ".join(part for part in parts if part)), *_rates(job)]


def _words(tuning: Tuning, *, is_all: bool) -> str:
    name, number = parse_mode(tuning.mode)
    what = {
        "full": "" if is_all or tuning.freeze else "all that the model does not keep fixed",
        "head": "the head",
        "attention": "attention, position embeddings, the head",
        "norm": "norms, the head",
        "bias": "biases, the head",
        "last": f"the last {'block' if number == 1 else f'{number} blocks'} and what follows",
        "lora": f"factors of rank {number}, times {tuning.lora_scale:g}, beside linear layers of the blocks; the head",
    }[name]
    frozen = f"frozen: {', '.join(tuning.freeze)}" if tuning.freeze else ""
    return "; ".join(part for part in (what, frozen) if part)


def _rates(job: Job) -> list[Setting]:
    sizes: dict[float, int] = {}
    for group in describe_groups(job.groups()):
        sizes[group.lr_scale] = sizes.get(group.lr_scale, 0) + group.num_parameters
    if len(sizes) == 1:
        return []
    if len(sizes) > _MOST_RATES:
        value = f"x{min(sizes):.2g} to x{max(sizes):.3g}, {len(sizes)} of them"
    else:
        value = ", ".join(f"x{scale:.3g} for {format_count(size)}" for scale, size in sorted(sizes.items()))
    decay, scales = job.recipe.optimizer.layer_decay, job.recipe.tuning.lr_scale
    parts = [f"layer decay {decay:g}"] if decay < 1 else []
    parts += [f"--lr-scale {', '.join(scales)}"] if scales else []
    return [Setting("rates", value, "; ".join(parts))]
