"""Plots show every point, and are refused where there is nothing to show."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from gen1_jax.errors import UserError
from gen1_jax.evaluation import plots


def test_plot_is_drawn(tmp_path, sweep):
    plots.plot_trends(sweep(), tmp_path / "plots/t.png")
    image = np.asarray(Image.open(tmp_path / "plots/t.png").convert("RGB")).astype(int)
    assert image.shape[1] > image.shape[0] > 500
    coloured = (image.max(-1) - image.min(-1) > 60).mean(axis=0)
    middle = len(coloured) // 2
    assert coloured[:middle].sum() > 1 and coloured[middle:].sum() > 1  # both panels have curves
    assert [p.name for p in (tmp_path / "plots").iterdir()] == ["t.png"]
    plots.plot_trends(sweep(1), tmp_path / "t.svg")  # one clip: no error bars


def test_plot_refuses(tmp_path, sweep):
    with pytest.raises(UserError, match="two values"):
        plots.plot_trends(
            [r for r in sweep() if r["temporal_scale"] == 1 and r["structure_level"] == 0],
            tmp_path / "t.png",
        )
    with pytest.raises(UserError, match="no record holds flicker"):
        plots.plot_trends(sweep(), tmp_path / "t.png", x="flicker")
    with pytest.raises(UserError, match=r"\.png, \.svg, \.pdf"):
        plots.plot_trends(sweep(), tmp_path / "t.gif")


def test_importing_leaves_matplotlib_alone():
    code = "import sys, gen1_jax.evaluation.report; print('matplotlib' in sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "False"
