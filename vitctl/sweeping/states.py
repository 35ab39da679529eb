"""What has become of a planned run: is it finished, has it diverged, is it the one that was planned?"""

from vitctl.errors import DataError, SettingError
from vitctl.primitives.documents import peek_document, why_unreadable
from vitctl.run_folders import layout
from vitctl.settings.finetune import FinetuneConfig
from vitctl.settings.option import described
from vitctl.sweeping.planning import PlannedRun


def is_finished(run: PlannedRun) -> bool:
    """Return whether it has come to its end."""
    return layout.is_finished(run.out)


def is_diverged(run: PlannedRun) -> bool:
    """Return whether its loss is no longer finite, so that it has no end."""
    return not is_finished(run) and (run.diverged.is_file() or (run.out / layout.DIVERGENCE).is_file())


def is_done(run: PlannedRun) -> bool:
    """Return whether there is nothing left to do."""
    return is_finished(run) or is_diverged(run)


def check_whole(run: PlannedRun) -> None:
    """Check that what a finished run says of itself can be read.

    Raises:
        DataError: It is damaged, so that nobody knows which run it is.
    """
    for path in (run.out / layout.CONFIG, run.out / layout.SUMMARY):
        if (why := why_unreadable(path)) is not None or not path.exists():
            raise DataError(
                f"{path} cannot be read: {why or 'it is not there'}; expected that of a finished run. Remove "
                f"{run.out}, and the same command trains it again."
            )


def check_same(run: PlannedRun) -> None:
    """Check that the run in the folder is the one that was planned: its numbers, whose seed it is, its list of images.

    Names of data, models and recipes a run resolves; that they are the same the plan of the sweep says. The list of
    ``--clean`` has its content in its name.

    Raises:
        SettingError: It is another.
    """
    config, known = peek_document(run.out / layout.CONFIG), described(FinetuneConfig)
    for name, value in run.given.items():
        planned = known[name].as_json(value)
        is_number = isinstance(planned, int | float) and not isinstance(planned, bool)
        if (is_number or name == "clean") and name in config and name != "num_threads" and config[name] != planned:
            raise SettingError(
                f"{run.out} is a run with {name} {config[name]}; expected {planned}. Remove it, or give another folder "
                "with --out.",
                field="out",
            )
