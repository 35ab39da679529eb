"""``vitctl finetune``: from a pretrained model and images to a run folder.

The order matters: everything that can be wrong is found before the first step, cheapest first, and
nothing is written before that.
"""

from contextlib import ExitStack
from pathlib import Path

from vitctl.conversation import Conversation
from vitctl.data.listed_images import read_listed_images
from vitctl.data.resized import check_worth_keeping
from vitctl.data.scan import num_scan_threads
from vitctl.data.source import SourceOptions
from vitctl.data.training_data import check_classes, check_training_data, open_training_sources
from vitctl.evaluation.metrics import confusion
from vitctl.models.choices import decide_image_size
from vitctl.primitives.interrupts import stop_requests
from vitctl.primitives.outputs import check_elsewhere
from vitctl.primitives.process_group import join_processes
from vitctl.reporting.first_batches import draw_first_batches
from vitctl.results.finetune import DryRunResult, FinetuneResult
from vitctl.run_folders.kept_logits import KeptLogits, write_logits
from vitctl.run_folders.layout import SUMMARY
from vitctl.run_folders.selection import KeptSelection
from vitctl.settings.finetune import FinetuneConfig
from vitctl.settings.words import DEMO
from vitctl.sweeping.rate_search import choose_rate
from vitctl.training.determinism import deterministic_kernels
from vitctl.training.earlier import moved_data_are_told, settings_to_go_on
from vitctl.training.going_on import find_beginning, made_with, restore, resumed_settings
from vitctl.training.head_start import fill_in_ridge_head, start_head
from vitctl.training.header import cost_settings, header_settings
from vitctl.training.image_cache import with_resized_images
from vitctl.training.job import build_job
from vitctl.training.opening import open_to_train
from vitctl.training.plan import decide_asked_size, decide_interpolation, first_choices, make_plan
from vitctl.training.prepared_run import PreparedRun
from vitctl.training.recorder import Recorder, identity_of, run_folder_of, write_start
from vitctl.training.resources import full_is_a_sentence
from vitctl.training.run_folder import RunFolder, check_out
from vitctl.training.state import Best, Clock
from vitctl.training.summary import describe_cost, doubt, summarise
from vitctl.training.time_limit import length_in_time
from vitctl.training.trainer import new_state, train
from vitctl.training.trial import check_batch_norm, measure_cost


def run(config: FinetuneConfig, conversation: Conversation) -> FinetuneResult | DryRunResult:
    """Fine-tune and return the summary; with ``dry_run`` the cost instead.

    Raises:
        VitctlError: A setting, the data, the weights or the device cannot be used; nothing was written.
        InterruptedRun: The user stopped it; what was trained is saved.
    """
    chosen = None
    if config.tries_rates:
        first = first_choices(config)
        if not config.dry_run:
            check_out(first.out.value, overwrite=config.overwrite)
        config, chosen = choose_rate(config, first.out.value, first.values, conversation)
    clock = Clock()
    if config.resume is not None:
        config = settings_to_go_on(config)
    with deterministic_kernels(config.deterministic):
        return _run(config, clock, conversation, chosen)


def _run(
    config: FinetuneConfig, clock: Clock, conversation: Conversation, chosen: KeptSelection | None
) -> FinetuneResult | DryRunResult:
    prepared = prepare(config, conversation, clock).by_choice(chosen)
    job, out = prepared.job, prepared.plan.out.value
    if config.dry_run:
        conversation.header("vitctl finetune", header_settings(prepared))
        cost = measure_cost(job)
        conversation.header("cost of this run (nothing was written)", cost_settings(cost, job))
        return describe_cost(prepared, cost)
    circumstances = made_with(prepared)
    beginning = find_beginning(prepared, circumstances, conversation)
    if beginning.summary is not None:
        return beginning.summary
    checkpoint = beginning.checkpoint
    going_on = resumed_settings(prepared, circumstances, checkpoint)
    conversation.header("vitctl finetune", [*header_settings(prepared), *going_on])
    if config.cache == "resized":
        job = with_resized_images(job, prepared.data.sizes, conversation)
    ridge = None
    if prepared.has_ridge_head and checkpoint is None:
        with full_is_a_sentence(job, out):
            ridge = fill_in_ridge_head(job, conversation, name=prepared.loaded.name)
    place = run_folder_of(
        job.processes, out, overwrite=config.overwrite, goes_on_in=beginning.goes_on_in, conversation=conversation
    )
    with ExitStack() as stack:
        with job.processes.together():
            folder = stack.enter_context(place)
        stop = stack.enter_context(stop_requests())
        grows_in = folder.path if folder else out
        with full_is_a_sentence(job, out, place=grows_in):
            recorder = Recorder(
                folder,
                identity_of(prepared),
                job.batches,
                made_with=circumstances,
                save_every=config.save_every,
                saved_step=None if checkpoint is None else checkpoint.step,
            )
            state = new_state(job)
            state.clock = clock
            with recorder:
                if checkpoint is not None:
                    restore(state, checkpoint, folder, job, made_with=circumstances)
                if checkpoint is None or beginning.is_moved:
                    write_start(prepared, folder)
                job.processes.keep_logs(grows_in)
                if ridge is not None:
                    state.linear_probe = ridge.result()
                    recorder.validation(ridge.score)
                    recorder.save(state)  # embedding the training images took its time
                train(job, state, recorder, stop, out=out, conversation=conversation, draw=draw_first_batches)
            if state.linear_probe is not None and (advice := doubt(state.linear_probe, state.best.score)):
                conversation.warn(advice)
            summary = summarise(prepared, state, folder)
            _write_end(prepared, state.best, summary, folder)
            return summary


