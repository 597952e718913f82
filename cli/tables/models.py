"""The models of a loop."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from tidemill.cli.terminal import add_row, new_table, print_json, print_table, print_text, shown
from tidemill.monitor.convergence import Convergence
from tidemill.schemas.models.manifest import DEFAULT
from tidemill.trainers.evaluation.action_gate import REWARD
from tidemill.trainers.evaluation.metrics import METRIC_NAMES
from tidemill.trainers.registry import ModelVersion
from tidemill.trainers.rollout.evidence import Comparison
from tidemill.trainers.rollout.stages import HELD, StageChange, Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """A model in a stage: the *change* by which it came there, and what came of it since.

    Attributes:
        rows: its decisions there, of those that count for the stage.
        taken_up: what workers have acknowledged; None if Kafka was not asked.
    """

    change: StageChange
    rows: int
    taken_up: Convergence | None

    def to_json(self) -> dict[str, object]:
        """Return what `model list --json` says of the stage of a version."""
        found: dict[str, object] = {
            "stage": self.change.stage,
            "since": self.change.at.isoformat(),
            "who": self.change.who,
            "why": self.change.why,
            "rows": self.rows,
        }
        return found | ({} if self.taken_up is None else self.taken_up.to_json())


def print_models(
    loop: str,
    models: Sequence[ModelVersion],
    live: ModelVersion | None,
    *,
    as_json: bool,
    stages: Sequence[StageRow] = (),
    standing: Standing | None = None,
) -> None:
    """Print *models*: one in each row, then in one line each why it was promoted or not.

    With *as_json*, print one JSON line for each.
    """
    number = live.number if live else 0
    standing = standing or Standing()
    states = _states(models, number, standing)
    if as_json:
        of_stage = {each.change.version: each.to_json() for each in stages}
        for model in models:
            stage = of_stage.get(model.version, {"stage": states[model.number]})
            print_json(model_document(model) | {"live": model.number == number} | stage)
        return
    losses = ("loss", "of base rate", "of live")
    if any(REWARD in model.metrics for model in models):
        losses = ("reward", "of default", "of live")
    numbers = ("rows", "CPU s", *losses)
    table = new_table("version", "made", *numbers, "", numbers=numbers, title=f"models of {loop}")
    for model in models:
        add_row(
            table,
            model.version,
            f"{model.at:%Y-%m-%d %H:%M}",
            model.trained_on_rows,
            f"{model.cpu_s:.1f}",
            *_losses(model),
            states[model.number],
        )
    print_table(table)
    _print_stages(loop, stages, standing)
    for model in models:
        print_text(f"{model.version} {model.reason}")


def _states(models: Sequence[ModelVersion], live: int, standing: Standing) -> dict[int, str]:
    """Return what became of each model, in a word, by its number."""
    stages = {each.model: each.stage for each in standing.changes if each.stage != HELD}
    candidate = standing.candidate
    found = {}
    for model in models:
        state = "promoted" if model.promoted else "refused"
        if model.learner == DEFAULT:
            state = "took over"
        stage = stages.get(model.number)
        if stage == "stopped" or (candidate is not None and candidate.model == model.number):
            state = str(stage)
        found[model.number] = "live" if model.number == live else state
    return found


def _print_stages(loop: str, stages: Sequence[StageRow], standing: Standing) -> None:
    """Print which model is in which stage, and who holds it there."""
    if stages:
        numbers = ("decisions", "acknowledged")
        table = new_table(
            "stage", "version", "since", *numbers, "by", "why", numbers=numbers, title="stages"
        )
        for each in stages:
            taken, change = each.taken_up, each.change
            add_row(
                table,
                change.stage if change.share is None else f"{change.stage} {change.share:.0%}",
                change.version,
                f"{change.at:%Y-%m-%d %H:%M}",
                each.rows,
                None if taken is None else f"{taken.serving} of {taken.workers}",
                change.who,
                change.why,
            )
        print_table(table)
    if standing.is_pinned:
        last = [each for each in standing.changes if each.pinned][-1]
        what = "frozen" if standing.is_frozen else "pinned"
        print_text(f"{loop} is {what} since {last.at:%Y-%m-%d %H:%M} by {last.who}: {last.why}")


def print_beside_control(loop: str, found: Comparison | None) -> None:
    """Print whether the loop helped: what live decisions earned beside those of the control."""
    if found is None:
        return
    print_text(
        f"{loop}: a live decision earned {found.own.mean:.4f}, one of the control "
        f"{found.other.mean:.4f}: {found.gain.mean:+.4f} (between {found.gain.low:.4f} and "
        f"{found.gain.high:.4f}), on {found.own.rows:,} and {found.other.rows:,} decisions"
    )


def print_change(loop: str, change: StageChange) -> None:
    """Print what a person has changed."""
    if change.stage != HELD:
        decides = "the default" if change.version == DEFAULT else change.version
        print_text(f"{loop}: {decides} decides from now on (sequence {change.sequence})")
    holds = "frozen" if change.frozen else "pinned" if change.pinned else ""
    if change.stage == HELD or holds:
        print_text(f"{loop} is {holds or 'released: its trainer goes on'}")


def _losses(model: ModelVersion) -> list[str | None]:
    """Return what it was judged by: its loss or reward, that it had to beat, and the live model's.

    The rewards are those of SNIPS.
    """
    if REWARD in model.metrics:
        rewards = [model.metrics.get(f"{prefix}{REWARD}") for prefix in ("", "default_", "live_")]
        return [None if value is None else f"{value:.4g}" for value in rewards]
    metric = next((name for name in METRIC_NAMES if name in model.metrics), "")
    found = [model.metrics.get(f"{prefix}{metric}") for prefix in ("", "base_", "live_")]
    return [None if value is None else f"{value:.4g}" for value in found]


def print_model(model: ModelVersion, *, is_live: bool, as_json: bool) -> None:
    """Print the record of one model: its verdict, what it learned, and how it was judged."""
    document = model_document(model) | {"live": is_live}
    if as_json:
        print_json(document, indent=2)
        return
    print_text(f"{model.version} {'is live' if is_live else 'is not live'}: {model.reason}")
    for name, value in document.items():
        if name in ("version", "reason", "live") or value in ("", None):
            continue
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {shown(each)}" for key, each in value.items())
        print_text(f"  {name:<16} {value}")


def model_document(model: ModelVersion) -> dict[str, object]:
    """Return *model* as plain values for JSON, without its signature, which is long."""
    values = asdict(model)
    del values["features"]
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in values.items()
    }
