"""Charts: values where they belong on the axes, far ones told, content in words."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mednext_jax.report.charts import axis_end, distribution, region_bars, scatter, size_histogram

pytestmark = pytest.mark.core


def test_the_histogram_holds_every_cluster_once():
    volumes = [0.5] * 7 + [1.0] * 4 + [1.5, 3.0, 12.0, 40.0]
    svg = size_histogram(volumes, 0.5)
    counts = [int(n) for n in re.findall(r"mm³: (\d+)</title>", svg)]
    assert sum(counts) == len(volumes) and counts[0] == 7 and counts[1] == 4
    assert "Histogram of 15 clusters by volume: from 0.500 to 40.0 mm³, median 1.00" in svg
    assert size_histogram([2.0], 2.0).count('class="bar"') == 1


def test_bars_are_as_long_as_their_values():
    svg = region_bars([("white matter", "left", 40.0), ("white matter", "right", 20.0), ("thalamus", "", 0.0)], "PVS")
    widths = [float(w) for w in re.findall(r'class="bar[^"]*"[^>]*width="([\d.]+)"', svg)]
    assert widths[0] == pytest.approx(2 * widths[1], rel=1e-3) and widths[2] == 0
    assert svg.count('class="bar right"') == 1
    assert "white matter left 40; white matter right 20; thalamus 0" in svg


def test_a_far_value_does_not_squeeze_the_others():
    values = [*range(10, 30), 5000.0]
    assert axis_end(values) == 29 and axis_end(values[:-1]) == 29 and axis_end([1.0, 5000.0]) == 5000
    svg = distribution([("all", values)], "PVS")
    points = re.search(r'class="points" d="([^"]+)"', svg)[1]
    heights = [float(y) for y in re.findall(r"M\S+ ([\d.]+)h0", points)]
    assert len(heights) == 20 and max(heights) - min(heights) > 100
    assert svg.count('class="beyond"') == 1 and "Beyond the axis, as triangles at the top: 1." in svg


@pytest.mark.parametrize("count", [3, 500])
def test_every_scan_is_a_point_linked_if_there_are_few(count):
    x = np.arange(count, dtype=float)
    band = (x, 2 * x, 2 * x - 1, 2 * x + 1)
    links = [(f"./{i}.html", f"<{i}>") for i in range(count)]
    svg = scatter(list(x), list(2 * x), ("age", "PVS"), band, "PVS by age", links)
    assert svg.count("<a href=") == (count if count == 3 else 0)
    assert svg.count("<circle") + svg.count("h0") == count
    assert "<0>" not in svg and 'aria-label="PVS by age"' in svg


def test_equal_values_and_groups_of_one_are_drawn():
    assert "median 5.00" in distribution([("a", [5.0, 5.0]), ("b", [5.0])], "PVS", [(5, 5, 5), (5, 4, 6)])
    assert "none" not in distribution([("a", [0.0])], "PVS")
