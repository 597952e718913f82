"""Pictures for people: bars as PNG, by matplotlib, which the extra ``plot`` brings."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.cli.terminal import shown
from tidemill.errors import ConfigError
from tidemill.harmless import harmless
from tidemill.schemas.loop.validation import BELIEFS
from tidemill.trainers.evaluation.metrics import METRIC_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tidemill.deploy.explain.explanation import Explanation
    from tidemill.trainers.evaluation.importance import ModelImportance

MOST = 15  # bars; the rest is one bar
_TEXT = 32  # letters of a value
_FOR, _AGAINST, _PLAIN = "#2b6cb0", "#c05621", "#2b6cb0"
_WIDTH_IN, _BAR_IN, _AROUND_IN, _DPI = 8.0, 0.32, 1.5, 150


def new_figure(bars: int, panels: int) -> "tuple[Figure, Sequence[Axes]]":
    """Return a figure with room for so many *bars* in each of its *panels*.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # no pyplot: it would look for a display
    except ImportError as error:
        raise ConfigError(
            "a picture needs matplotlib, which is not installed",
            hint="pip install 'tidemill[plot]', or leave out --png",
        ) from error
    size = (_WIDTH_IN + 3.0 * (panels - 1), _AROUND_IN + _BAR_IN * bars)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    return figure, list(axes)


def save(figure: "Figure", path: Path) -> None:
    """Write *figure* to *path* as PNG.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        figure.savefig(path, format="png", dpi=_DPI)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}", hint="name a file in a folder of yours"
        ) from error


def draw_explanation(found: "Explanation", path: Path) -> None:
    """Draw what each feature added to the score, of the action taken and of the runner-up.

    Raises:
        ConfigError: matplotlib is not installed, no model has scored, or *path* cannot be written.
    """
    if not found.scored:
        raise ConfigError(
            f"no model scored {found.logged.id}, so there is nothing to draw: {found.nothing_more}",
            hint="leave out --png",
        )
    logged, first = found.logged, found.scored[0]
    ordered = sorted(first.contributions, key=lambda name: -abs(first.contributions[name]))
    named, rest = ordered[:MOST], ordered[MOST:]
    figure, axes = new_figure(len(named) + bool(rest), len(found.scored))
    labels = [_labelled(name, [each.features for each in found.scored]) for name in named]
    is_odds = logged.loop.label.type == "bool" and logged.loop.policy.kind not in BELIEFS
    unit = "log-odds" if is_odds else "the label"
    for panel, parts in zip(axes, found.scored, strict=True):
        values = [parts.contributions[name] for name in named]
        if rest:
            values.append(math.fsum(parts.contributions[name] for name in rest))
        _bars(panel, values)
        which = "taken" if parts is first else "compared" if logged.items else "runner-up"
        action = "" if parts.action is None else f"{which}: {_cut(parts.action)}, "
        panel.set_title(
            f"{action}predicted {parts.score:.4g}\n{parts.base:+.3f} without any feature, "
            f"{parts.raw:+.3f} with all",
            fontsize=9,
            parse_math=False,
        )
        panel.set_xlabel(f"adds to {unit}", fontsize=9)
    ticks = [*labels, *([f"{len(rest)} others"] if rest else [])]
    axes[0].set_yticks(range(len(ticks)), ticks, fontsize=9, parse_math=False)
    answer = ", ".join(logged.answer.action) if isinstance(logged.answer.action, list) else None
    figure.suptitle(
        harmless(
            f"{logged.loop.loop}: the answer to {logged.id} was "
            f"{answer or shown(logged.answer.action)}, scored by {logged.answer.model_version}"
        ),
        fontsize=11,
        parse_math=False,
    )
    save(figure, path)


def draw_importance(found: "ModelImportance", path: Path) -> None:
    """Draw what each feature is worth to a model: by permutation, and by gain if it has splits.

    Raises:
        ConfigError: matplotlib is not installed, or *path* cannot be written.
    """
    named = found.features[:MOST]
    gains = [each.gain for each in named if each.gain is not None]
    figure, axes = new_figure(len(named), 2 if gains else 1)
    means = [each.mean for each in named]
    reach = [
        [each.mean - each.low for each in named],
        [each.high - each.mean for each in named],
    ]
    places = range(len(named))
    axes[0].barh(places, means, xerr=reach, color=_PLAIN, height=0.7, capsize=3, ecolor="#444444")
    metric = METRIC_NAMES[found.metric]
    axes[0].set_xlabel(f"{metric} grows by, if shuffled (least to most of {found.repeats})", size=9)
    if gains:
        axes[1].barh(places, [100 * gain for gain in gains], color=_AGAINST, height=0.7)
        axes[1].set_xlabel("% of the gain of all splits", size=9)
    for panel in axes:
        _style(panel)
    axes[0].set_yticks(places, [_cut(each.name) for each in named], fontsize=9, parse_math=False)
    figure.suptitle(
        f"{found.loop}: {found.version}, {metric} {found.loss:.4g} on {found.rows:,} later rows",
        fontsize=11,
    )
    save(figure, path)


def _bars(panel: "Axes", values: Sequence[float]) -> None:
    colors = [_FOR if value >= 0 else _AGAINST for value in values]
    drawn = panel.barh(range(len(values)), values, color=colors, height=0.7)
    panel.bar_label(drawn, fmt="%+.3f", padding=3, fontsize=8)
    panel.margins(x=0.18)
    _style(panel)


def _style(panel: "Axes") -> None:
    if not panel.yaxis_inverted():
        panel.invert_yaxis()  # the first bar on top; panels share the axis
    panel.axvline(0.0, color="#444444", linewidth=0.8)
    panel.grid(axis="x", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(axis="x", labelsize=8)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def _labelled(name: str, rows: Sequence[Mapping[str, object]]) -> str:
    """Return the name of a feature and its value in *rows*, or its values if they differ."""
    values = dict.fromkeys(_text(row[name]) for row in rows if name in row)
    if not values:
        return _cut(name)
    return f"{_cut(name)} = {_cut(' | '.join(values))}"


def _text(value: object) -> str:
    if isinstance(value, datetime):
        value = value.replace(microsecond=0)
    return ", ".join(map(str, value)) if isinstance(value, list) else shown(value)


def _cut(text: str) -> str:
    plain = harmless(text)
    return plain if len(plain) <= _TEXT else plain[: _TEXT - 1] + "…"
