"""The figure shows every method, and its labels cover neither each other nor its edge."""

import itertools

import numpy as np
import pytest
from PIL import Image

from gen1_jax.errors import UserError
from gen1_jax.evaluation import trade_off

X, Y = "frame_consistency", "prompt_consistency"
GEN1 = {"temporal_scale": 1.0, "structure_level": 0, "guidance_scale": 7.5}


def make_records(rivals: int = 8, videos: int = 5, scale: float = 1.0) -> list[dict]:
    """Records of rivals with a curve over the strength, and of gen1 with arrows of this scale."""
    rng = np.random.default_rng(0)
    settings = [
        (GEN1, 0.96, 0.28),
        (GEN1 | {"temporal_scale": 0.0}, 0.96 - 0.09 * scale, 0.28 + 0.01 * scale),
        (GEN1 | {"temporal_scale": 0.5}, 0.96 - 0.04 * scale, 0.28 + 0.006 * scale),
        (GEN1 | {"temporal_scale": 1.5}, 0.96 + 0.01 * scale, 0.28 - 0.01 * scale),
        (GEN1 | {"structure_level": 7}, 0.96 - 0.004 * scale, 0.28 + 0.006 * scale),
        (GEN1 | {"structure_level": 7, "temporal_scale": 0.0}, 0.5, 0.5),  # two at once
    ]
    settings = [({"method": "gen1"} | setting, *place) for setting, *place in settings]
    for rival in range(rivals):
        x, y = 0.85 + 0.1 * (rival * 0.618 % 1), 0.25 + 0.03 * (rival * 0.382 % 1)
        for strength in (0.8, 0.2, 0.5):
            setting = {"method": f"a-rival-of-number-{rival}", "strength": strength}
            settings.append((setting, x - 0.05 * strength, y + 0.04 * strength))
    return [
        {"clip": str(clip), **setting, X: x + dx, Y: y + dy}
        for setting, x, y in settings
        for clip, (dx, dy) in enumerate(rng.normal(0, 0.003, (videos, 2)))
    ]


def covered(figure) -> list[tuple[str, str]]:
    """Pairs of labels that lie over each other, and labels that leave their panel."""
    renderer, found = figure.canvas.get_renderer(), []
    for panel in figure.axes:
        boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in panel.texts if t.get_text()]
        found += [(a, b) for (a, p), (b, q) in itertools.combinations(boxes, 2) if p.overlaps(q)]
        inside = panel.get_window_extent(renderer)
        found += [(text, "edge") for text, p in boxes if not inside.fully_containsx(p.x0)]
    return found


@pytest.mark.parametrize("rivals, scale", [(8, 1.0), (11, 0.05), (0, 1.0)])
def test_every_method_is_named_and_nothing_is_covered(rivals, scale):
    records = make_records(rivals, scale=scale)
    figure = trade_off.draw_trade_off(records, X, Y)
    assert covered(figure) == []
    texts = [text.get_text() for panel in figure.axes for text in panel.texts]
    assert {record["method"] for record in records} <= set(texts)
    tips = {"$\\omega_t$ = 0", "0.5", "$\\omega_t$ = 1.5", "$t_s$ = 7"}
    assert tips <= set(texts)
    assert len(figure.axes) == (2 if scale < 1 else 1)  # small arrows have a panel of their own


def test_curves_and_arrows_are_those_of_the_records():
    gen1, rival = trade_off.curves_of(make_records(1), X, Y)
    assert [spot.value for spot in rival.points] == [0.2, 0.5, 0.8] and not rival.arrows
    assert len(gen1.points) == 1 and gen1.base == GEN1 | {"strength": None}
    values = [(control, [spot.value for spot in chain[1:]]) for control, chain in gen1.arrows]
    assert values == [
        ("temporal_scale", [1.5]),
        ("temporal_scale", [0.5, 0.0]),
        ("structure_level", [7]),
    ]
    # the interval of an arrow's tip is that of the change
    records = make_records(1)
    for record in records:
        record[X] += int(record["clip"])
    (wide, *_), tip = trade_off.curves_of(records, X, Y), gen1.arrows[0][1][-1]
    assert (wide.points[0].high - wide.points[0].low)[0] > 1
    changed = wide.arrows[0][1][-1]
    assert np.allclose(changed.high - changed.low, tip.high - tip.low)


def test_what_cannot_be_shown(tmp_path):
    one = [r for r in make_records(0) if r["temporal_scale"] == 1 and not r["structure_level"]]
    assert trade_off.has_trade_off(make_records(1)) and not trade_off.has_trade_off(one)
    lacking = make_records(2, videos=1)  # no intervals
    for record in lacking[-3:]:
        del record[X]
    trade_off.plot_trade_off(lacking, tmp_path / "plots" / "t.png")
    assert Image.open(tmp_path / "plots" / "t.png").width == 1080
    (panel,) = trade_off.draw_trade_off(lacking, X, Y).axes
    assert "without these measures: a-rival-of-number-1" in panel.get_title("left")
    with pytest.raises(UserError, match="no method has both"):
        trade_off.plot_trade_off(lacking[-3:], tmp_path / "t.svg")
    with pytest.raises(UserError, match=r"\.png, \.svg, \.pdf"):
        trade_off.plot_trade_off(lacking, tmp_path / "t.gif")