def prepare(config: FinetuneConfig, conversation: Conversation, clock: Clock | None = None) -> PreparedRun:
    """Resolve every setting, check every input and load the model; writes nothing."""
    # settings and paths first, which are checked in no time; then lists of files, then weights, then every image
    first = first_choices(config)
    spec, recipe, out = first.model.value, first.values, first.out.value
    processes = join_processes(first.device.value)
    if not config.dry_run:
        check_out(out, overwrite=config.overwrite)
    with processes.first_here_first(), moved_data_are_told(config):
        sources = open_training_sources(
            first.data_spec,
            val=config.val,
            val_fraction=config.val_fraction,
            options=SourceOptions.of(config),
            group_pattern=config.group_pattern,
        )
    check_classes(sources)
    listed = None if config.clean is None else read_listed_images(config.clean)
    check_elsewhere(out, (sources.source.spec, sources.val_spec))
    if config.cache == "resized":
        check_worth_keeping(sources.source)

    # the model before the scan: a wrong name, weights or size are known in seconds, decoding every image takes minutes
    conversation.line(f"loading {spec}")
    wanted = decide_asked_size(config.image_size, recipe, recipe_name=first.recipe.value, run=first.run)
    opened = open_to_train(config, first, wanted)
    pretrained = opened.geometry
    data = check_training_data(
        sources,
        val_fraction=config.val_fraction,
        seed=config.seed_of_split,
        dev_fraction=config.dev_fraction,
        fold=config.fold,
        listed=listed,
        skip_bad=config.on_bad_image == "skip",
        num_threads=num_scan_threads(),
        conversation=conversation,
        max_value=config.max_value,
        own_max_value=opened.preprocessing.max_value,
        processes=processes,
    )

    # after the scan: a size that is not given follows from the images that decode
    size = wanted or decide_image_size(
        data.sizes,
        pretrained.image_size,
        pretrained.patch_size,
        is_demo=spec == DEMO,
        as_trained=None if first.run is None else first.run.reason,
    )
    interpolation = decide_interpolation(
        config.pos_embed_interp, recipe, weights=config.weights, recipe_name=first.recipe.value
    )
    prepared = opened.at(size.value, interpolation=interpolation)
    loaded = prepared.loaded
    # the head after the size: random weights are built anew at the size, and a head put on before would be lost
    head, has_ridge_head = start_head(
        loaded, data.train.class_names, given=config.head, by_recipe=recipe.head.init, seed=config.seed
    )
    # the rest after all of these: what is left of the images says how long to train, and in which batches
    plan = make_plan(config, first, data, image_size=size, interpolation=interpolation, head=head)
    job = build_job(config, plan, data, prepared, processes)
    if config.time_limit is not None:
        plan, job = length_in_time(
            config, plan, job, clock or Clock(), conversation, sizes=data.sizes, has_ridge_head=has_ridge_head
        )
    check_batch_norm(job)
    for note in (*data.source.sentences(data.train, *([] if data.val is None else [data.val])), *prepared.notes):
        conversation.warn(note)
    if spec == DEMO and Path(DEMO).is_dir():
        conversation.warn(f"'{DEMO}' is the embedded model; the folder here is './{DEMO}'.")
    for line in data.skipped:
        conversation.warn(f"left out: {line}")
    return PreparedRun(
        plan.resolve(config, model=loaded.name), plan, data, loaded, prepared.resolution, job, has_ridge_head
    )


def _write_end(prepared: PreparedRun, best: Best, summary: FinetuneResult, folder: RunFolder | None) -> None:
    if folder is None:
        return
    from vitctl.reporting.figures import draw_confusion, draw_curves

    draw_curves(folder.path / "metrics.jsonl", folder.path / "curves.png", baseline_top1=summary.baseline_top1)
    val, class_names = prepared.data.val, prepared.data.train.class_names
    if val is not None and best.logits is not None:
        write_logits(folder.path, KeptLogits(best.logits, val.labels, tuple(prepared.data.val_hashes), class_names))
        matrix = confusion(best.logits.argmax(axis=1), val.labels, num_classes=len(class_names))
        draw_confusion(matrix, class_names, folder.path / "confusion.png", title=prepared.data.val_called)
    folder.write_json(SUMMARY, summary.as_json())
