"""Sweep over settings: `python -m tune.sweep --help`.

Every trial is a training run with some settings replaced.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.cluster.address import check_answer
from pipeline.io.console import amount, say, say_text
from pipeline.io.interruption import status
from pipeline.settings.cli import TrainingArguments, clear_errors, fail, given_settings, parse
from pipeline.tracking.reuse import settings_of_config
from tune.settings import Budget, EarlySettings, SearchSettings

if TYPE_CHECKING:
    from tune.outcome import SweepOutcome
    from tune.plan import Sweep


@dataclass(frozen=True, kw_only=True)
class Arguments(TrainingArguments):
    """Train runs that differ in some settings on Ray Tune, and report which is best.

    The trials are children of one MLflow run. The same command resumes a sweep
    that was killed or stopped.
    """

    space: str = "stacks"
    """Settings that vary, each with its values: stacks, stacks-modules, stacks-learning-rate,
    capacity (stacks, modules and features), ablation-stacks and ablation-supervision (the paper's:
    stacks at equal depth, and placement of supervision), losses (loss, target peak and start of
    the heads), or a TOML file."""
    vary: tuple[str, ...] = ()
    """Further settings, or other values for those of the space: model.features=64,128
    optim.sigma_px=1,1.75."""
    stacks: tuple[int, ...] = ()
    """Values of model.stacks; empty: the space's."""
    modules: tuple[int, ...] = ()
    """Values of model.modules; empty: the space's."""
    learning_rates: tuple[float, ...] = ()
    """Values of optim.learning_rate; empty: the space's."""
    search: SearchSettings = field(default_factory=SearchSettings)
    early: EarlySettings = field(default_factory=EarlySettings)
    budget: Budget = field(default_factory=Budget)
    from_one: bool = False
    """Train the largest number of stacks alone, and cut its network to the others, where trials
    differ in model.stacks alone: all of them for the cost of the largest."""
    dry_run: bool = False
    """Print the trials and their cost; start nothing."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(
        Arguments, None, argv, Arguments(settings=given_settings(argv, settings_of_config))
    )
    with clear_errors("the same command resumes the sweep"):
        arguments.save()
        sweep = planned(arguments)
        if not arguments.dry_run:
            _run(sweep)


def planned(arguments: Arguments) -> "Sweep":
    """Check settings and data, print the trials, and return the plan. Raises ValueError.

    Raises ConnectionError if the cluster that is named does not answer.
    """
    if not arguments.dry_run:
        check_answer(arguments.settings.ray.address)
    sweep = _plan(arguments)
    describe(sweep)
    return sweep


def _plan(arguments: Arguments) -> "Sweep":
    from pipeline.tracking.lookup import with_start
    from tune.plan import plan_sweep
    from tune.spaces import given_values, space_of

    given = {
        "model.stacks": arguments.stacks,
        "model.modules": arguments.modules,
        "optim.learning_rate": arguments.learning_rates,
    }
    for key, values in given_values(arguments.vary).items():
        if given.get(key):
            raise ValueError(f"--vary {key} and its own option both give values")
        given[key] = values
    space = space_of(arguments.space, given)
    settings = with_start(arguments.settings)
    searched = arguments.search, arguments.early, arguments.budget
    return plan_sweep(settings, space, *searched, from_one=arguments.from_one)


def _run(sweep: "Sweep") -> None:
    from pipeline.run.ownership import SupersededError
    from pipeline.tracking.recording import InterruptedRunError

    try:
        outcome = run_to_end(sweep)
    except SupersededError as error:
        fail(str(error))
    except InterruptedRunError as stopped:
        fail(f"sweep {sweep.name} {stopped}", status())
    failures = sum(trial.status == "failed" for trial in outcome.trials)
    if failures:
        fail(f"{failures} of {len(outcome.trials)} trials failed")


def run_to_end(sweep: "Sweep") -> "SweepOutcome":
    """Run the trials, print the leaderboard and where to look. Raises as `run_sweep`."""
    from pipeline.run.storage import shown
    from pipeline.tracking.links import (
        comparison_page,
        how_to_open,
        recorded_runs,
        shown_folder,
    )
    from tune.report.command import best_command
    from tune.report.leaderboard import ranked
    from tune.report.table import leaderboard_text
    from tune.runner import run_sweep

    outcome = run_sweep(sweep)
    say_text(f"\n{leaderboard_text(outcome)}\n")
    command = best_command(outcome)
    if command:
        say_text(f"best settings:\n  {command}\n")
    say(f"report: {shown(sweep.folder / 'report.html')}")
    say(f"MLflow run {sweep.name} in experiment {sweep.base.tracking.experiment}; to compare:")
    trials = recorded_runs([sweep.folder / trial.name for trial in ranked(outcome)])
    page = comparison_page(trials) if trials else ""
    say(f"  {how_to_open(sweep.base.tracking.uri, page, [shown_folder(sweep.folder)])}")
    return outcome


def describe(sweep: "Sweep") -> None:
    """Print the trials, how they are searched, and their maximum cost."""
    from pipeline.model.cost import network_cost
    from pipeline.run.storage import shown
    from tune.plan import samples_of
    from tune.spaces import trial_name

    say(f"sweep {sweep.name}: {sweep.trials} trials in {shown(sweep.folder)}, {sweep.how}")
    if not sweep.is_grid:
        say(f"  drawn from {_axes(sweep)}; at the ends of the space:")
    flops = []
    for plan in sweep.plans:
        settings, cost = plan.settings, network_cost(plan.settings.model)
        samples = samples_of(plan, settings.optim.epochs)
        flops.append(samples * cost.training_flops / 1e15)
        say(
            f"  {settings.ray.name}: {cost.parameters:,} parameters, "
            f"{amount(cost.macs / 1e9)} GMAC, {samples:,} samples, "
            f"{amount(flops[-1])} PFLOP of training"
        )
    for cut in sweep.cuts:
        cost = network_cost(sweep.base.replaced(cut.point).model)
        say(
            f"  {trial_name(cut.point)}: {cost.parameters:,} parameters, "
            f"{amount(cost.macs / 1e9)} GMAC, cut from {trial_name(cut.whole)}"
        )
    starts = [plan.start.lines for plan in sweep.plans if plan.start and not plan.resumes]
    for line in dict.fromkeys(line for lines in starts for line in lines):
        say(f"  start: {line}")
    most = sum(flops) if sweep.is_grid else sweep.trials * max(flops)
    say(f"  at most {sweep.trials * sweep.samples:,} samples and {amount(most)} PFLOP")


def _axes(sweep: "Sweep") -> str:
    from tune.spaces import Range

    return ", ".join(
        f"{key} {values}" + " (logarithmic)" * values.log
        if isinstance(values, Range)
        else f"{key} {', '.join(map(str, values))}"
        for key, values in sweep.space.axes.items()
    )


if __name__ == "__main__":
    main()
