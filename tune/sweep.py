"""Sweep over settings: `python -m tune.sweep --help`. Every trial is a training run with some settings replaced."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from pipeline.command import Presets, clear_errors, fail, parse, preset_settings
from pipeline.progress import say
from pipeline.settings import Settings
from tune.spaces import SpaceName

if TYPE_CHECKING:
    from tune.plan import Sweep


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train one run for each point of a space on Ray Tune, as children of one MLflow run."""

    settings: Annotated[Settings, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff] = field(
        default_factory=Settings
    )
    preset: Presets = ()
    space: SpaceName = "stacks"
    """Settings that vary, each over values of its own; the ablations are the paper's: stacks at equal depth, and where supervision goes; losses: loss, target peak and start of the heads."""
    stacks: tuple[int, ...] = ()
    """Values of model.stacks; empty: the space's."""
    modules: tuple[int, ...] = ()
    """Values of model.modules; empty: the space's."""
    learning_rates: tuple[float, ...] = ()
    """Values of optim.learning_rate; empty: the space's."""
    dry_run: bool = False
    """Print the trials and what they cost; start nothing."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv, Arguments(settings=preset_settings(argv)))
    with clear_errors():
        given = {
            "model.stacks": arguments.stacks,
            "model.modules": arguments.modules,
            "optim.learning_rate": arguments.learning_rates,
        }
        from tune.plan import plan_sweep

        sweep = plan_sweep(arguments.settings, arguments.space, given)
        describe(sweep)
        if not arguments.dry_run:
            from tune.trials import run_sweep

            failures = run_sweep(sweep)
            if failures:
                fail(f"{failures} of {len(sweep.plans)} trials failed")


def describe(sweep: "Sweep") -> None:
    """Say which trials there are and what they cost."""
    from pipeline.network.cost import network_cost

    say(f"sweep {sweep.name}: {len(sweep.plans)} trials in {sweep.folder}")
    for plan in sweep.plans:
        settings, cost = plan.settings, network_cost(plan.settings.model)
        samples = plan.train.people * settings.optim.epochs
        say(
            f"  {settings.ray.name}: {cost.parameters:,} parameters, {cost.macs / 1e9:.2f} GMAC, "
            f"{samples * cost.training_flops / 1e15:.2f} PFLOP of training"
        )


if __name__ == "__main__":
    main()
