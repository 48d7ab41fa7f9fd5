"""The kinds of panel that the dashboards are made of, each with everything that it needs to be read."""

from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    loki,
    stat,
    statetimeline,
    table,
    tempo,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as shared
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.loki import QueryEditorMode
from grafana_foundation_sdk.models.tempo import MetricsQueryType

from dashboards.signals import Signal, Source
from dashboards.variables import LOKI, TEMPO

MOST_LINES = 5000
"""What Loki gives for one query."""

STEP = "1m"
"""The finest that panels over time show: finer, quantiles are of single calls."""

Panel = Builder[model.Panel]
Steps = Mapping[float | None, str]

NEUTRAL: Steps = {None: "text"}
BAD_ABOVE_ZERO: Steps = {None: "green", 1: "red"}


def thresholds(steps: Steps) -> Builder[model.ThresholdsConfig]:
    """Return colours by the value from which they hold."""
    return (
        dashboard.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value, color) for value, color in steps.items()])
    )


def lines(signal: Signal, ref: str = "A", most: int = MOST_LINES) -> Builder[Dataquery]:
    """Return the query for lines."""
    return _loki(signal, ref).query_type("range").max_lines(most)


def now(signal: Signal, ref: str = "A") -> Builder[Dataquery]:
    """Return the query for one number for all of the time, or one for each value of a label."""
    return _loki(signal, ref).query_type("instant")


def _over_time(signal: Signal, ref: str) -> Builder[Dataquery]:
    if signal.source is Source.LOKI:
        return _loki(signal, ref).query_type("range").legend_format(signal.name)
    return _tempo(signal, ref).metrics_query_type(MetricsQueryType.RANGE).step(STEP).exemplars(0)


def _loki(signal: Signal, ref: str) -> loki.Dataquery:
    return loki.Dataquery().ref_id(ref).datasource(LOKI).expr(signal.query).editor_mode(QueryEditorMode.CODE)


def _tempo(signal: Signal, ref: str) -> tempo.Dataquery:
    return tempo.Dataquery().ref_id(ref).datasource(TEMPO).query_type("traceql").query(signal.query)


def _refs(signals: Sequence[Signal]) -> Sequence[tuple[str, Signal]]:
    return [(chr(ord("A") + at), signal) for at, signal in enumerate(signals)]


def number(
    id_: int, signal: Signal, width: int, colors: Steps = NEUTRAL, *, empty: str = "0", last: bool = False
) -> Panel:
    """Return one number. `last` asks for the last value over time, where one number for all of it says less."""
    query = _over_time(signal, "A") if last else now(signal)
    panel = (
        stat.Panel()
        .id(id_)
        .title(signal.name)
        .description(signal.meaning)
        .datasource(LOKI)
        .span(width)
        .height(4)
        .with_target(query)
        .unit(signal.unit)
        .no_value(empty)
        .thresholds(thresholds(colors))
        .graph_mode(shared.BigValueGraphMode.NONE)
        .color_mode(shared.BigValueColorMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False))
    )
    return panel.interval(STEP) if last else panel


def over_time(
    id_: int, title: str, signals: Sequence[Signal], width: int = 12, *, stacked: bool = False, meaning: str = ""
) -> Panel:
    """Return lines over time, or stacked bars."""
    first = signals[0]
    panel = (
        timeseries.Panel()
        .id(id_)
        .title(title)
        .description(meaning or first.meaning)
        .datasource(LOKI if first.source is Source.LOKI else TEMPO)
        .span(width)
        .height(8)
        .interval(STEP)
        .unit(first.unit)
        .min(0)
        .no_value("-")
        .thresholds(thresholds({None: "green"}))
        .draw_style(shared.GraphDrawStyle.BARS if stacked else shared.GraphDrawStyle.LINE)
        .fill_opacity(70 if stacked else 8)
        .line_width(1)
        .show_points(shared.VisibilityMode.AUTO)
        .legend(
            common.VizLegendOptions()
            .display_mode(shared.LegendDisplayMode.LIST)
            .placement(shared.LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
            .calcs([])
        )
        .tooltip(common.VizTooltipOptions().mode(shared.TooltipDisplayMode.MULTI).sort(shared.SortOrder.DESCENDING))
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(shared.StackingMode.NORMAL).group("A"))
    for ref, signal in _refs(signals):
        panel = panel.with_target(_over_time(signal, ref))
    return panel


def heat(id_: int, title: str, signal: Signal, width: int = 12) -> Panel:
    """Return how many calls took how long over time; the query counts them in buckets."""
    return (
        heatmap.Panel()
        .id(id_)
        .title(title)
        .description(signal.meaning)
        .datasource(LOKI if signal.source is Source.LOKI else TEMPO)
        .span(width)
        .height(8)
        .interval(STEP)
        .with_target(_over_time(signal, "A"))
        .calculate(calculate=False)
        .rows_frame(heatmap.RowsHeatmapOptions().layout(shared.HeatmapCellLayout.LE))
        .y_axis(heatmap.YAxisConfig().unit(signal.unit).axis_placement(shared.AxisPlacement.LEFT))
        .cell_gap(1)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .steps(64)
            .fill("dark-orange")
            .exponent(0.5)
        )
        .show_legend()
    )


