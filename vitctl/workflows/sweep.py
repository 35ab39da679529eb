"""``vitctl sweep``: every combination of settings, with several seeds or folds, each a run folder; one table of all.

Each run is a process of its own, so that it is what ``vitctl finetune`` would make. Nothing is started before all of
the combinations are checked. What is finished stays: the same command goes on.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vitctl.conversation import Conversation, Setting
from vitctl.errors import SettingError
from vitctl.primitives.atomic import own_folder
from vitctl.primitives.formatting import format_number
from vitctl.primitives.outputs import check_elsewhere, check_writable, writing
from vitctl.results.sweep import SweepDryRunResult, SweepResult
from vitctl.settings.sweep import SweepConfig
from vitctl.sweeping.cells import Cell, cells_of
from vitctl.sweeping.choosing import Chosen, check_choice, choose_among, for_choosing, tell_what_is_added
from vitctl.sweeping.files import PICTURE, write_tables
from vitctl.sweeping.plan_file import settled
from vitctl.sweeping.planning import (
    PlannedRun,
    check_place,
    out_of,
    planned_runs,
    seeds_of,
    split_seed_of,
    threads_of,
    write_plan,
)
from vitctl.sweeping.pricing import price
from vitctl.sweeping.running import run_all
from vitctl.sweeping.table import table_of


def run(config: SweepConfig, conversation: Conversation) -> SweepResult | SweepDryRunResult:
    """Run what is not finished and return the table; with ``dry_run`` what it would cost and could tell.

    Raises:
        VitctlError: A setting cannot be used, or a run failed; what is finished stays.
        InterruptedRun: The user stopped it; the same command goes on.
    """
    config = for_choosing(settled(config))
    cells, out = cells_of(config), out_of(config)
    check_choice(config, cells)
    with writing(out):
        check_writable(out)
        check_place(out, config)
    check_elsewhere(out, [spec for cell in cells for spec in (cell.given.get("data"), cell.given.get("val")) if spec])
    runs = planned_runs(cells, config, out)
    conversation.header("vitctl sweep", _header(config, cells, runs, out))
    if config.dry_run:
        tell_what_is_added(config, conversation)
        return price(cells, runs, config, out, conversation=conversation)
    with _own(out):
        with writing(out):
            write_plan(out, config, cells, runs)
        run_all(runs, jobs=config.jobs, conversation=conversation)
        return _result(config, choose_among(cells, runs, config, out, conversation), out)


@contextmanager
def _own(out: Path) -> Iterator[None]:
    """Keep the folder as this sweep's while the block runs.

    Raises:
        SettingError: Another one works on it, or it cannot be made.
    """
    with ExitStack() as stack:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            is_own = stack.enter_context(own_folder(out))
        if not is_own:
            raise SettingError(
                f"--out {out} is a sweep that another vitctl works on. Wait for it, or give another folder.",
                field="out",
            )
        yield


def _result(config: SweepConfig, chosen: Chosen, out: Path) -> SweepResult:
    runs, table = chosen.runs, table_of(chosen.cells, chosen.runs)
    result = SweepResult(
        out=str(out),
        cells=table.cells,
        seeds=seeds_of(config),
        folds=config.folds,
        num_val=table.num_val,
        validated_on="folds" if config.folds else "val" if config.dev_fraction is None else "dev",
        selected=chosen.selected,
        retrained=chosen.retrained,
        soup=chosen.soup,
        notes=table.notes,
    )
    from vitctl.reporting.sweep_figures import draw_sweep  # here, not above: the runs start a second sooner

    with writing(out):
        write_tables(out, result, runs)
        draw_sweep([cell.as_json() for cell in result.cells], out / PICTURE, title=_title(config))
    return result


def _title(config: SweepConfig) -> str:
    where = "on validation images" if config.dev_fraction is None else "on development images"
    if config.folds:
        where = f"in {config.folds}-fold cross-validation"
    return f"top-1 {where}, {format_number(len(seeds_of(config)), 'seed')}"


def _header(config: SweepConfig, cells: tuple[Cell, ...], runs: tuple[PlannedRun, ...], out: Path) -> list[Setting]:
    seeds = seeds_of(config)
    each = f"{len(cells)} x {format_number(len(seeds), 'seed')}" + f" x {config.folds} folds" * bool(config.folds)
    return [
        Setting("runs", str(len(runs)), f"combinations: {each}" if len(cells) > 1 else each),
        Setting("seeds", f"{seeds[0]}" + f" to {seeds[-1]}" * (len(seeds) > 1)),
        Setting("split", f"seed {split_seed_of(config)}", "the same for all runs, so that differences are paired"),
        Setting("at a time", str(config.jobs), f"{format_number(threads_of(config, out), 'thread')} each"),
        Setting("out", str(out)),
    ]