def presence(id_: int, signal: Signal, width: int = 24) -> Panel:
    """Return a bar for each series while it has a value."""
    return (
        statetimeline.Panel()
        .id(id_)
        .title("Heartbeats")
        .description(signal.meaning)
        .datasource(LOKI)
        .span(width)
        .height(5)
        .interval(STEP)
        .with_target(_over_time(signal, "A"))
        .unit(signal.unit)
        .no_value("none")
        .thresholds(thresholds({None: "red", 1: "green"}))
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .show_value(shared.VisibilityMode.NEVER)
        .merge_values(merge_values=True)
        .row_height(0.8)
    )


def rows(
    id_: int,
    signal: Signal,
    queries: Sequence[Builder[Dataquery]],
    transformations: Sequence[model.DataTransformerConfig],
    overrides: Mapping[str, Mapping[str, object]],
    *,
    height: int,
    width: int = 24,
    empty: str = "None",
    title: str = "",
) -> Panel:
    """Return a table. `overrides` has the properties of columns by their titles."""
    panel = (
        table.Panel()
        .id(id_)
        .title(title or signal.name)
        .description(signal.meaning)
        .datasource(LOKI)
        .span(width)
        .height(height)
        .no_value(empty)
        .thresholds(thresholds(NEUTRAL))
        .show_header(show_header=True)
        .cell_height(shared.TableCellHeight.SM)
        .inspect(inspect=True)
        .filterable(filterable=False)
    )
    for query in queries:
        panel = panel.with_target(query)
    for transformation in transformations:
        panel = panel.with_transformation(transformation)
    for column, properties in overrides.items():
        values = [model.DynamicConfigValue(id_val=key, value=value) for key, value in properties.items()]
        panel = panel.override_by_name(column, values)
    return panel


def by_label(
    id_: int,
    title: str,
    label: tuple[str, str],
    signals: Sequence[Signal],
    *,
    width: int,
    sort: str,
    colors: Mapping[str, Steps] | None = None,
) -> Panel:
    """Return a table with a row for each value of a label and a column for each signal; the highest `sort` is first.

    `colors` are those of the cells in a column.
    """
    name, heading = label
    values = {f"Value #{ref}": signal for ref, signal in _refs(signals)}
    if len(signals) == 1:
        values["Value"] = signals[0]
    titles = {name: heading, **{field: signal.name for field, signal in values.items()}}
    transformations = [
        model.DataTransformerConfig(id_val="merge", options={}),
        model.DataTransformerConfig(
            id_val="organize",
            options={
                "indexByName": {field: at for at, field in enumerate(titles)},
                "includeByName": dict.fromkeys(titles, True),
                "excludeByName": {},
                "renameByName": titles,
            },
        ),
        model.DataTransformerConfig(id_val="sortBy", options={"fields": {}, "sort": [{"field": sort, "desc": True}]}),
    ]
    overrides: dict[str, dict[str, object]] = {heading: {"custom.minWidth": 100}}
    overrides |= {signal.name: {"unit": signal.unit, "custom.width": 110 if width > 8 else 68} for signal in signals}
    for name, steps in (colors or {}).items():
        overrides[name] |= {
            "custom.cellOptions": {"type": "color-background", "mode": "basic"},
            "color": {"mode": "thresholds"},
            "thresholds": {
                "mode": "absolute",
                "steps": [{"color": color, "value": value} for value, color in steps.items()],
            },
        }
    whole = Signal(
        title, "", "none", f"{title}. Columns: " + "; ".join(f"{each.name}: {each.meaning}" for each in signals)
    )
    return rows(
        id_,
        whole,
        [now(signal, ref) for ref, signal in _refs(signals)],
        transformations,
        overrides,
        height=8,
        width=width,
    )


def trace(id_: int, signal: Signal) -> Panel:
    """Return the waterfall of one trace."""
    return (
        dashboard.Panel()
        .type("traces")
        .id(id_)
        .title(signal.name)
        .description(signal.meaning)
        .datasource(TEMPO)
        .span(24)
        .height(12)
        .with_target(_tempo(signal, "A").limit(20))
        .options({})
    )
